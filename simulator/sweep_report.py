"""The console tables of a sweep, of one scenario or of several candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.text import Text

from simulator.loads import LOAD_UNITS, capacity_per_chip
from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["capacity_sentence", "render_sweep"]

#: So many columns fit a terminal of 80 characters.
_SIDE_BY_SIDE: Final = 4
_COLUMNS: Final = ("SLO %", "good /s", "done /s", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "busy")


def render_sweep(content: Mapping[str, Any]) -> Group:
    """Return the tables of a sweep for a rich console.

    Parameters
    ----------
    content
        The content of ``sweep.json``.
    """
    if "candidates" in content:
        return _render_all(content)
    headline = Text(
        f"{content['name']}: {content['model']} on {content['chips']} chips, {len(content['loads'])} loads",
        style="bold",
    )
    notes = [Text(note, style="yellow") for note in _notes(content)]
    return Group(headline, _loads(content), *notes, Text(capacity_sentence(content), style="bold"))


def _render_all(content: Mapping[str, Any]) -> Group:
    """Return the tables of several candidates."""
    candidates = content["candidates"]
    headline = f"{content['name']}: {len(candidates)} candidates under load"
    parts: list[RenderableType] = [Text(headline, style="bold"), _capacities(content)]
    parts += [
        _attainments(content, candidates[start : start + _SIDE_BY_SIDE])
        for start in range(0, len(candidates), _SIDE_BY_SIDE)
    ]
    notes = [Text(note, style="yellow") for note in _notes(content)]
    return Group(*parts, *notes, Text(capacity_sentence(content), style="bold"))


def _capacities(content: Mapping[str, Any]) -> Table:
    title = f"Capacity, {LOAD_UNITS[content['kind']]}, at an SLO attainment of {content['attainment']:.4g}"
    table = plain_table(title, "", "chips", "capacity", "per chip", "missed at", "per chip\nto the first")
    first = capacity_per_chip(content["candidates"][0])
    for candidate in content["candidates"]:
        capacity, missed_at, per_chip = candidate["capacity"], candidate["missed_at"], capacity_per_chip(candidate)
        table.add_row(
            Text(candidate["name"]),
            f"{candidate['chips']}",
            "none" if capacity is None else f"{capacity:g}",
            "n/a" if per_chip is None else f"{per_chip:.4g}",
            "none tried" if missed_at is None else f"{missed_at:g}",
            "n/a" if per_chip is None or first is None else f"{per_chip / first:.2f} x",
        )
    return table


def _attainments(content: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> Table:
    """Return the attainment of some candidates at the loads that all were put under."""
    kind = content["kind"]
    names = (candidate["name"] for candidate in candidates)
    table = plain_table("SLO attainment, %", kind if kind == "rate" else "users", *names)
    for column in table.columns:
        column.overflow = "fold"
    grids = [[load for load in candidate["loads"] if not load["refined"]] for candidate in candidates]
    for loads in zip(*grids, strict=True):
        table.add_row(f"{loads[0][kind]:g}", *(f"{100 * load['mean']['slo_attainment']:.2f}" for load in loads))
    return table


def _loads(content: Mapping[str, Any]) -> Table:
    kind, every = content["kind"], content["loads"]
    title = f"By {LOAD_UNITS[kind]}: requests good and done per second, latencies in ms"
    linked = any(load["mean"]["busiest_link_utilisation"] is not None for load in every)
    table = plain_table(title, kind if kind == "rate" else "users", *_COLUMNS, *(["link"] if linked else []))
    for load in every:
        link = (_share(load["mean"]["busiest_link_utilisation"]),) if linked else ()
        table.add_row(f"{load[kind]:g}", *_cells(load["mean"]), *link, style=None if load["meets_slo"] else "dim")
    return table


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


def _per_second(value: float) -> str:
    return f"{value:.{3 if value < 10 else 2 if value < 100 else 1}f}"


def _cells(mean: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"{100 * mean['slo_attainment']:.2f}",
        *(_per_second(mean[f"request_{kind}"]) for kind in ("goodput", "throughput")),
        *(f"{mean[f'p{q}_ttft_ms']:,.0f}" for q in (50, 99)),
        *(f"{mean[f'p{q}_tpot_ms']:,.1f}" for q in (50, 99)),
        f"{mean['utilisation']:.0%}",
    )


def _notes(content: Mapping[str, Any]) -> list[str]:
    notes = []
    if any(one["regained"] for one in content.get("candidates", (content,))):
        notes.append("A load above one that misses the SLO keeps it again: use more requests or --seeds.")
    if not content.get("same_workload", True):
        notes.append("Workloads differ: differences are those of the traffic as well.")
    if not any(content["slo_ms"].values()):
        notes.append("No bound is given in [slo]: every completed request counts as met.")
    return notes


def capacity_sentence(content: Mapping[str, Any]) -> str:
    """Return in words what the highest load is that keeps the SLO."""
    if "candidates" in content:
        return _most_per_chip(content)
    target, unit = f"{content['attainment']:.4g}", LOAD_UNITS[content["kind"]]
    capacity, missed_at = content["capacity"], content["missed_at"]
    if capacity is None:
        return f"No load has an SLO attainment of {target}; try lower ones than {missed_at:g} {unit}."
    if missed_at is None:
        return f"Capacity: at least {capacity:g} {unit}, the highest tried, at an SLO attainment of {target}."
    return f"Capacity: {capacity:g} {unit} at an SLO attainment of {target} ({missed_at:g} misses it)."


def _most_per_chip(content: Mapping[str, Any]) -> str:
    """Return in words which candidate carries most per chip, the first of equals."""
    target, unit, candidates = f"{content['attainment']:.4g}", LOAD_UNITS[content["kind"]], content["candidates"]
    found = [(per_chip, one["name"]) for one in candidates if (per_chip := capacity_per_chip(one)) is not None]
    if not found:
        lowest = min(one["missed_at"] for one in candidates)
        return f"No candidate has an SLO attainment of {target}; try lower loads than {lowest:g} {unit}."
    per_chip, name = max(found, key=lambda one: one[0])
    return f"Most per chip: {name}, {per_chip:.4g} {unit} at an SLO attainment of {target}."
