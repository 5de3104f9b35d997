"""Replays of measured cases, and the figures of them that were measured."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hardware.errors import ServesimError, TraceError
from simulator.build import build_pools
from simulator.requests import build_requests, trace_requests
from simulator.run import fabric_of, simulated
from workloads.table import Arrivals, Prefixes
from workloads.traces import read_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.case_scenario import Replay
    from simulator.cases import Case
    from simulator.finished import Finished
    from simulator.journal import Journal, Summary
    from simulator.requests import Requests

__all__ = ["ALL", "figures", "part_of", "replayed", "run_replay"]

ALL: Final = "all"
"""The part of a run that is all of it; others are ``stage0`` and so on."""
_PAUSE_NS: Final = 600 * 10**9


def part_of(case: Case) -> str:
    """Return the part of a run that a case is about: ``all`` of it, or ``stage0`` and so on."""
    return ALL if case.stage is None else f"stage{case.stage}"


def run_replay(key: str, replay: Replay, journal: Journal) -> Summary:
    """Run a replay and keep its figures by part of the run, or why it cannot be run."""
    try:
        found: Summary = {"figures": replayed(replay)}
    except ServesimError as error:
        found = {"skipped": " ".join(str(error).split())}
    journal.store(key, found)
    return found


def replayed(replay: Replay) -> dict[str, dict[str, float]]:
    """Run a replay and return its figures by part of the run.

    Raises
    ------
    UserError
        If it cannot be run, or not every request completes.
    """
    requests, parts = _requests(replay)
    pools = build_pools(replay.scenario)
    run = simulated(replay.scenario, requests, pools, fabric_of(replay.scenario, pools))
    completed = run.times.completed
    lost = int((~completed).sum())
    if lost:
        raise TraceError(
            f"{lost} of {len(completed)} requests were refused or failed, mostly for want of room: prompts longer than "
            "a step, or sequences longer than the KV cache"
        )
    return {name: figures(run, which) for name, which in parts.items()}


def _requests(replay: Replay) -> tuple[Requests, dict[str, NDArray[np.bool_]]]:
    """Return what is sent, and which requests belong to each part."""
    trace = replay.scenario.workload.trace
    if trace is None:
        requests = build_requests(replay.scenario)
        return requests, {ALL: np.ones(len(requests.prompt_tokens), bool)}
    arrivals, stages = read_trace(trace, "csv"), _stages(Path(trace))
    parts = {ALL: np.ones(len(arrivals), bool)} | {f"stage{n}": stages == n for n in np.unique(stages[stages >= 0])}
    if replay.sent_before:
        arrivals = _sent_twice(arrivals)
        parts = {name: np.concatenate([np.zeros_like(which), which]) for name, which in parts.items()}
    return trace_requests(replay.scenario, arrivals), parts


def _stages(path: Path) -> NDArray[np.int64]:
    """Return the stage of each request of a file, -1 where it names none."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return np.array([int(row.get("stage") or -1) for row in csv.DictReader(text.splitlines())], np.int64)


def _sent_twice(arrivals: Arrivals) -> Arrivals:
    """Return requests whose prompts were all sent once before, ten minutes earlier."""
    size = len(arrivals)
    later_ns = arrivals.arrival_ns + arrivals.arrival_ns[-1] + _PAUSE_NS
    prompts = np.tile(arrivals.prompt_tokens, 2)
    return Arrivals(
        np.concatenate([arrivals.arrival_ns, later_ns]),
        prompts,
        np.tile(arrivals.output_tokens, 2),
        arrivals.source,
        prefixes=Prefixes(np.arange(2 * size + 1), np.tile(np.arange(size), 2), prompts),
    )


def figures(run: Finished, which: NDArray[np.bool_]) -> dict[str, float]:
    """Return the figures of some requests of a run by metric of :data:`simulator.cases.METRICS`.

    Parameters
    ----------
    run
        The run.
    which
        The requests that count, bool of shape (requests,). Gaps between tokens are told for all of them only.
    """
    times, ledger = run.times, run.cluster.ledger
    found: dict[str, float] = {}
    for name, values in (("ttft", times.ttft_ms), ("tpot", times.tpot_ms), ("e2e", times.e2e_ms)):
        counted = values[which & ~np.isnan(values)]
        if counted.size:
            found[f"{name}_mean"] = float(counted.mean())
            found |= {f"{name}_p{q}": float(np.percentile(counted, q)) for q in (50, 90, 99)}
    if which.all():
        gaps = run.gaps
        found |= {"itl_mean": gaps.mean_ms()} | {f"itl_p{q}": gaps.percentile_ms(q) for q in (50, 90, 99)}
    return found | _rates(ledger, which)


def _rates(ledger: Any, which: NDArray[np.bool_]) -> dict[str, float]:  # noqa: ANN401 - a Ledger, see records
    """Return throughput from the first request sent to the last token."""
    columns = ("arrival_ns", "finish_ns", "prompt_tokens", "output_tokens")
    sent, ended, prompt, output = (ledger.column(name)[which] for name in columns)
    seconds = (int(ended.max()) - int(sent.min())) / 1e9
    totals = {"output_tok_s": output.sum(), "total_tok_s": output.sum() + prompt.sum(), "req_s": which.sum()}
    return {name: float(total / seconds) for name, total in totals.items()} if seconds > 0 else {}
