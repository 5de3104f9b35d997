"""``report.html`` of a sweep: how much a deployment carries, or which of several carries most per chip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from simulator.confidence import doubts
from simulator.loads import LOAD_UNITS, capacity_per_chip
from simulator.page import Markup, bars, charts, details, heading, page, paragraph, section, table, tiles
from simulator.page_trust import errors_table, origin_stretches, outside
from simulator.page_words import changes, deployment, objective, planned, time_words
from simulator.sweep_charts import candidate_charts, load_charts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["sweep_page"]

_BOUNDS: Final = {"ttft_ms": "ttft", "tpot_ms": "tpot", "e2e_ms": "e2el"}
_LATENCIES: Final = (("TTFT", "ttft"), ("TPOT", "tpot"))


def sweep_page(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the report of a sweep as one HTML page.

    Parameters
    ----------
    content
        The content of ``sweep.json``.
    rows
        The rows of ``sweep.parquet``.
    """
    several = "candidates" in content
    text, good = _which(content) if several else _answer(content)
    sections = _of_several(content, rows) if several else _of_one(content, rows)
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items() if number)
    made = "" if several else f"Scenario {content['scenario_sha256']}. "
    return page(str(content["name"]), text, good, sections, f"{made}Seeds {content['seeds']}. {versions}.")


# --- one deployment ----------------------------------------------------------------------------------


