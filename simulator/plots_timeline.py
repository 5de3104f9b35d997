"""Pictures over time: how one run unfolds, and how busy the links of several were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

from simulator.plots import BOUND, COLOURS, STYLES, log_scale, save_picture, short
from simulator.timeline import LINK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["Caption", "plot_links", "plot_timeline"]

_PANEL_INCHES, _TOP_INCHES, _BOTTOM_INCHES, _LINE_INCHES = 1.28, 0.62, 0.6, 0.21
#: What the legend beside a panel and the lines below have room for.
_MOST_POOLS, _MOST_WAITING, _MOST_INCIDENTS = 6, 3, 12


@dataclass(frozen=True, slots=True)
class Caption:
    """What stands in the picture of a run beside its windows.

    Attributes
    ----------
    title
        Title of the picture.
    slo_ms
        Bounds by ``ttft``, ``tpot`` and ``e2el``, ms, None for no bound.
    incidents
        What to mark, (ns, words), in order of time.
    warmup_s
        The warm-up, shaded.
    """

    title: str
    slo_ms: Mapping[str, float | None]
    incidents: Sequence[tuple[int, str]] = ()
    warmup_s: float = 0.0


def plot_timeline(table: pd.DataFrame, caption: Caption, path: Path) -> None:
    """Draw requests, latencies, pools and links of a run, one panel above the other, over one axis of time.

    Parameters
    ----------
    table
        The windows of the run, as :func:`simulator.timeline.timeline_table` returns them.
    caption
        What else is shown.
    path
        PNG file to write.
    """
    edges = np.append(table["start_s"].to_numpy(), table["end_s"].iloc[-1])
    shown = [(time_ns / 1e9, text) for time_ns, text in caption.incidents if time_ns / 1e9 <= edges[-1]]
    links = [name for name in table.columns if name.startswith(LINK)]
    figure, panels = _panels(6 + bool(links), min(len(shown), _MOST_INCIDENTS + 1), caption.title)
    _requests(panels[0], table, edges)
    _queues(panels[1], table, edges)
    for axes, label, columns, bound in (
        (panels[2], "TTFT", ("p50_ttft_ms", "p99_ttft_ms"), caption.slo_ms.get("ttft")),
        (panels[3], "TPOT", ("p99_tpot_ms",), caption.slo_ms.get("tpot")),
        (panels[4], "E2E", ("p99_e2el_ms",), caption.slo_ms.get("e2el")),
    ):
        _latency(axes, table, edges, label, columns, bound)
    _shares(panels[5], "instances busy", edges, _by_pool(table, "utilisation_"))
    for axes in panels[1:6:4]:
        _say_left_out(axes, table)
    if links:
        curves = {name.removeprefix(LINK): table[name].to_numpy() for name in links}
        _shares(panels[6], "links in use", edges, curves)
    for axes in panels:
        if caption.warmup_s > 0:
            axes.axvspan(0, min(caption.warmup_s, edges[-1]), color="#000000", alpha=0.07, linewidth=0)
        _dress(axes, edges)
    _mark(figure, panels, shown)
    panels[-1].set_xlabel("time, s")
    save_picture(figure, path)


def plot_links(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], title: str, path: Path) -> None:
    """Draw how busy the busiest link of each of several runs was.

    Parameters
    ----------
    curves
        By name: the edges of windows, s, shape (windows + 1,), and the share of the capacity in use in each, shape
        (windows,).
    title
        Title of the picture.
    path
        PNG file to write.
    """
    figure, (axes,) = _panels(1, 0, title, inches=3.2)
    last = max(float(edges[-1]) for edges, _ in curves.values())
    for number, (name, (edges, values)) in enumerate(curves.items()):
        axes.stairs(values, edges, baseline=None, label=_clipped(name), **_line(number))
    axes.set_ylabel("busiest link in use")
    _percent(axes, [values for _, values in curves.values()])
    _dress(axes, np.array([0.0, last]))
    axes.set_xlabel("time, s")
    save_picture(figure, path)


def _panels(number: int, lines: int, title: str, inches: float = _PANEL_INCHES) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, room for legends to their right, and for lines of text below."""
    bottom = _BOTTOM_INCHES + _LINE_INCHES * lines
    height = number * inches + _TOP_INCHES + bottom
    figure = Figure(figsize=(12, height))
    figure.suptitle(title, x=0.07, y=1 - 0.2 / height, ha="left", va="top", parse_math=False, fontsize=12)
    places: dict[str, float] = {"left": 0.07, "right": 0.79, "top": 1 - _TOP_INCHES / height, "bottom": bottom / height}
    grid = figure.subplots(number, 1, sharex=True, squeeze=False, gridspec_kw={**places, "hspace": 0.16})
    return figure, list(grid.ravel())


