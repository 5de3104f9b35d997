"""A load curve: the same deployment under one load after another, and the highest load that keeps the SLO."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from hashlib import sha256
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from simulator.candidates import same_traffic
from simulator.journal import Point, Summary
from simulator.loads import LoadKind, load_kind, loader
from simulator.made_by import versions
from simulator.measures import BUSIEST_LINK, means, point_row, slo_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulator.candidates import Case
    from simulator.scenario import Scenario

__all__ = ["Capacity", "Load", "Sweep", "find_capacity", "sweep", "sweep_all", "sweeps_content"]

#: How close below the first load that misses the SLO the capacity is found.
_TOLERANCE: Final = Decimal("0.02")
_SHOWN: Final = (
    *("slo_attainment", "request_goodput", "p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "p99_tpot_ms", "p99_e2el_ms"),
    *("request_throughput", "output_throughput", "utilisation", "goodput_per_chip", "cost_per_million_output_tokens"),
    *BUSIEST_LINK,
)


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one load.

    Attributes
    ----------
    load
        Requests per second, or users.
    refined
        Whether it is between two loads of the grid.
    rows
        One row per seed.
    """

    load: Decimal
    refined: bool
    rows: Sequence[Mapping[str, Any]]

    @property
    def attainment(self) -> float:
        """Mean share of requests that meet the SLO, over the seeds."""
        return means(self.rows, ("slo_attainment",))["slo_attainment"] or 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest load that keeps the SLO.

    Attributes
    ----------
    load
        The end of the first stretch of loads that keep it; None if every load misses it.
    missed_at
        The lowest load above that was found to miss it; None if none was.
    regained
        Whether a load above one that misses it keeps it again: too few requests or seeds to be sure.
    """

    load: Decimal | None
    missed_at: Decimal | None
    regained: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """A load curve.

    Attributes
    ----------
    scenario
        What was put under load.
    seeds
        Seeds of every load.
    loads
        From the lowest load to the highest.
    """

    scenario: Scenario
    seeds: tuple[int, ...]
    loads: tuple[Load, ...]

    @property
    def capacity(self) -> Capacity:
        """The highest load that keeps the SLO."""
        return find_capacity(self.loads, self.scenario.slo.attainment)

    def content(self) -> dict[str, Any]:
        """Return the content of ``sweep.json``."""
        scenario, capacity, kind = self.scenario, self.capacity, load_kind(self.scenario)
        dump = scenario.model_dump(mode="json")
        return {
            "servesim": "sweep",
            "name": scenario.name,
            "model": scenario.model.name,
            "chips": self.loads[0].rows[0]["chips"],
            "kind": kind,
            "slo_ms": slo_ms(scenario.slo),
            "attainment": scenario.slo.attainment,
            "seeds": list(self.seeds),
            "capacity": None if capacity.load is None else float(capacity.load),
            "missed_at": None if capacity.missed_at is None else float(capacity.missed_at),
            "regained": capacity.regained,
            "loads": [{kind: float(load.load)} | _load_content(load, scenario.slo.attainment) for load in self.loads],
            "scenario": dump,
            "scenario_sha256": sha256(json.dumps(dump).encode()).hexdigest(),
            "versions": versions(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per load and seed, the columns of ``sweep.parquet``."""
        return [
            {load_kind(self.scenario): float(load.load), "seed": seed, "refined": load.refined} | dict(row)
            for load in self.loads
            for seed, row in zip(self.seeds, load.rows, strict=True)
        ]


