"""The tables of a validation, for a console and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.text import Text

from simulator.report import plain_table
from simulator.validate import SETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

__all__ = ["markdown", "render_validation"]

_KINDS: Final = {"source": "source, mode, engine, chip", "model": "engine, model", "concurrency": "engine, users"}
_COLUMNS: Final = ("cases", "found", "MAPE", "median", "p90", "signed", "ranks")
_PRINTED: Final = ("ttft_mean", "tpot_mean", "e2e_mean")


def render_validation(content: Mapping[str, Any]) -> Group:
    """Return the tables of a validation for a rich console.

    Parameters
    ----------
    content
        The content of ``report.json``.
    """
    parts: list[RenderableType] = [Text(_headline(content), style="bold")]
    for title, first, rows in _tables(content, _PRINTED):
        table = plain_table(title, first, *_COLUMNS)
        for name, cells in rows:
            table.add_row(Text(name), *cells)
        parts.append(table)
    parts += [Text(line, style="yellow") for line in _reasons(content, 12, 150)]
    return Group(*parts)


def markdown(content: Mapping[str, Any]) -> str:
    """Return the tables of a validation, every metric, as Markdown.

    Parameters
    ----------
    content
        The content of ``report.json``.
    """
    lines = ["# Predicted and measured", "", _headline(content)]
    for title, first, rows in _tables(content, tuple(content["scores"]["all"])):
        lines += ["", f"## {title}", "", f"| {' | '.join((first, *_COLUMNS))} |", "|" + "---|" * (len(_COLUMNS) + 1)]
        lines += [f"| {' | '.join((name, *cells))} |" for name, cells in rows]
    reasons = _reasons(content, len(content["skipped"]), 1000)
    return "\n".join([*lines, "", *(f"* {line}" for line in reasons)]).rstrip() + "\n"


def _headline(content: Mapping[str, Any]) -> str:
    tables = f" from the kernel tables in {content['tables']['folder']}" if content["tables"] else ""
    return (
        f"{content['cases']:,} cases, {content['predicted']:,} predicted{tables}; errors in % of what was measured, "
        "signed is the median, above 0 where predicted too high; ranks is Spearman's correlation"
    )


def _tables(
    content: Mapping[str, Any], metrics: tuple[str, ...]
) -> Iterator[tuple[str, str, list[tuple[str, list[str]]]]]:
    """Yield title, heading and rows of each table."""
    same = content["scores"]["clean"] == content["scores"]["all"]
    for which, words in SETS.items():
        if which == "all" and same:
            return
        for metric, found in content["scores"][which].items():
            if metric not in metrics:
                continue
            for kind, heading in _KINDS.items():
                rows = [(", ".join(part.strip() for part in one["group"]), _cells(one)) for one in found[kind]]
                title = f"{metric}, {words}, by {heading}"
                yield title, heading, [*rows, ("total", _cells(found["total"]))]


def _cells(one: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['cases']:,}",
        f"{one['coverage']:.0%}",
        *(_percent(one[name]) for name in ("mean_ape", "median_ape", "p90_ape")),
        "" if one["median_error"] is None else f"{one['median_error']:+.1f}",
        "" if one["spearman"] is None else f"{one['spearman']:.2f}",
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _reasons(content: Mapping[str, Any], most: int, longest: int) -> list[str]:
    """Return why cases were skipped, the most frequent first."""
    skipped = list(content["skipped"].items())
    lines = [
        f"{count:,} skipped: {reason if len(reason) <= longest else reason[:longest] + ' ...'}"
        for reason, count in skipped[:most]
    ]
    rest = sum(count for _, count in skipped[most:])
    return [*lines, f"{rest:,} skipped for other reasons: see skipped.csv"] if rest else lines