def _line(number: int) -> dict[str, Any]:
    """Return colour and style of one of several lines."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
        "linewidth": 1.3,
    }


def _clipped(name: str, letters: int = 30) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _by_pool(table: pd.DataFrame, measure: str) -> dict[str, NDArray[np.float64]]:
    """Return a measure of every pool, by its name; of very many, the first ones."""
    found = [name for name in table.columns if name.startswith(measure)]
    return {name.removeprefix(measure): table[name].to_numpy() for name in found[:_MOST_POOLS]}


def _say_left_out(axes: Axes, table: pd.DataFrame) -> None:
    pools = sum(name.startswith("utilisation_") for name in table.columns)
    if pools > _MOST_POOLS:
        axes.plot([], [], " ", label=f"{pools - _MOST_POOLS} more in timeline.parquet")


def _requests(axes: Axes, table: pd.DataFrame, edges: NDArray[np.float64]) -> None:
    for number, name in enumerate(("arrived", "finished")):
        axes.stairs(table[name] / np.diff(edges), edges, baseline=None, label=name, **_line(number))
    if table["failed"].any():
        failed = (table["failed"] / np.diff(edges)).to_numpy()
        axes.stairs(failed, edges, fill=True, color=BOUND["color"], alpha=0.7, label="refused or failed")
    axes.set_ylabel("requests/s")
    axes.set_ylim(bottom=0)


def _queues(axes: Axes, table: pd.DataFrame, edges: NDArray[np.float64]) -> None:
    waiting, running = _by_pool(table, "queued_"), _by_pool(table, "running_")
    for number, (name, values) in enumerate(running.items()):
        axes.stairs(values, edges, baseline=None, label=f"{_clipped(name, 22)} running", **_line(number))
    # One line for all where the legend has no room for more.
    if len(running) > _MOST_WAITING:
        waiting = {"all": table.filter(regex="^queued_").sum(axis=1).to_numpy()}
    for number, (name, values) in enumerate(waiting.items()):
        look = _line(number if name in running else len(running)) | {"linestyle": ":"}
        axes.stairs(values, edges, baseline=None, label=f"{_clipped(name, 22)} waiting", **look)
    axes.set_ylabel("requests")
    axes.set_ylim(bottom=0)


def _latency(  # noqa: PLR0913, PLR0917 - what a panel shows
    axes: Axes,
    table: pd.DataFrame,
    edges: NDArray[np.float64],
    label: str,
    columns: Sequence[str],
    bound: float | None,
) -> None:
    scale, unit = (1e3, "s") if table[columns[-1]].max() >= 5000 else (1.0, "ms")
    for column in columns:
        look = _line(0) if column.startswith("p99") else _line(4)
        axes.stairs(table[column] / scale, edges, baseline=None, label=f"{label} {column[:3]}", **look)
    every = table[list(columns)].to_numpy() / scale
    wide, high = log_scale(axes, every), np.nanmax(every, initial=0.0)
    if bound is not None and (wide or bound / scale < 4 * high):
        axes.axhline(bound / scale, **BOUND, label=f"SLO {short(bound)} ms")
    elif bound is not None:
        axes.plot([], [], " ", label=f"SLO {short(bound)} ms, far above")
    if not wide:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{label}, {unit}")


def _shares(axes: Axes, label: str, edges: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]]) -> None:
    for number, (name, values) in enumerate(curves.items()):
        axes.stairs(values, edges, baseline=None, label=_clipped(name), **_line(number))
    axes.set_ylabel(label)
    _percent(axes, list(curves.values()))


def _percent(axes: Axes, curves: Sequence[NDArray[np.float64]]) -> None:
    """Show shares as percentages: all of them, or closer where all is small."""
    highest = max((float(values.max()) for values in curves), default=0.0)
    whole = highest > 0.5 or not highest
    axes.set_ylim(0, 1.05 if whole else max(1.15 * highest, 1e-4))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_locator(MultipleLocator(0.25) if whole else MaxNLocator(4, min_n_ticks=3))


def _dress(axes: Axes, edges: NDArray[np.float64]) -> None:
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(visible=True, alpha=0.25)
    axes.tick_params(labelsize=8.5)
    axes.yaxis.label.set_fontsize(9.5)
    axes.yaxis.set_label_coords(-0.056, 0.5)
    if axes.get_yscale() == "linear" and not isinstance(axes.yaxis.get_major_formatter(), PercentFormatter):
        axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.04), fontsize=8.5, frameon=False, borderaxespad=0.2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _mark(figure: Figure, panels: Sequence[Axes], incidents: Sequence[tuple[float, str]]) -> None:
    """Draw a numbered line through every panel where something happened, and say below what it was."""
    together: dict[float, list[int]] = {}
    for number, (time_s, text) in enumerate(incidents[:_MOST_INCIDENTS], 1):
        together.setdefault(round(time_s, 6), []).append(number)
        _note(figure, panels[-1], number, f"{number}   {round(time_s, 6):,.6g} s   {text}")
    for time_s, numbers in together.items():
        for axes in panels:
            axes.axvline(time_s, color="#000000", linestyle=":", linewidth=1.1)
        panels[0].annotate(
            f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}",
            (time_s, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=8.5,
            bbox={"boxstyle": "circle,pad=0.18", "facecolor": "#ffffff", "linewidth": 0.8},
        )
    if len(incidents) > _MOST_INCIDENTS:
        _note(
            figure, panels[-1], _MOST_INCIDENTS + 1, f"and {len(incidents) - _MOST_INCIDENTS} more, in timeline.parquet"
        )


def _note(figure: Figure, lowest: Axes, number: int, text: str) -> None:
    """Write a line below the lowest panel."""
    inches = _BOTTOM_INCHES + _LINE_INCHES * (number - 0.3)
    place = lowest.get_position().y0 - inches / figure.get_figheight()
    figure.text(0.07, place, text, fontsize=9, parse_math=False)
