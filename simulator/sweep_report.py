"""The console table of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.text import Text

from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

__all__ = ["capacity_sentence", "render_sweep"]

_UNITS: Final = {"rate": "requests/s", "concurrency": "users"}
_COLUMNS: Final = ("SLO %", "good/s", "done/s", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "busy")


def render_sweep(content: Mapping[str, Any]) -> Group:
    """Return the table of a sweep for a rich console.

    Parameters
    ----------
    content
        The content of ``sweep.json``.
    """
    headline = Text(
        f"{content['name']}: {content['model']} on {content['chips']} chips, {len(content['loads'])} loads",
        style="bold",
    )
    notes = [Text(note, style="yellow") for note in _notes(content)]
    return Group(headline, _loads(content), *notes, Text(capacity_sentence(content), style="bold"))


def _loads(content: Mapping[str, Any]) -> Table:
    kind = content["kind"]
    title = f"By {_UNITS[kind]}: requests good and done per second, latencies in ms"
    table = plain_table(title, kind if kind == "rate" else "users", *_COLUMNS)
    for load in content["loads"]:
        table.add_row(f"{load[kind]:g}", *_cells(load["mean"]), style=None if load["meets_slo"] else "dim")
    return table


def _cells(mean: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"{100 * mean['slo_attainment']:.2f}",
        f"{mean['request_goodput']:.3f}",
        f"{mean['request_throughput']:.3f}",
        *(f"{mean[f'p{q}_ttft_ms']:,.0f}" for q in (50, 99)),
        *(f"{mean[f'p{q}_tpot_ms']:,.1f}" for q in (50, 99)),
        f"{mean['utilisation']:.0%}",
    )


def _notes(content: Mapping[str, Any]) -> list[str]:
    notes = []
    if content["regained"]:
        notes.append("A load above one that misses the SLO keeps it again: use more requests or --seeds.")
    if not any(content["slo_ms"].values()):
        notes.append("No bound is given in [slo]: every completed request counts as met.")
    return notes


def capacity_sentence(content: Mapping[str, Any]) -> str:
    """Return in words what the highest load is that keeps the SLO."""
    target, unit = f"{content['attainment']:.4g}", _UNITS[content["kind"]]
    capacity, missed_at = content["capacity"], content["missed_at"]
    if capacity is None:
        return f"No load has an SLO attainment of {target}; try lower ones than {missed_at:g} {unit}."
    if missed_at is None:
        return f"Capacity: at least {capacity:g} {unit}, the highest tried, at an SLO attainment of {target}."
    return f"Capacity: {capacity:g} {unit} at an SLO attainment of {target} ({missed_at:g} misses it)."
