"""``report.html`` of a comparison: which candidate to take, and what the others fall short in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simulator.charts import Axis, Chart, Curve, Point
from simulator.measures import MEASURES, Measure
from simulator.page import Markup, bars, charts, details, heading, page, paragraph, section, table, waterfall
from simulator.page_curves import cdf_charts, slack_chart
from simulator.page_trust import cautions, errors_table, origin_stretches
from simulator.page_words import assumptions, changes, deployment
from simulator.run_page import stage_times

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["RunParts", "compare_page", "pareto_chart"]

RunParts = tuple["Mapping[str, Any]", "Mapping[str, Any]", "pd.DataFrame"]
"""Summary, manifest and table of requests of a run."""

_SHOWN: Final = (
    *("slo_attainment", "request_goodput", "goodput_per_chip", "p99_ttft_ms", "p99_tpot_ms", "p99_e2el_ms"),
    *("cost_per_million_output_tokens", "cost_per_slo_met_request"),
)


def compare_page(content: Mapping[str, Any], runs: Mapping[str, RunParts]) -> str:
    """Return the report of a comparison as one HTML page.

    Parameters
    ----------
    content
        The content of ``compare.json``.
    runs
        The run of every candidate under the first seed, by name.
    """
    slo_ms, tables = content["slo_ms"], {name: requests for name, (_, _, requests) in runs.items()}
    text, good = _answer(content)
    summaries = {name: summary for name, (summary, _, _) in runs.items()}
    slack = slack_chart(tables, slo_ms, content["attainment"])
    first, manifest, requests = next(iter(runs.values()))
    pools = [pool for _, made, _ in runs.values() for pool in made["scenario"]["pool"]]
    sections = (
        section("Candidates", _candidates(content), _seeds(content), *_deployments(content, runs)),
        section("What a chip yields, and what a user gets", charts([pareto_chart(summaries, content)]), _pareto_note()),
        section("Latency", charts([*cdf_charts(tables, slo_ms), *([slack] if slack else [])])),
        section("Where the time of a request goes, on average", *_falls(tables)),
        section("What was assumed", table((), _shared(assumptions(first, manifest, requests)))),
        section(
            "How sure this is",
            *(paragraph(f"{name}: {line}", "warn") for name, one in summaries.items() for line in cautions(one)),
            bars({name: origin_stretches(summary) for name, summary in summaries.items()}),
            errors_table(pools),
        ),
    )
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items() if number)
    return page(str(content["name"]), text, good, sections, f"Seeds {content['seeds']}. {versions}.")


def _answer(content: Mapping[str, Any]) -> tuple[str, bool | None]:
    best, wanted = content["best"], any(content["slo_ms"].values())
    if best is None:
        return "No candidate meets the SLO.", False
    found = next(candidate for candidate in content["candidates"] if candidate["name"] == best)
    mean, priced = found["mean"], found["mean"]["cost_per_slo_met_request"] is not None
    by = (
        f"the least cost, {mean['cost_per_slo_met_request'] * 1000:.3g} per 1,000 good requests"
        if priced
        else f"the most per chip, {mean['goodput_per_chip']:.3g} good requests/s"
    )
    meets = f"meets the SLO ({mean['slo_attainment']:.2%} within it) at" if wanted else "has"
    return f"Take {best!r}: on {found['chips']:,} chips it {meets} {by}.", True if wanted else None


def _candidates(content: Mapping[str, Any]) -> Markup:
    found = content["candidates"]
    names = (f"{one['name']} ✓" if one["name"] == content["best"] else str(one["name"]) for one in found)
    rows = [
        ("meets the SLO", *("yes" if one["meets_slo"] else "no" for one in found)),
        ("chips", *(f"{one['chips']:,}" for one in found)),
    ]
    rows += [
        (measure.label, *(_cell(one, measure) for one in found))
        for measure in MEASURES
        if measure.key in _SHOWN and any(one["mean"][measure.key] is not None for one in found)
    ]
    return table(("", *names), rows)


def _cell(candidate: Mapping[str, Any], measure: Measure) -> str:
    mean, change = candidate["mean"][measure.key], (candidate["difference"] or {}).get(measure.key)
    if mean is None:
        return "none"
    told = _short(mean * measure.scale)
    if change is None or change["half_width"] is None:
        return told
    more, less = change["mean"] * measure.scale, change["half_width"] * measure.scale
    return Markup(f"{told}<small>{'+' if more >= 0 else ''}{_short(more)} ± {_short(less)}</small>")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _seeds(content: Mapping[str, Any]) -> Markup:
    seeds = len(content["seeds"])
    many = f"Means over {seeds} seeds; below them the difference to {content['baseline']!r} with its 95 % interval. "
    return paragraph(
        (many if seeds > 1 else "") + "Every candidate serves the same arrivals. The charts are of the first seed.",
        "note",
    )


def _deployments(content: Mapping[str, Any], runs: Mapping[str, RunParts]) -> list[Markup]:
    rows = [
        (
            name,
            "; ".join(
                f"{label}: {deployment(pool)}"
                for label, pool in zip(manifest["pools"], manifest["scenario"]["pool"], strict=True)
            ),
        )
        for name, (_, manifest, _) in runs.items()
    ]
    return [table((), rows), details("What each candidate sets", table((), changes(content["candidates"])))]


def _shared(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [row for row in rows if not row[0].startswith("pool ") and row[0] not in {"KV transfer", "meanwhile"}]


def pareto_chart(summaries: Mapping[str, Mapping[str, Any]], content: Mapping[str, Any]) -> Chart:
    """Return tokens per second of a chip against those of a user, and the front of the candidates that meet the SLO.

    A user's are those of the median TPOT.

    Parameters
    ----------
    summaries
        Summaries by candidate.
    content
        The content of ``compare.json``.
    """
    good = {candidate["name"] for candidate in content["candidates"] if candidate["meets_slo"]}
    points = [
        Point(
            name, 1000 / max(one["p50_tpot_ms"], 1e-9), one["output_throughput"] / one["chips"], hollow=name not in good
        )
        for name, one in summaries.items()
        if one["p50_tpot_ms"] > 0
    ]
    front = _front([point for point in points if not point.hollow])
    return Chart(
        "Tokens per second of a chip and of a user",
        Axis("tokens/s per user", 0.0, 1.15 * max((point.x for point in points), default=1.0)),
        Axis("output tokens/s per chip", 0.0, 1.15 * max((point.y for point in points), default=1.0)),
        [Curve("front", *front)] if len(front[0]) > 1 else [],
        points,
    )


def _front(points: Sequence[Point]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points that no other surpasses in both, from left to right."""
    kept = [p for p in points if not any((q.x >= p.x and q.y >= p.y) and (q.x > p.x or q.y > p.y) for q in points)]
    kept.sort(key=lambda point: point.x)
    return np.array([point.x for point in kept]), np.array([point.y for point in kept])


def _pareto_note() -> Markup:
    return paragraph("Filled: meets the SLO. A user's tokens are those at the median TPOT.", "note")


def _falls(tables: Mapping[str, pd.DataFrame]) -> list[Markup]:
    found = []
    for name, requests in tables.items():
        counted = requests[requests["measured"] & requests["completed"]]
        if len(counted):
            found += [heading(name), waterfall(stage_times(counted))]
    return found
