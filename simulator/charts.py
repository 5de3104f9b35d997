"""Line charts as SVG, for pages: a few milliseconds each, where a figure of matplotlib takes a tenth of a second."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np

from simulator.palette import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Axis", "Chart", "Curve", "Point", "colour_of", "draw", "line_of", "ticks"]

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_DASHES: Final = ("", "6 3", "2 3", "7 2 2 2")


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis.

    Attributes
    ----------
    label
        What it measures, with its unit.
    low, high
        What it spans.
    log
        Whether it is logarithmic; ``low`` is above zero then.
    percent
        Whether shares are shown in percent.
    """

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where values lie between the ends, which are at 0 and 1."""
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log10(np.maximum(values, self.low)), math.log10(low), math.log10(high)
        return (values - low) / ((high - low) or 1.0)

    def text(self, value: float) -> str:
        """Return how a tick is written."""
        return f"{value * 100:g}%" if self.percent else f"{value:,.6g}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A line.

    Attributes
    ----------
    name
        What it shows.
    x, y
        Its points, shape (points,); a line is broken where one is NaN.
    steps
        Each value holds until the next point.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A dot; a hollow one is none to choose."""

    name: str
    x: float
    y: float
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn.

    Attributes
    ----------
    title
        Its heading, and what is read aloud in place of it.
    x, y
        The axes.
    curves, points
        What it shows.
    at_x, at_y
        Bounds, drawn through the chart, with what is written beside them.
    shaded
        Spans of x that are shaded.
    """

    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve] = ()
    points: Sequence[Point] = ()
    at_x: Sequence[tuple[float, str]] = ()
    at_y: Sequence[tuple[float, str]] = ()
    shaded: Sequence[tuple[float, float]] = field(default=())


def colour_of(number: int) -> str:
    """Return the colour of one of several lines."""
    return COLOURS[number % len(COLOURS)]


def line_of(number: int) -> str:
    """Return colour and dashes of one of several lines, as attributes."""
    dashes = _DASHES[number // len(COLOURS) % len(_DASHES)]
    return f'stroke="{colour_of(number)}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def ticks(axis: Axis, most: int = 6) -> list[float]:
    """Return round numbers within an axis: multiples of 1, 2 or 5 times a power of ten, or on a log scale those."""
    if axis.log:
        first, last = math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high))
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            found = [value for value in found if axis.low <= value <= axis.high]
            if len(found) <= most:
                break
        return found[:: -(-len(found) // most)] if found else [axis.low, axis.high]
    span = axis.high - axis.low
    power = 10.0 ** math.floor(math.log10(span / most)) if span > 0 else 1.0
    step = next(factor * power for factor in (1, 2, 5, 10) if span <= factor * power * most)
    return [
        round(n * step, 12) for n in range(math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9) + 1)
    ]


def draw(chart: Chart) -> str:
    """Return a chart as an ``svg`` element that takes the width it is given."""
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)}">',
        *(_span(chart.x, low, high) for low, high in chart.shaded),
        *_grid(chart),
        *(_line(chart, curve, number) for number, curve in enumerate(chart.curves)),
        *_bounds(chart),
        *(_dot(chart, point, number) for number, point in enumerate(chart.points)),
        "</svg>",
    ]
    return "".join(parts)


def _across(axis: Axis, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return _LEFT + axis.place(values) * (_WIDTH - _LEFT - _RIGHT)


def _up(axis: Axis, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return _HEIGHT - _BOTTOM - axis.place(values) * (_HEIGHT - _TOP - _BOTTOM)


def _x(axis: Axis, value: float) -> float:
    return float(_across(axis, np.array(value)))


def _y(axis: Axis, value: float) -> float:
    return float(_up(axis, np.array(value)))


def _grid(chart: Chart) -> list[str]:
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in ticks(chart.x):
        place = _x(chart.x, value)
        parts.append(f'<path class="grid" d="M{place:.1f} {_TOP}V{floor}"/>')
        parts.append(f'<text x="{place:.1f}" y="{floor + 15}" text-anchor="middle">{chart.x.text(value)}</text>')
    for value in ticks(chart.y, 5):
        place = _y(chart.y, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {place:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{chart.y.text(value)}</text>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + floor) / 2
    parts.append(f'<path class="frame" d="M{_LEFT} {_TOP}V{floor}H{right}"/>')
    parts.append(f'<text x="{middle_x}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(chart.x.label)}</text>')
    parts.append(
        f'<text transform="translate(11 {middle_y}) rotate(-90)" text-anchor="middle">{escape(chart.y.label)}</text>'
    )
    return parts


def _span(axis: Axis, low: float, high: float) -> str:
    left, right = _x(axis, max(low, axis.low)), _x(axis, min(high, axis.high))
    size = f'width="{max(0.0, right - left):.1f}" height="{_HEIGHT - _TOP - _BOTTOM}"'
    return f'<rect class="shade" x="{left:.1f}" y="{_TOP}" {size}/>'


def _line(chart: Chart, curve: Curve, number: int) -> str:
    across, up = _across(chart.x, curve.x), _up(chart.y, np.clip(curve.y, chart.y.low, chart.y.high))
    path, pen = [], "M"
    for place, height in zip(across.tolist(), up.tolist(), strict=True):
        if math.isnan(height) or math.isnan(place):
            pen = "M"
            continue
        path.append(f"H{place:.1f}V{height:.1f}" if curve.steps and pen == "L" else f"{pen}{place:.1f} {height:.1f}")
        pen = "L"
    return f'<path class="line" {line_of(number)} d="{"".join(path)}"><title>{escape(curve.name)}</title></path>'


def _bounds(chart: Chart) -> list[str]:
    parts = []
    for value, text in chart.at_x:
        if chart.x.low <= value <= chart.x.high:
            place = _x(chart.x, value)
            parts.append(f'<path class="bound" d="M{place:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
            end, shift = ("end", -4) if place > _WIDTH / 2 else ("start", 4)
            parts.append(
                f'<text class="bound" x="{place + shift:.1f}" y="{_HEIGHT - _BOTTOM - 6}" text-anchor="{end}">'
                f"{escape(text)}</text>"
            )
    for value, text in chart.at_y:
        if chart.y.low <= value <= chart.y.high:
            place = _y(chart.y, value)
            parts.append(f'<path class="bound" d="M{_LEFT} {place:.1f}H{_WIDTH - _RIGHT}"/>')
            lift = 13 if place < _TOP + 16 else -4
            parts.append(f'<text class="bound" x="{_LEFT + 5}" y="{place + lift:.1f}">{escape(text)}</text>')
    return parts


def _dot(chart: Chart, point: Point, number: int) -> str:
    across, up = _x(chart.x, point.x), _y(chart.y, point.y)
    fill = "#fff" if point.hollow else colour_of(number)
    return (
        f'<circle cx="{across:.1f}" cy="{up:.1f}" r="5" fill="{fill}" stroke="{colour_of(number)}" stroke-width="2.5">'
        f"<title>{escape(point.name)}</title></circle>"
    )
