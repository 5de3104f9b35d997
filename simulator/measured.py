"""Measured runs of a server, and the figures of them that a simulation is held against."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hardware.errors import CaseError, TraceError
from simulator.build import build_pools
from simulator.case_scenario import case_replay
from simulator.replay import part_of, replayed
from simulator.requests import build_requests
from simulator.run import fabric_of, simulated
from simulator.scenario import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from simulator.calibration import Calibration
    from simulator.case_scenario import Replay
    from simulator.cases import Case
    from simulator.launch_rules import LaunchRules
    from simulator.requests import Requests
    from simulator.scenario import Scenario

__all__ = ["MeasuredCases", "MeasuredRun", "calibrated", "measured_cases", "read_measured"]

#: Groups of requests whose mean latencies are compared, and the fewest requests of one.
_GROUPS: Final = 8
_FEWEST: Final = 10

#: What of a case is fitted: the far tail is noise, and the rest follows from these.
_FITTED: Final = tuple(f"{name}_{kind}" for name in ("ttft", "tpot") for kind in ("mean", "p50", "p90"))


@dataclass(frozen=True)
class MeasuredRun:
    """Requests that were sent to a server, how long each took, and the scenario that is to take as long.

    Attributes
    ----------
    name
        What it is called in reports: its file.
    scenario
        The server, with these requests as its workload.
    ttft_ms, tpot_ms
        What was measured, by request in the order sent; NaN where nothing was.
    """

    name: str
    scenario: Scenario
    ttft_ms: NDArray[np.float64]
    tpot_ms: NDArray[np.float64]

    @cached_property
    def requests(self) -> Requests:
        """The requests as they were sent."""
        return build_requests(self.scenario)

    @cached_property
    def figures(self) -> dict[str, float]:
        """Mean latencies of groups of requests, ms, as measured."""
        return self._means(self.ttft_ms, self.tpot_ms)

    def predicted(self, calibration: Calibration) -> dict[str, float]:
        """Return the same figures as simulated, every pool under a calibration.

        Raises
        ------
        TraceError
            If not every request completes.
        """
        scenario = calibrated(self.scenario, calibration)
        pools = build_pools(scenario)
        times = simulated(scenario, self.requests, pools, fabric_of(scenario, pools)).times
        lost = int((~times.completed).sum())
        if lost:
            raise TraceError(
                f"{self.name}: {lost} of {len(times.completed)} requests do not complete in the simulation, expected "
                "all to; check max_model_len and the KV cache of the scenario"
            )
        return self._means(times.ttft_ms, times.tpot_ms)

    def _means(self, ttft_ms: NDArray[np.float64], tpot_ms: NDArray[np.float64]) -> dict[str, float]:
        """Return TTFT by length of the prompt, and TPOT by when a request was sent, of what was measured."""
        known = ~np.isnan(self.ttft_ms)
        by_length = np.flatnonzero(known)[np.argsort(self.requests.prompt_tokens[known], kind="stable")]
        sent = np.flatnonzero(~np.isnan(self.tpot_ms))
        return _by_group("ttft", ttft_ms, by_length) | _by_group("tpot", tpot_ms, sent)


@dataclass(frozen=True)
class MeasuredCases:
    """Cases of a ``validate`` file that are about one run.

    Attributes
    ----------
    cases
        What was measured of it.
    replay
        The run, as it was launched.
    """

    cases: tuple[Case, ...]
    replay: Replay

    @property
    def name(self) -> str:
        """The id of the first case."""
        return self.cases[0].case_id

    @property
    def scenario(self) -> Scenario:
        """The server, with the requests of the run."""
        return self.replay.scenario

    @property
    def figures(self) -> dict[str, float]:
        """Means and percentiles of TTFT and TPOT, ms, as measured, by metric and case."""
        return {f"{metric} {case.case_id}": case.measured[metric] for case, metric in self._pairs}

    @property
    def _pairs(self) -> list[tuple[Case, str]]:
        return [(case, metric) for case in self.cases for metric in _FITTED if metric in case.measured]

    def predicted(self, calibration: Calibration) -> dict[str, float]:
        """Return the same figures as simulated, every pool under a calibration.

        Raises
        ------
        UserError
            If the run cannot be simulated, or has no such part as a case is about.
        """
        found = replayed(replace(self.replay, scenario=calibrated(self.scenario, calibration)))
        for case in self.cases:
            if part_of(case) not in found:
                raise CaseError(f"{case.where}: the recorded requests name no {part_of(case)}")
        return {f"{metric} {case.case_id}": found[part_of(case)][metric] for case, metric in self._pairs}


def _by_group(name: str, values_ms: NDArray[np.float64], order: NDArray[np.int64]) -> dict[str, float]:
    groups = np.array_split(order, min(_GROUPS, max(1, len(order) // _FEWEST))) if len(order) else []
    return {f"{name}{number}": float(values_ms[group].mean()) for number, group in enumerate(groups)}


def calibrated(scenario: Scenario, calibration: Calibration) -> Scenario:
    """Return a scenario all of whose pools are under a calibration."""
    pools = tuple(pool.model_copy(update={"calibration": calibration}) for pool in scenario.pool)
    return scenario.model_copy(update={"pool": pools})


def measured_cases(cases: Sequence[Case], rules: LaunchRules) -> list[MeasuredCases]:
    """Return the runs that cases are about.

    Raises
    ------
    UserError
        If a case cannot be replayed.
    CaseError
        If a run has nothing that is fitted.
    """
    runs: dict[str, MeasuredCases] = {}
    for case in cases:
        replay = case_replay(case, rules)
        before = runs[replay.key].cases if replay.key in runs else ()
        runs[replay.key] = MeasuredCases((*before, case), replay)
    for run in runs.values():
        if not run.figures:
            raise CaseError(f"{run.cases[0].where}: nothing to fit, expected one of {', '.join(_FITTED)} in ms")
    return list(runs.values())


def read_measured(file: str | Path, scenario: Scenario) -> MeasuredRun:
    """Read the result of ``vllm bench serve --save-detailed``.

    Parameters
    ----------
    file
        The result.
    scenario
        The server it was measured on; its own workload does not matter.

    Raises
    ------
    TraceError
        If the file cannot be read, or latencies of single requests are not in it.
    """
    path = Path(file)
    columns = _columns(path)
    try:
        # As the trace reader takes them: in the order sent, not in the order created.
        order = np.argsort(np.array(columns["start_times"], float), kind="stable")
        ttft_ms = np.array(columns["ttfts"], float)[order] * 1e3
        decode_ms = np.array([math.fsum(gaps) * 1e3 for gaps in columns["itls"]])[order]
        later_tokens = np.array(columns["output_lens"], float)[order] - 1
    except (TypeError, ValueError) as error:
        raise TraceError(f"{path}: a latency is no number ({error}), expected seconds in ttfts and itls") from error
    tpot_ms = decode_ms / np.maximum(later_tokens, 1)
    tpot_ms[(later_tokens < 1) | ~(tpot_ms > 0)] = np.nan
    ttft_ms[~(ttft_ms > 0)] = np.nan
    if np.isnan(ttft_ms).all():
        raise TraceError(f"{path}: no request has a time to its first token, expected ttfts above 0")
    workload = Workload(trace=str(path), format="vllm")
    return MeasuredRun(str(file), scenario.model_copy(update={"workload": workload}), ttft_ms, tpot_ms)


def _columns(path: Path) -> dict[str, Sequence[Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}), expected a result of vllm bench serve") from error
    except ValueError as error:
        raise TraceError(
            f"{path}: not JSON ({error}), expected a result of vllm bench serve --save-detailed"
        ) from error
    names = ("start_times", "output_lens", "ttfts", "itls")
    for name in names:
        if not isinstance(found, dict) or not isinstance(found.get(name), list) or not found[name]:
            raise TraceError(
                f"{path}: has no list {name!r}, expected the latencies of every request as vllm bench serve writes "
                "them with --save-detailed"
            )
    if len({len(found[name]) for name in names}) > 1:
        lengths = ", ".join(f"{len(found[name])} {name}" for name in names)
        raise TraceError(f"{path}: found {lengths}, expected one of each per request")
    return {name: found[name] for name in names}
