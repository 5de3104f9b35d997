"""A page that is one file: its frame, and the parts that reports are put together from.

Texts are escaped here or in :mod:`simulator.charts`, unless they are :class:`Markup`.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from simulator.charts import colour_of, draw, line_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from simulator.charts import Chart

__all__ = [
    "Bar",
    "Markup",
    "bars",
    "charts",
    "details",
    "heading",
    "page",
    "paragraph",
    "section",
    "table",
    "tiles",
    "waterfall",
]

Bar = tuple[str, float, str]
"""A stretch of a bar: its name, its length, its colour."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _html(text: str) -> str:
    return text if isinstance(text, Markup) else escape(text)


def page(title: str, answer: str, good: bool | None, sections: Iterable[Markup], foot: str) -> str:  # noqa: FBT001 - a verdict
    """Return a whole page.

    Parameters
    ----------
    title
        What it is about.
    answer
        The answer, in a sentence or two.
    good
        Whether the answer is what was asked for; None where nothing was asked.
    sections
        What follows.
    foot
        What made it.
    """
    style = files("simulator").joinpath("page.css").read_text(encoding="utf-8")
    verdict = "" if good is None else f' class="{"good" if good else "bad"}"'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header>\n<p class="kind">servesim report</p>\n<h1>{escape(title)}</h1>\n'
        f'<p id="answer"{verdict}>{_html(answer)}</p>\n</header>\n<main>\n'
        + "\n".join(sections)
        + f"\n</main>\n<footer>{_html(foot)}</footer>\n</body>\n</html>\n"
    )


def section(title: str, *parts: Markup) -> Markup:
    """Return a section with a heading; nothing, without parts."""
    inside = "\n".join(part for part in parts if part)
    return Markup(f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>" if inside else "")


def paragraph(text: str, kind: str = "") -> Markup:
    """Return a paragraph; nothing, without text."""
    opening = f'<p class="{kind}">' if kind else "<p>"
    return Markup(f"{opening}{_html(text)}</p>" if text else "")


def heading(text: str) -> Markup:
    """Return a heading within a section."""
    return Markup(f"<h3>{escape(text)}</h3>")


def tiles(figures: Sequence[tuple[str, str, str]]) -> Markup:
    """Return large figures: value, what it is, and a word on it."""
    return Markup(
        '<div class="tiles">'
        + "".join(
            f"<div><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(note)}</small></div>"
            for value, name, note in figures
        )
        + "</div>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return a table whose first column names its rows, and whose others are numbers; without ``head``, of words."""
    lines = "".join(
        f'<tr><th scope="row">{_html(row[0])}</th>' + "".join(f"<td>{_html(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    top = f"<thead><tr>{columns}</tr></thead>" if head else ""
    kind = "" if head else ' class="words"'
    return Markup(f'<div class="wide"><table{kind}>{top}<tbody>{lines}</tbody></table></div>')


def details(title: str, inside: Markup) -> Markup:
    """Return what is folded away on a screen."""
    return Markup(f"<details><summary>{escape(title)}</summary>{inside}</details>")


def charts(drawn: Iterable[Chart]) -> Markup:
    """Return charts side by side, as many as there is room for, each with its legend."""
    return Markup('<div class="charts">' + "".join(_figure(chart) for chart in drawn) + "</div>")


def _figure(chart: Chart) -> str:
    lines = [(line_of(number), curve.name) for number, curve in enumerate(chart.curves)]
    keys = [
        f'<li><svg viewBox="0 0 22 8"><path class="line" {look} d="M1 4H21"/></svg>{escape(name)}</li>'
        for look, name in (lines if len(lines) > 1 and not chart.points else ())
    ]
    keys += [
        f'<li><i style="background:{colour_of(number)}"></i>{escape(point.name)}</li>'
        for number, point in enumerate(chart.points)
    ]
    legend = f"<ul>{''.join(keys)}</ul>" if keys else ""
    return f"<figure><figcaption>{escape(chart.title)}</figcaption>{draw(chart)}{legend}</figure>"


def bars(rows: Mapping[str, Sequence[Bar]]) -> Markup:
    """Return bars of shares, each cut into stretches that fill it, with one legend for all."""
    lines: list[str] = []
    colours: dict[str, str] = {}
    for name, stretches in rows.items():
        total = sum(length for _, length, _ in stretches) or 1.0
        cells = "".join(
            f'<i style="width:{length / total:.2%};background:{colour}" title="{escape(part)} {length / total:.1%}">'
            f"{f'{length / total:.0%}' if length / total >= 0.06 else ''}</i>"
            for part, length, colour in stretches
            if length > 0
        )
        colours |= {part: colour for part, length, colour in stretches if length > 0}
        lines.append(f'<div class="bar"><span>{escape(name)}</span><div>{cells}</div></div>')
    keys = "".join(f'<li><i style="background:{colour}"></i>{escape(part)}</li>' for part, colour in colours.items())
    return Markup(f'<div class="bars">{"".join(lines)}<ul>{keys}</ul></div>')


def waterfall(stretches: Sequence[Bar]) -> Markup:
    """Return stretches of time one after the other, each in a line of its own, ms."""
    total = sum(length for _, length, _ in stretches) or 1.0
    before, lines = 0.0, []
    for name, length, colour in stretches:
        lines.append(
            f'<div class="fall"><span>{escape(name)}</span><div><i style="margin-left:{before / total:.2%};'
            f'width:max(2px,{length / total:.2%});background:{colour}"></i></div><b>{_milliseconds(length)}</b></div>'
        )
        before += length
    return Markup(f'<div class="falls">{"".join(lines)}</div>')


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"
