"""Pictures of the latencies of a run, and what all pictures share."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from simulator.palette import COLOURS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from simulator.token_gaps import TokenGaps

__all__ = ["BOUND", "COLOURS", "STYLES", "log_scale", "plot_cdf", "save_picture", "short"]

#: For more lines than there are colours.
STYLES: Final = ("-", "--", ":", "-.")
#: The look of a bound or target.
BOUND: Final[Mapping[str, Any]] = {"color": "#b3372f", "linestyle": (0, (4, 3)), "linewidth": 1.2}

_MARKS = {50: "o", 90: "s", 99: "^"}
_COLOUR = "#1f5fa8"


def plot_cdf(requests: pd.DataFrame, gaps: TokenGaps, slo_ms: dict[str, float | None], title: str, path: Path) -> None:
    """Draw the cumulative distributions of TTFT, TPOT, ITL and E2E.

    Parameters
    ----------
    requests
        The table of requests; measured and completed ones are drawn.
    gaps
        Pooled inter-token gaps.
    slo_ms
        Bounds by ``ttft``, ``tpot`` and ``e2el``, ms, None for no bound.
    title
        Title of the picture.
    path
        PNG file to write.
    """
    figure = Figure(figsize=(12, 7), layout="constrained")
    figure.suptitle(title, parse_math=False)
    shown = requests[requests["measured"] & requests["completed"]]
    panels = figure.subplots(2, 2).ravel()
    for axes, (label, column, bound) in zip(
        panels,
        (("TTFT", "ttft_ms", "ttft"), ("TPOT", "tpot_ms", "tpot"), ("E2E", "e2e_ms", "e2el")),
        strict=False,
    ):
        values = np.sort(shown[column].dropna().to_numpy())
        _curve(axes, values, np.arange(1, len(values) + 1) / max(len(values), 1))
        _dress(axes, label, slo_ms.get(bound))
    total = max(int(gaps.count.sum()), 1)
    _curve(panels[3], gaps.gap_ns / 1e6, np.cumsum(gaps.count) / total)
    _dress(panels[3], "ITL", None)
    save_picture(figure, path)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; equal figures are equal bytes."""
    with warnings.catch_warnings():
        # A title may be in a script that the font of matplotlib lacks: boxes in the picture are all it costs.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(path, dpi=120, metadata={"Software": None})


def _curve(axes: Axes, values: NDArray[np.float64], share: NDArray[np.float64]) -> None:
    if not len(values):
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
        return
    axes.step(values, share, where="post", color=_COLOUR, linewidth=1.6)
    for q, mark in _MARKS.items():
        value = values[min(int(np.searchsorted(share, q / 100)), len(values) - 1)]
        label = f"p{q}  {short(value)} ms"
        axes.plot([value], [q / 100], mark, color=_COLOUR, markersize=5, linestyle="none", label=label)
    # A long tail hides the body on a linear axis, a narrow body looks best on one.
    positive = values[values > 0]
    if len(positive) and positive[-1] / positive[0] > 20:
        axes.set_xscale("log")


def log_scale(axes: Axes, values: NDArray[np.float64]) -> bool:
    """Make the vertical axis logarithmic, with plain numbers, if values lie far apart; tell whether they do.

    A tail far above the rest hides the rest on a linear axis.
    """
    positive = values[values > 0]
    if not len(positive) or positive.max() <= 20 * positive.min():
        return False
    axes.set_yscale("log")
    few_decades = positive.max() < 100 * positive.min()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True


def short(value: float) -> str:
    """Return a number in few characters, as it stands beside a point of a picture."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _dress(axes: Axes, label: str, bound: float | None) -> None:
    axes.set(
        xlabel=f"{label}, ms",
        ylabel="share of requests" if label != "ITL" else "share of gaps",
        ylim=(0, 1.02),
    )
    axes.grid(visible=True, alpha=0.3, which="both")
    if bound is not None:
        axes.axvline(bound, color="#b3372f", linestyle="--", linewidth=1.2, label=f"SLO {short(bound)} ms")
    if axes.get_legend_handles_labels()[0]:
        # Below and to the right of a rising curve there is always room.
        axes.legend(loc="lower right", fontsize=9)
