"""What a search says: the content of its files, from what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.entries import LONGER
from simulator.loads import workload_kind
from simulator.made_by import versions
from simulator.measures import slo_ms
from simulator.objectives import stage_goal
from simulator.search_table import OBJECTIVES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.entries import Entry
    from simulator.found import Confirmed, Found
    from simulator.objectives import Goal
    from simulator.search_table import Searched
    from simulator.trials import Trial

__all__ = ["point_rows", "search_content"]

#: Share of the requests that miss a bound from which it is named.
_WORTH_NAMING = 0.01
_BOUNDS = {"missed_ttft": "TTFT", "missed_tpot": "TPOT", "missed_e2e": "E2E"}


def search_content(searched: Searched, goal: Goal, found: Found) -> dict[str, Any]:
    """Return the content of ``search.json``.

    Parameters
    ----------
    searched
        What was searched.
    goal
        What deployments were ranked by.
    found
        What came of it.
    """
    scenario, table = searched.scenario, searched.table
    rows = point_rows(goal, found)
    best = {one.entry.unit.split: _best(goal, one) for one in found.confirmed}
    won: dict[str, Entry] = {one.entry.unit.split: one.entry for one in found.confirmed}
    ranked = sorted(found.entries, key=lambda entry: (-len(entry.trials), -_rank(goal, entry)))
    deployments = [_deployment(goal, entry, won.get(entry.unit.split)) for entry in ranked]
    return {
        "servesim": "search",
        "name": scenario.name,
        "model": scenario.model.name,
        "workload": workload_kind(scenario),
        "objective": table.objective,
        "objective_words": OBJECTIVES[table.objective],
        "gpus": table.gpus,
        "slo_ms": slo_ms(scenario.slo),
        "attainment": scenario.slo.attainment,
        "axis": goal.axis,
        "best": next(iter(best.values()), None),
        "best_by_split": {split: best.get(split) for split in table.splits},
        "counts": _counts(found, rows),
        "pruned": [
            {"reason": reason, "count": count, "example": found.pruned.examples[reason]}
            for reason, count in found.pruned.counts.most_common()
        ],
        "deployments": deployments,
        "front": front_of(_of_long_runs(rows) if goal.of_fronts else rows),
        "stopped": found.stopped,
        "versions": versions(),
    }


def _counts(found: Found, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    tried = [entry for entry in found.entries if entry.trials]
    return {
        "considered": found.considered,
        "ruled_out": sum(found.pruned.counts.values()),
        "bounded": sum(entry.left_at == "bound" for entry in found.entries),
        "simulated": len(tried),
        "finalists": sum(LONGER.name in entry.trials for entry in tried),
        "runs": len(rows),
        "requests": sum(int(row["completed"]) for row in rows),
    }


def _best(goal: Goal, one: Confirmed) -> dict[str, Any]:
    """Return what is said of the best deployment of a split, by the run of all of it."""
    point, chips = one.point, one.chips
    rate = goal.rate_per_chip(point, chips)
    good = rate * point["mean_output_tokens"] * point["good_output_tokens_share"]
    hour = point["cost_per_hour"]
    return {
        "deployment": one.entry.unit.label(one.units),
        "split": one.entry.unit.split,
        "units": one.units,
        "chips": chips,
        "load": point["load"] if goal.axis != "units" else goal.traffic.rate_per_s,
        "goodput_per_chip": rate * point["slo_attainment"],
        "tokens_per_s_per_chip": goal.tokens_per_chip(point, chips),
        "cost_per_million_slo_met_tokens": None if hour is None else hour / point["chips"] / 3600 / good * 1e6,
        "worth": abs(one.worth(goal)),
    } | {key: value for key, value in point.items() if key not in {"place", "load", "chips"}}


def _rank(goal: Goal, entry: Entry) -> float:
    worth = entry.worth(goal)
    return entry.at_best - 1e12 if worth is None else worth


def _deployment(goal: Goal, entry: Entry, best: Entry | None) -> dict[str, Any]:
    worth = entry.worth(goal)
    return {
        "deployment": entry.unit.label(_units(goal, entry)),
        "split": entry.unit.split,
        "chips": entry.chips(goal),
        "bound": abs(entry.at_best),
        "worth": None if worth is None else abs(worth),
        "rounds": list(entry.trials),
        "load": entry.load,
        "why": "" if entry is best else _why(goal, entry, best),
    }


def _units(goal: Goal, entry: Entry) -> int:
    return entry.chips(goal) // entry.unit.chips


def _why(goal: Goal, entry: Entry, best: Entry | None) -> str:
    """Return in words why a deployment is not the best of its split."""
    if entry.left_at == "bound":
        return entry.why if goal.of_fronts else f"at most {abs(entry.at_best):.4g}, even without any queueing"
    if not entry.trials:
        return entry.why
    trial, verdict = entry.last or next(reversed(entry.trials.values()))
    missed = [point for point in verdict.points if point["slo_attainment"] < trial.scenario.slo.attainment]
    if entry.point is None:
        return f"misses {_missed(missed[0])} at {_load(goal, missed[0])}, the least worth bearing"
    above = [point for point in missed if point["place"] < entry.point["place"]]
    limit = min(above, key=lambda point: -point["place"], default=None)
    beyond = "" if limit is None else f": at {_load(goal, limit)} it misses {_missed(limit)}"
    return f"{_behind(goal, entry, best)}{beyond}"


def _behind(goal: Goal, entry: Entry, best: Entry | None) -> str:
    """Return in words by how much it is worth less, by runs as long as its own."""
    name = next(reversed(entry.trials))
    if best is None or name not in best.trials:
        return "worth less"
    worth, most = entry.worth_by(name, goal), best.worth_by(name, goal)
    if worth is None or most is None:
        return "worth less"
    return f"{100 * (abs(worth) / abs(most) - 1):+.1f} % in {name} runs"


def _load(goal: Goal, point: Mapping[str, Any]) -> str:
    return f"{point['load']:g} { ({'rate': 'requests/s', 'users': 'users', 'units': 'units'}[goal.axis]) }"


def _missed(point: Mapping[str, Any]) -> str:
    """Return which bounds a run misses, the worst first."""
    shares = sorted(((point[key], name) for key, name in _BOUNDS.items() if point[key] >= _WORTH_NAMING), reverse=True)
    return " and ".join(f"{name} for {100 * share:.0f} %" for share, name in shares[:2]) or "the SLO"


def point_rows(goal: Goal, found: Found) -> list[dict[str, Any]]:
    """Return every run of a search, deployment by deployment: the columns of ``points.parquet``."""
    alone = stage_goal(goal)
    return [
        *(_row(alone, entry, "stage", trial, point) for entry in found.stages for _, trial, point in entry.runs()),
        *(_row(goal, entry, name, trial, point) for entry in found.entries for name, trial, point in entry.runs()),
    ] + [
        _row(goal, one.entry, "whole", one.trial, point)
        for one in found.confirmed
        if one.trial is not (one.entry.last or (None,))[0]
        for point in one.verdict.points
    ]


def _row(goal: Goal, entry: Entry, name: str, trial: Trial, point: Mapping[str, Any]) -> dict[str, Any]:
    units = int(point["load"]) if goal.axis == "units" else trial.units
    chips = units * entry.unit.chips
    keeps = bool(point["slo_attainment"] >= trial.scenario.slo.attainment)
    return {
        "deployment": entry.unit.label(units),
        "split": entry.unit.split,
        "round": name,
        "chips": chips,
        "simulated_chips": point["chips"],
        "keeps_slo": keeps,
        "tokens_per_s_per_chip": goal.tokens_per_chip(point, chips),
        "tokens_per_s_per_user": 1e3 / point["mean_tpot_ms"] if point["mean_tpot_ms"] else None,
    } | {key: value for key, value in point.items() if key not in {"place", "chips"}}


def _of_long_runs(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the longest runs there are: where the front is the answer, short ones only lead to it."""
    return [row for row in rows if row["round"] in {"long", "curve", "whole"}] or list(rows)


def front_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs that keep the SLO and to which none is better for both the chip and the user, fastest first."""
    kept = [
        row for row in rows if row["round"] != "stage" and row["keeps_slo"] and row["tokens_per_s_per_user"] is not None
    ]
    kept.sort(key=lambda row: (-row["tokens_per_s_per_user"], -row["tokens_per_s_per_chip"]))
    front: list[dict[str, Any]] = []
    for row in kept:
        if not front or row["tokens_per_s_per_chip"] > front[-1]["tokens_per_s_per_chip"]:
            front.append({key: row[key] for key in _FRONT})
    return front


_FRONT = (
    *("deployment", "split", "round", "chips", "load", "tokens_per_s_per_user", "tokens_per_s_per_chip"),
    *("mean_ttft_ms", "mean_tpot_ms", "slo_attainment", "cost_per_hour"),
)
