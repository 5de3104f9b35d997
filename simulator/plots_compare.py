"""Latencies of candidates in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure

from simulator.plots import BOUND, COLOURS, STYLES, save_picture, short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["plot_candidates"]

_LATENCIES: Final = (("TTFT", "ttft_ms", "ttft"), ("TPOT", "tpot_ms", "tpot"), ("E2E", "e2e_ms", "e2el"))


def plot_candidates(
    requests: Mapping[str, pd.DataFrame], slo_ms: Mapping[str, float | None], title: str, path: Path
) -> None:
    """Draw the cumulative distributions of TTFT, TPOT and E2E of all candidates in one picture.

    Parameters
    ----------
    requests
        The tables of requests by candidate; measured and completed ones are drawn.
    slo_ms
        Bounds by ``ttft``, ``tpot`` and ``e2el``, ms, None for no bound.
    title
        Title of the picture.
    path
        PNG file to write.
    """
    rows = -(-len(requests) // _columns(requests))
    figure = Figure(figsize=(14, 4.9 + 0.25 * rows), layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (label, column, bound) in zip(panels, _LATENCIES, strict=True):
        shown = [table.loc[table["measured"] & table["completed"], column] for table in requests.values()]
        values = [np.sort(column.dropna().to_numpy()) for column in shown]
        for number, curve in enumerate(values):
            _curve(axes, curve, number)
        _dress_cdf(axes, label, values, slo_ms.get(bound))
    panels[0].set_ylabel("share of requests")
    figure.align_xlabels()
    _legend(figure, panels[0], list(requests))
    save_picture(figure, path)


def _columns(names: Mapping[str, object]) -> int:
    return min(len(names), 4 if max(len(name) for name in names) < 40 else 2)


def _curve(axes: Axes, values: NDArray[np.float64], number: int) -> None:
    share = np.arange(1, len(values) + 1) / max(len(values), 1)
    colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
    axes.step(values, share, where="post", color=colour, linestyle=style, linewidth=1.7, label=f"{number}")


def _dress_cdf(axes: Axes, label: str, values: Sequence[NDArray[np.float64]], bound: float | None) -> None:
    positive = np.concatenate([curve[curve > 0] for curve in values])
    if len(positive) and positive.max() / positive.min() > 20:
        axes.set_xscale("log")
    elif len(positive):
        # A few stragglers would squeeze all others into a corner.
        first, last = positive.min(), max(float(np.percentile(curve, 99.9)) for curve in values if len(curve))
        if bound is not None and last < bound < 2 * last:
            last = bound
        margin = 0.04 * (last - first) or 0.04 * last
        axes.set_xlim(first - margin, last + margin)
    axes.set(xlabel=f"{label}, ms", ylim=(0, 1.02))
    axes.grid(visible=True, alpha=0.25, which="both")
    if bound is not None:
        axes.axvline(bound, **BOUND)
        _note_at(axes, bound, f"SLO {short(bound)} ms")


def _note_at(axes: Axes, value: float, text: str) -> None:
    """Write along a vertical line, where curves have not risen yet."""
    axes.annotate(
        text,
        (value, 0.02),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        xytext=(-3, 0),
        ha="right",
        va="bottom",
        rotation=90,
        fontsize=8,
        color=BOUND["color"],
        # A bound beyond the picture is not written beside it.
        annotation_clip=True,
    )


def _legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    lines = [line for line in axes.lines if str(line.get_label()).isdecimal()]
    columns = _columns(dict.fromkeys(names))
    legend = figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
