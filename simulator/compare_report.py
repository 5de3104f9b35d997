"""The console tables of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.text import Text

from simulator.measures import BUSIEST_LINK, MEASURES, Measure
from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["render_comparison", "verdict"]

#: So many columns of differences fit a terminal of 80 characters beside their labels.
_SIDE_BY_SIDE: Final = 3
_LATENCIES: Final = MEASURES[:6]
_GOODPUT: Final = tuple(
    zip(
        (
            "goodput,\nreq/s",
            "SLO\nmet, %",
            "goodput\nper chip",
            "cost per\nmillion out-\nput tokens",
            "cost per\n1,000 SLO-met\nrequests",
        ),
        MEASURES[6:11],
        strict=True,
    )
)
_POWER: Final = tuple(
    zip(
        ("cost\nper hour", "provisioned\npower, kW", "mean\nkW", "peak\nkW", "energy per\nrequest, Wh"),
        MEASURES[11:],
        strict=True,
    )
)


def render_comparison(content: Mapping[str, Any]) -> Group:
    """Return the tables of a comparison for a rich console.

    Parameters
    ----------
    content
        The content of ``compare.json``.
    """
    parts: list[RenderableType] = [
        _headline(content),
        _latencies(content),
        _by_candidate(content, "Goodput and cost", _GOODPUT),
        _by_candidate(content, "What is provided, and what it draws", _POWER),
    ]
    if any(candidate["busiest_link"] is not None for candidate in content["candidates"]):
        parts.append(_links(content))
    others = [candidate for candidate in content["candidates"] if candidate["difference"] is not None]
    parts += [
        _differences(content, others[start : start + _SIDE_BY_SIDE]) for start in range(0, len(others), _SIDE_BY_SIDE)
    ]
    return Group(
        *parts, *(Text(note, style="yellow") for note in _notes(content)), Text(verdict(content), style="bold")
    )


def _headline(content: Mapping[str, Any]) -> Text:
    arrivals = "on the same arrivals" if content["same_workload"] else "each on its own workload"
    return Text(
        f"{content['name']}: {len(content['candidates'])} candidates {arrivals}, {_seeds(content)}", style="bold"
    )


def _seeds(content: Mapping[str, Any]) -> str:
    seeds = content["seeds"]
    return f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"


def _latencies(content: Mapping[str, Any]) -> Table:
    # Headers of two lines leave room for the names of candidates.
    labels = (measure.label.removesuffix(", ms").replace(" ", "\n") for measure in _LATENCIES)
    table = _unclipped(f"Latency, ms{_mean(content)}", "chips", *labels)
    for candidate in content["candidates"]:
        cells = (_shown(candidate["mean"][measure.key], measure) for measure in _LATENCIES)
        table.add_row(Text(candidate["name"]), f"{candidate['chips']}", *cells)
    return table


def _unclipped(title: str, *columns: str) -> Table:
    """Return an empty table that breaks what is too long and leaves nothing out."""
    table = plain_table(title, "", *columns)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _mean(content: Mapping[str, Any]) -> str:
    return ", mean over seeds" if len(content["seeds"]) > 1 else ""


def _by_candidate(content: Mapping[str, Any], title: str, columns: Sequence[tuple[str, Measure]]) -> Table:
    table = _unclipped(f"{title}{_mean(content)}", *(label for label, _ in columns))
    for candidate in content["candidates"]:
        cells = (_shown(candidate["mean"][measure.key], measure) for _, measure in columns)
        table.add_row(Text(candidate["name"]), *cells)
    return table


def _links(content: Mapping[str, Any]) -> Table:
    table = _unclipped(f"Busiest link{_mean(content)}", "link", "in use, %", "peak, %")
    for candidate in content["candidates"]:
        cells = (_shown(candidate["mean"][key], Measure(key, "", 2, 100.0)) for key in BUSIEST_LINK)
        table.add_row(Text(candidate["name"]), Text(candidate["busiest_link"] or "none"), *cells)
    return table


def _shown(value: float | None, measure: Measure) -> str:
    if value is None:
        return "n/a"
    return f"{value * measure.scale:,.{_digits(value, measure)}f}"


def _digits(value: float, measure: Measure) -> int:
    # Thousands of milliseconds need no decimals.
    return measure.digits if abs(value * min(measure.scale, 1.0)) < 1000 else 0


def _differences(content: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> Table:
    interval = ", with 95 % confidence" if len(content["seeds"]) > 1 else ""
    title = f"Difference to {content['baseline']}{interval}"
    table = _unclipped(title, *(candidate["name"] for candidate in others))
    for measure in MEASURES:
        table.add_row(
            measure.label, *(_difference(candidate["difference"][measure.key], measure) for candidate in others)
        )
    return table


def _difference(found: Mapping[str, float | None] | None, measure: Measure) -> str:
    if found is None or found["mean"] is None:
        return "n/a"
    mean, half = found["mean"], found["half_width"]
    digits = _digits(mean, measure)
    shown = f"{mean * measure.scale:+,.{digits}f}"
    return shown if half is None else f"{shown} ± {half * measure.scale:,.{digits}f}"


def _notes(content: Mapping[str, Any]) -> list[str]:
    seeds, notes = len(content["seeds"]), []
    if seeds == 1:
        notes.append("One seed: differences have no confidence interval; --seeds 5 gives one.")
    elif content["workload"] == "trace":
        notes.append("The requests of a trace are the same under every seed: the intervals cover random choices alone.")
    if not content["same_workload"]:
        notes.append("Workloads differ: differences are those of the traffic as well.")
    if not any(content["slo_ms"].values()):
        notes.append("No bound is given in [slo]: every completed request counts as met.")
    return notes


def verdict(content: Mapping[str, Any]) -> str:
    """Return in words which candidate to take."""
    target = f"{content['attainment']:.4g}"
    if content["best"] is None:
        return f"No candidate has an SLO attainment of {target}."
    best = next(candidate for candidate in content["candidates"] if candidate["name"] == content["best"])
    cost = best["mean"]["cost_per_slo_met_request"]
    why = "most goodput per chip" if cost is None else "least cost per SLO-met request"
    return f"Best: {content['best']}, with the {why} of those that have an SLO attainment of {target}."
