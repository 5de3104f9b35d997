"""Pictures of load curves: one deployment by every measure, or the attainment of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from simulator.loads import LOAD_UNITS
from simulator.plots import BOUND, COLOURS, STYLES, log_scale, save_picture, short

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["plot_capacities", "plot_sweep"]

_MAIN, _SECOND = COLOURS[0], "#8a8a8a"
_LOADS: Final = {"rate": "offered load, requests/s", "concurrency": "concurrent users"}


def plot_sweep(content: Mapping[str, Any], path: Path) -> None:
    """Draw attainment, goodput, utilisation and p99 latencies against the load, with the capacity.

    Parameters
    ----------
    content
        The content of ``sweep.json``.
    path
        PNG file to write.
    """
    figure = Figure(figsize=(14, 7.2), layout="constrained")
    figure.suptitle(f"{content['name']}: {content['model']}, {content['chips']} chips", parse_math=False)
    loads = np.array([load[content["kind"]] for load in content["loads"]], float)
    panels = figure.subplots(2, 3, sharex=True).ravel()
    _attainment(panels[0], content, loads)
    _goodput(panels[1], content, loads)
    _utilisation(panels[2], content, loads)
    for axes, label, key in zip(panels[3:], ("TTFT", "TPOT", "E2E"), ("ttft", "tpot", "e2el"), strict=True):
        _latency(axes, loads, _means(content, f"p99_{key}_ms"), label, content["slo_ms"][key])
    for axes in panels:
        axes.grid(visible=True, alpha=0.25, which="both")
        if content["capacity"] is not None:
            axes.axvline(content["capacity"], color=COLOURS[2], linewidth=1.2)
    for axes in panels[3:]:
        axes.set_xlabel(_LOADS[content["kind"]])
    save_picture(figure, path)


def plot_capacities(content: Mapping[str, Any], path: Path) -> None:
    """Draw attainment of several candidates against the load, with their capacities.

    Where they have different numbers of chips, a second panel is against the load per chip.

    Parameters
    ----------
    content
        The content of the ``sweep.json`` of several candidates.
    path
        PNG file to write.
    """
    candidates = content["candidates"]
    figure = Figure(figsize=(12, 5.2 + 0.22 * len(candidates)), layout="constrained")
    figure.suptitle(f"{content['name']}: SLO attainment under load", parse_math=False)
    sizes_differ = len({candidate["chips"] for candidate in candidates}) > 1
    panels = figure.subplots(1, 1 + sizes_differ, sharey=True, squeeze=False)[0]
    for number, candidate in enumerate(candidates):
        for axes, share in zip(panels, (1, candidate["chips"]), strict=False):
            _candidate(axes, candidate, number, share)
    for axes, per in zip(panels, ("", " per chip"), strict=False):
        axes.axhline(content["attainment"], **BOUND, label="target")
        axes.set(xlabel=f"{_LOADS[content['kind']]}{per}", ylim=(-0.02, 1.04))
        axes.grid(visible=True, alpha=0.25)
    panels[0].set_ylabel("SLO attainment")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    names = [*(_named(candidate) for candidate in candidates), f"target {content['attainment']:.4g}"]
    legend = figure.legend(panels[0].get_legend_handles_labels()[0], names, loc="outside lower left", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    save_picture(figure, path)


def _candidate(axes: Axes, candidate: Mapping[str, Any], number: int, share: int) -> None:
    """Draw one curve and, where there is one, its capacity, both by so many chips."""
    loads = np.array([load[candidate["kind"]] for load in candidate["loads"]], float) / share
    colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
    look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.7, "marker": "o", "markersize": 3.0}
    axes.plot(loads, _means(candidate, "slo_attainment"), label=f"{number}", **look)
    if candidate["capacity"] is not None:
        place = candidate["capacity"] / share
        axes.plot([place], [candidate["attainment"]], marker="D", color=colour, linestyle="none")


def _named(candidate: Mapping[str, Any]) -> str:
    capacity, unit = candidate["capacity"], LOAD_UNITS[candidate["kind"]]
    least = "at least " if candidate["missed_at"] is None else ""
    found = (
        "no load" if capacity is None else f"{least}{capacity:g} {unit}, {capacity / candidate['chips']:.3g} per chip"
    )
    return f"{candidate['name']} ({candidate['chips']} chips): {found}"


def _means(content: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    return np.array([load["mean"][key] for load in content["loads"]], float)


def _attainment(axes: Axes, content: Mapping[str, Any], loads: NDArray[np.float64]) -> None:
    low, high = (
        np.array([load[f"{end}_attainment"] for load in content["loads"]], float) for end in ("lowest", "highest")
    )
    axes.fill_between(loads, low, high, color=_MAIN, alpha=0.18, linewidth=0)
    _line(axes, loads, _means(content, "slo_attainment"))
    axes.axhline(content["attainment"], **BOUND, label=f"target {content['attainment']:.4g}")
    if content["capacity"] is not None:
        unit = LOAD_UNITS[content["kind"]]
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


def _utilisation(axes: Axes, content: Mapping[str, Any], loads: NDArray[np.float64]) -> None:
    _line(axes, loads, _means(content, "utilisation"), label="instances")
    if any(load["mean"]["busiest_link_utilisation"] is not None for load in content["loads"]):
        link = _means(content, "busiest_link_utilisation")
        axes.plot(loads, link, marker="s", markersize=3.0, color=COLOURS[1], linewidth=1.4, label="busiest link")
    axes.set(ylabel="share of time busy", ylim=(0, 1.04))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="best", fontsize=9)


def _latency(
    axes: Axes, loads: NDArray[np.float64], values: NDArray[np.float64], label: str, bound: float | None
) -> None:
    _line(axes, loads, values)
    if bound is not None:
        axes.axhline(bound, **BOUND, label=f"SLO {short(bound)} ms")
        axes.legend(loc="best", fontsize=9)
    if not log_scale(axes, values):
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set(ylabel=f"p99 {label}, ms")


def _line(axes: Axes, loads: NDArray[np.float64], values: NDArray[np.float64], label: str | None = None) -> None:
    axes.plot(loads, values, marker="o", markersize=3.5, color=_MAIN, linewidth=1.7, label=label)
