"""Pictures of many runs: latency CDFs of candidates, and a load curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from simulator.plots import COLOURS, save_picture, short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["plot_candidates", "plot_sweep"]

_STYLES: Final = ("-", "--", ":", "-.")
_BOUND: Final[Mapping[str, Any]] = {"color": "#b3372f", "linestyle": (0, (4, 3)), "linewidth": 1.2}
_MAIN, _SECOND = COLOURS[0], "#8a8a8a"
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
    colour, style = COLOURS[number % len(COLOURS)], _STYLES[number // len(COLOURS) % len(_STYLES)]
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
        axes.axvline(bound, **_BOUND)
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
        color=_BOUND["color"],
        # A bound beyond the picture is not written beside it.
        annotation_clip=True,
    )


def _legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    lines = [line for line in axes.lines if str(line.get_label()).isdecimal()]
    columns = _columns(dict.fromkeys(names))
    legend = figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def plot_sweep(content: Mapping[str, Any], path: Path) -> None:
    """Draw attainment, goodput, p99 TTFT and p99 TPOT against the load, with the capacity.

    Parameters
    ----------
    content
        The content of ``sweep.json``.
    path
        PNG file to write.
    """
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    figure.suptitle(f"{content['name']}: {content['model']}, {content['chips']} chips", parse_math=False)
    loads = np.array([load[content["kind"]] for load in content["loads"]], float)
    panels = figure.subplots(2, 2, sharex=True).ravel()
    _attainment(panels[0], content, loads)
    _goodput(panels[1], content, loads)
    for axes, label, key in ((panels[2], "TTFT", "ttft"), (panels[3], "TPOT", "tpot")):
        _latency(axes, loads, _means(content, f"p99_{key}_ms"), label, content["slo_ms"][key])
    for axes in panels:
        axes.grid(visible=True, alpha=0.25, which="both")
        if content["capacity"] is not None:
            axes.axvline(content["capacity"], color=COLOURS[2], linewidth=1.2)
    unit = "offered load, requests/s" if content["kind"] == "rate" else "concurrent users"
    for axes in panels[2:]:
        axes.set_xlabel(unit)
    save_picture(figure, path)


def _means(content: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    return np.array([load["mean"][key] for load in content["loads"]], float)


def _attainment(axes: Axes, content: Mapping[str, Any], loads: NDArray[np.float64]) -> None:
    low, high = (
        np.array([load[f"{end}_attainment"] for load in content["loads"]], float) for end in ("lowest", "highest")
    )
    axes.fill_between(loads, low, high, color=_MAIN, alpha=0.18, linewidth=0)
    _line(axes, loads, _means(content, "slo_attainment"))
    axes.axhline(content["attainment"], **_BOUND, label=f"target {content['attainment']:.4g}")
    if content["capacity"] is not None:
        unit = "requests/s" if content["kind"] == "rate" else "users"
        least = "at least " if content["missed_at"] is None else ""
        axes.plot(
            [content["capacity"]],
            [content["attainment"]],
            marker="D",
            color=COLOURS[2],
            linestyle="none",
            label=f"capacity {least}{content['capacity']:g} {unit}",
        )
    axes.set(ylabel="SLO attainment", ylim=(-0.02, 1.04))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="best", fontsize=9)


def _goodput(axes: Axes, content: Mapping[str, Any], loads: NDArray[np.float64]) -> None:
    axes.plot(loads, _means(content, "request_throughput"), color=_SECOND, linewidth=1.4, label="all requests done")
    _line(axes, loads, _means(content, "request_goodput"), label="goodput")
    axes.set(ylabel="requests/s")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best", fontsize=9)


def _latency(
    axes: Axes, loads: NDArray[np.float64], values: NDArray[np.float64], label: str, bound: float | None
) -> None:
    _line(axes, loads, values)
    if bound is not None:
        axes.axhline(bound, **_BOUND, label=f"SLO {short(bound)} ms")
        axes.legend(loc="best", fontsize=9)
    positive = values[values > 0]
    if len(positive) and positive.max() / positive.min() > 20:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(ylabel=f"p99 {label}, ms")


def _line(axes: Axes, loads: NDArray[np.float64], values: NDArray[np.float64], label: str | None = None) -> None:
    axes.plot(loads, values, marker="o", markersize=3.5, color=_MAIN, linewidth=1.7, label=label)
