"""Candidates side by side: the same arrivals for all, and differences with confidence intervals over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.intervals import paired_interval
from simulator.journal import Point, Summary
from simulator.loads import workload_kind
from simulator.made_by import versions
from simulator.measures import BUSIEST_LINK, MEASURES, means, point_row, slo_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulator.candidates import Case
    from simulator.scenario import Scenario

__all__ = ["Comparison", "case_points", "compare", "default_seeds"]

_KEYS = tuple(measure.key for measure in MEASURES)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of a comparison.

    Attributes
    ----------
    content
        The content of ``compare.json``.
    rows
        One row per candidate and seed, candidate by candidate: the columns of ``points.parquet``.
    """

    content: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def meets_slo(self) -> bool:
        """Whether a candidate reaches the attainment asked for."""
        return any(candidate["meets_slo"] for candidate in self.content["candidates"])


def default_seeds(scenario: Scenario) -> int:
    """Return how many seeds a comparison takes unless told: one for a trace, whose requests are always the same."""
    return 1 if workload_kind(scenario) == "trace" else 5


def compare(
    title: str, cases: Sequence[Case], seeds: Sequence[int], run: Callable[[Sequence[Point]], list[Summary]]
) -> Comparison:
    """Run candidates under the same seeds and compare them with the first.

    Under one seed every candidate draws the same arrivals and lengths (common random numbers), so that what differs
    is the deployments: the interval is that of the differences, pair by pair.

    Parameters
    ----------
    title
        Name of the comparison.
    cases
        The candidates.
    seeds
        One or more.
    run
        Makes runs, such as :func:`simulator.parallel.run_points` with its journal.

    Raises
    ------
    UserError
        If a candidate asks for something impossible.
    """
    points = case_points(cases, seeds)
    found = dict(zip(points, run(list(points.values())), strict=True))
    rows = {case.name: [point_row(found[case.name, seed]) for seed in seeds] for case in cases}
    first = cases[0]
    candidates = [
        _candidate(case, found[case.name, seeds[0]], rows[case.name], rows[first.name], first) for case in cases
    ]
    content = {
        "servesim": "compare",
        "name": title,
        "workload": workload_kind(first.scenario),
        "same_workload": all(case.scenario.workload == first.scenario.workload for case in cases),
        "seeds": list(seeds),
        "slo_ms": slo_ms(first.scenario.slo),
        "attainment": first.scenario.slo.attainment,
        "baseline": first.name,
        "candidates": candidates,
        "best": _best(candidates),
        "versions": versions(),
    }
    flat = [
        {"candidate": name, "seed": seed} | row
        for name, per_seed in rows.items()
        for seed, row in zip(seeds, per_seed, strict=True)
    ]
    return Comparison(content, flat)


def case_points(cases: Sequence[Case], seeds: Sequence[int]) -> dict[tuple[str, int], Point]:
    """Return the runs of a comparison by candidate and seed; those of the first seed keep their results.

    Seed by seed, so that a candidate that cannot run is found out in the first round.
    """
    return {
        (case.name, seed): Point(
            case.scenario.model_copy(update={"seed": seed}),
            f"candidate {case.name!r}",
            {"candidate": {"name": case.name, "set": dict(case.changes)}} if seed == seeds[0] else None,
        )
        for seed in seeds
        for case in cases
    }


def _candidate(
    case: Case,
    summary: Summary,
    rows: Sequence[Mapping[str, Any]],
    baseline: Sequence[Mapping[str, Any]],
    first: Case,
) -> dict[str, Any]:
    mean = means(rows, (*_KEYS, *BUSIEST_LINK))
    return {
        "name": case.name,
        "set": dict(case.changes),
        "model": summary["model_id"],
        "chips": summary["chips"],
        "meets_slo": (mean["slo_attainment"] or 0.0) >= case.scenario.slo.attainment,
        "busiest_link": summary["busiest_link"],
        "mean": mean,
        "difference": None if case is first else {key: _difference(key, rows, baseline) for key in _KEYS},
    }


def _difference(
    key: str, rows: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]
) -> dict[str, float | None] | None:
    pairs = [(ours[key], theirs[key]) for ours, theirs in zip(rows, baseline, strict=True)]
    if any(None in pair for pair in pairs):
        return None
    found = paired_interval([ours - theirs for ours, theirs in pairs])
    return {"mean": found.mean, "half_width": found.half_width}


def _best(candidates: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the candidate that meets the SLO at the least cost, or per chip without prices."""
    good = [candidate for candidate in candidates if candidate["meets_slo"]]
    priced = all(candidate["mean"]["cost_per_slo_met_request"] is not None for candidate in good)

    def cost(candidate: Mapping[str, Any]) -> float:
        mean = candidate["mean"]
        return float(mean["cost_per_slo_met_request"] if priced else -mean["goodput_per_chip"])

    return str(min(good, key=cost)["name"]) if good else None