def _of_one(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterable[Markup]:
    return (
        tiles(_figures(content)) if content["capacity"] is not None else Markup(""),
        section("Under load", charts(load_charts(content))),
        section("Every load", _loads(content)),
        section("What was assumed", table((), _assumed(content, rows))),
        section(
            "How sure this is",
            heading("The capacity"),
            table((), doubts(content, rows)),
            *(paragraph(line, "warn") for line in _cautions(content, rows)),
            heading("What step times rest on, by load"),
            bars(_origins(content, rows)),
            heading("How far off such predictions were"),
            errors_table(content["scenario"]["pool"]),
        ),
    )


def _answer(content: Mapping[str, Any]) -> tuple[str, bool | None]:
    capacity, missed_at, unit = content["capacity"], content["missed_at"], LOAD_UNITS[content["kind"]]
    wanted = _wanted(content)
    if capacity is None:
        share = _at(content, missed_at)["mean"]["slo_attainment"]
        told = f"No load tried keeps the SLO: at {missed_at:g} {unit}, the lowest, {_percent(share)} of the requests"
        return f"{told} have {wanted}, and {_percent(content['attainment'])} must.", False
    least = "at least " if missed_at is None else ""
    told = f"{content['chips']:,} chips carry {least}{capacity:g} {unit} of {content['model']}"
    if not wanted:
        return f"{told}. No SLO was set: every request that finishes counts.", None
    share = _at(content, capacity)["mean"]["slo_attainment"]
    found = f"{told}: {_percent(share)} of the requests then have {wanted}, and {_percent(content['attainment'])} must."
    if missed_at is None:
        return f"{found} No higher load was tried.", True
    return f"{found} At {missed_at:g} it is {_percent(_at(content, missed_at)['mean']['slo_attainment'])}.", True


def _wanted(content: Mapping[str, Any]) -> str:
    return objective({key: content["slo_ms"][name] for key, name in _BOUNDS.items()})


def _at(content: Mapping[str, Any], load: float) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(one for one in content["loads"] if one[content["kind"]] == load)
    return found


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"


def _figures(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    capacity, unit = content["capacity"], LOAD_UNITS[content["kind"]]
    mean = _at(content, capacity)["mean"]
    cost = mean["cost_per_million_output_tokens"]
    missed = "none tried misses" if content["missed_at"] is None else f"{content['missed_at']:g} misses"
    return [
        (f"{capacity:g}", f"{unit}, capacity", missed),
        (f"{capacity / content['chips']:.3g}", f"{unit} per chip", f"{content['chips']} chips"),
        (time_words(mean["p99_ttft_ms"]), "TTFT there, p99", f"median {time_words(mean['p50_ttft_ms'])}"),
        (time_words(mean["p99_tpot_ms"]), "TPOT there, p99", f"median {time_words(mean['p50_tpot_ms'])}"),
        (f"{mean['output_throughput'] / content['chips']:,.0f}", "output tokens/s per chip there", ""),
        ("no price" if cost is None else f"{cost:,.3g}", "per million output tokens there", ""),
    ]


def _loads(content: Mapping[str, Any]) -> Markup:
    linked = any(load["mean"]["busiest_link_utilisation"] is not None for load in content["loads"])
    head = (
        *(LOAD_UNITS[content["kind"]], "SLO", "within", "good/s", "done/s", "TTFT p50", "p99", "TPOT p50", "p99"),
        *("E2E p99", "busy"),
        *(["link"] if linked else []),
    )
    rows = [_load(load, content, linked=linked) for load in content["loads"]]
    note = "Latencies in ms. Loads in between are those tried to narrow the capacity down."
    return Markup(table(head, rows) + paragraph(note, "note"))


def _load(load: Mapping[str, Any], content: Mapping[str, Any], *, linked: bool) -> tuple[str, ...]:
    mean, mark = load["mean"], " ✓" if load[content["kind"]] == content["capacity"] else ""
    spread = f"<small>{_percent(load['lowest_attainment'])} to {_percent(load['highest_attainment'])}</small>"
    share = f"{mean['slo_attainment']:.2%}"
    return (
        f"{load[content['kind']]:g}{mark}",
        "kept" if load["meets_slo"] else Markup("<em>missed</em>"),
        Markup(share + spread) if len(content["seeds"]) > 1 else share,
        *(f"{mean[f'request_{kind}']:.3g}" for kind in ("goodput", "throughput")),
        *(_short(mean[f"p{q}_{key}_ms"]) for _, key in _LATENCIES for q in (50, 99)),
        _short(mean["p99_e2el_ms"]),
        f"{mean['utilisation']:.0%}",
        *((f"{mean['busiest_link_utilisation']:.1%}",) if linked else ()),
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _assumed(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    first = rows[0]
    served = max(1, first["completed"])
    lengths = [f"{first[f'total_{kind}_tokens'] / served:,.0f} tokens" for kind in ("input", "output")]
    traffic = (
        f"at each load {first['completed'] + first['failed']:,} requests, the same under a seed, closer together or "
        f"further apart; prompts of {lengths[0]} and answers of {lengths[1]} on average"
    )
    return planned(content["scenario"], traffic, first["cost_per_hour"])


def _cautions(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    load = content["capacity"] if content["capacity"] is not None else content["missed_at"]
    at = next(row for row in rows if row[content["kind"]] == load)
    found = outside(at)
    if at["skipped_trace_rows"]:
        found.append(f"{at['skipped_trace_rows']:,} rows of the trace could not be used and were skipped.")
    lost = [row for row in rows if row["failed"]]
    if lost:
        least = min(row[content["kind"]] for row in lost)
        found.append(f"From {least:g} {LOAD_UNITS[content['kind']]} on, requests are refused or lost.")
    return found


def _origins(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return where the step times come from at the lowest load, the capacity and the highest load."""
    kind, loads = content["kind"], [load[content["kind"]] for load in content["loads"]]
    shown = sorted({loads[0], loads[-1], *([content["capacity"]] if content["capacity"] is not None else [])})
    first = {load: next(row for row in rows if row[kind] == load) for load in shown}
    return {f"{load:g} {LOAD_UNITS[kind]}": origin_stretches(row) for load, row in first.items()}


# --- several -----------------------------------------------------------------------------------------


def _of_several(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterable[Markup]:
    candidates = content["candidates"]
    mine = {one["name"]: [row for row in rows if row["candidate"] == one["name"]] for one in candidates}
    pools = [pool for one in candidates for pool in one["scenario"]["pool"]]
    first = _assumed(candidates[0], mine[candidates[0]["name"]])
    shared = [row for row in first if not row[0].startswith("pool ") and row[0] != "KV transfer"]
    differ = "" if content["same_workload"] else "Workloads differ: differences are those of the traffic as well."
    return (
        section("Candidates", _capacities(content), paragraph(differ, "warn"), *_deployments(candidates)),
        section("Under load", charts(candidate_charts(content))),
        section("Every load", *(part for one in candidates for part in (heading(one["name"]), _loads(one)))),
        section("What was assumed", table((), shared)),
        section(
            "How sure this is",
            *(part for one in candidates for part in (heading(one["name"]), table((), doubts(one, mine[one["name"]])))),
            *(
                paragraph(f"{one['name']}: {line}", "warn")
                for one in candidates
                for line in _cautions(one, mine[one["name"]])
            ),
            heading("What step times rest on, at the highest load"),
            bars({one["name"]: origin_stretches(mine[one["name"]][-1]) for one in candidates}),
            heading("How far off such predictions were"),
            errors_table(pools),
        ),
    )


def _which(content: Mapping[str, Any]) -> tuple[str, bool | None]:
    unit, wanted = LOAD_UNITS[content["kind"]], _wanted(content)
    found = [one for one in content["candidates"] if one["capacity"] is not None]
    if not found:
        return (
            f"No candidate keeps the SLO at any load tried: {_percent(content['attainment'])} must have {wanted}.",
            False,
        )
    best = max(found, key=lambda one: capacity_per_chip(one) or 0.0)
    least = "at least " if best["missed_at"] is None else ""
    told = (
        f"{best['name']!r} carries most per chip: {least}{capacity_per_chip(best):.3g} {unit}, "
        f"{best['capacity']:g} on {best['chips']:,} chips"
    )
    if not wanted:
        return f"{told}. No SLO was set: every request that finishes counts.", None
    return f"{told}, with {wanted} for {_percent(content['attainment'])} of the requests.", True


def _capacities(content: Mapping[str, Any]) -> Markup:
    unit, first = LOAD_UNITS[content["kind"]], capacity_per_chip(content["candidates"][0])
    rows = []
    for one in content["candidates"]:
        per_chip = capacity_per_chip(one)
        rows.append(
            (
                str(one["name"]),
                f"{one['chips']:,}",
                "none" if one["capacity"] is None else f"{one['capacity']:g}",
                "none tried" if one["missed_at"] is None else f"{one['missed_at']:g}",
                "" if per_chip is None else f"{per_chip:.4g}",
                "" if per_chip is None or first is None else f"{per_chip / first:.2f} x",
            )
        )
    return table(("", "chips", f"capacity, {unit}", "missed at", "per chip", "to the first"), rows)


def _deployments(candidates: Sequence[Mapping[str, Any]]) -> list[Markup]:
    rows = [(str(one["name"]), "; ".join(deployment(pool) for pool in one["scenario"]["pool"])) for one in candidates]
    return [table((), rows), details("What each candidate sets", table((), changes(candidates)))]