def sweeps_content(title: str, cases: Sequence[Case], sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """Return the content of the ``sweep.json`` of several candidates: that of each alone, and what they share."""
    first = sweeps[0].content()
    shared = {key: first[key] for key in ("kind", "slo_ms", "attainment", "seeds")}
    return {
        "servesim": "sweep",
        "name": title,
        **shared,
        "same_workload": same_traffic(cases),
        "candidates": [
            sweep.content() | {"name": case.name, "set": dict(case.changes)}
            for case, sweep in zip(cases, sweeps, strict=True)
        ],
        "versions": versions(),
    }


def _load_content(load: Load, target: float) -> dict[str, Any]:
    attained = [row["slo_attainment"] for row in load.rows]
    return {
        "refined": load.refined,
        "meets_slo": load.attainment >= target,
        "lowest_attainment": min(attained),
        "highest_attainment": max(attained),
        "mean": means(load.rows, _SHOWN),
    }


def sweep(
    scenario: Scenario,
    grid: Sequence[Decimal],
    seeds: Sequence[int],
    run: Callable[[Sequence[Point]], list[Summary]],
    *,
    refine: bool = True,
) -> Sweep:
    """Run a scenario under every load of a grid, and bisect between the last that keeps the SLO and the next.

    Under one seed all loads have the same requests, and arrivals in the same pattern, closer or further apart.

    Parameters
    ----------
    scenario
        The deployment and the traffic; its workload says what a load is.
    grid
        Loads, rising; see :func:`simulator.loads.check_loads`.
    seeds
        One or more.
    run
        Makes runs, such as :func:`simulator.parallel.run_points` with its journal.
    refine
        Narrow the capacity down to 2 % (or to one user).

    Raises
    ------
    UserError
        If the scenario asks for something impossible.
    """
    return sweep_all([scenario], grid, seeds, run, refine=refine)[0]


def sweep_all(
    scenarios: Sequence[Scenario],
    grid: Sequence[Decimal],
    seeds: Sequence[int],
    run: Callable[[Sequence[Point]], list[Summary]],
    *,
    refine: bool = True,
) -> tuple[Sweep, ...]:
    """As :func:`sweep`, for several scenarios of one kind of load side by side: all that can run at once does."""
    curves = [_Curve(scenario, seeds, among_others=len(scenarios) > 1) for scenario in scenarios]
    wanted = [(curve, load) for curve in curves for load in grid]
    refined = False
    while wanted:
        rows = iter([point_row(summary) for summary in run([p for curve, load in wanted for p in curve.points(load)])])
        for curve, load in wanted:
            curve.loads.append(Load(load, refined, [next(rows) for _ in seeds]))
        for curve in curves:
            curve.loads.sort(key=attrgetter("load"))
        wanted = [(curve, middle) for curve in curves if refine and (middle := curve.next_load()) is not None]
        refined = True
    return tuple(Sweep(curve.scenario, tuple(seeds), tuple(curve.loads)) for curve in curves)


class _Curve:
    """A load curve in the making."""

    def __init__(self, scenario: Scenario, seeds: Sequence[int], *, among_others: bool) -> None:
        self.scenario, self.kind = scenario, load_kind(scenario)
        self.loads: list[Load] = []
        self._label = f"candidate {scenario.name!r}, {self.kind}" if among_others else self.kind
        self._put = [loader(scenario.model_copy(update={"seed": seed})) for seed in seeds]

    def points(self, load: Decimal) -> list[Point]:
        """Return the runs of a load, one per seed."""
        return [Point(under(load), f"{self._label} {load}") for under in self._put]

    def next_load(self) -> Decimal | None:
        """Return the load to try next, None when the capacity is known well enough."""
        return _between(find_capacity(self.loads, self.scenario.slo.attainment), self.kind)


def find_capacity(loads: Sequence[Load], target: float) -> Capacity:
    """Return the end of the first stretch of loads that keep the SLO.

    Parameters
    ----------
    loads
        From the lowest to the highest.
    target
        The attainment asked for.
    """
    keeps = [load.attainment >= target for load in loads]
    regained = any(later and not earlier for earlier, later in pairwise(keeps))
    if True not in keeps:
        return Capacity(None, loads[0].load, regained)
    end = next((i for i in range(keeps.index(True), len(keeps)) if not keeps[i]), len(keeps))
    return Capacity(loads[end - 1].load, loads[end].load if end < len(loads) else None, regained)


def _between(capacity: Capacity, kind: LoadKind) -> Decimal | None:
    """Return the load to try next, of four digits or a whole number of users; None when close enough."""
    low, high = capacity.load, capacity.missed_at
    if low is None or high is None or (high - low) <= _TOLERANCE * low:
        return None
    middle = (low + high) / 2
    last_digit = Decimal(1) if kind == "concurrency" else Decimal(1).scaleb(middle.adjusted() - 3)
    middle = middle.quantize(last_digit, ROUND_FLOOR)
    return middle if low < middle < high else None
