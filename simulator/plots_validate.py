"""Pictures of predictions beside measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from simulator.plots import BOUND, COLOURS, save_picture
from simulator.scores import errors_percent

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_by_users", "plot_scatter"]

#: For more chips than there are colours.
_MARKERS = ("o", "^", "s", "D")

#: A run that queues for ever must not hide the others.
_LOWEST, _HIGHEST = -105, 200


def plot_scatter(table: pd.DataFrame, metric: str, path: Path) -> None:
    """Draw predicted against measured values of a metric, a panel for each engine, both axes logarithmic.

    Parameters
    ----------
    table
        Columns ``engine``, ``chip``, ``measured``, ``predicted``; rows with both values.
    metric
        What it is, for the title.
    path
        PNG file to write.
    """
    engines = sorted(table["engine"].unique())
    figure = Figure(figsize=(5.2 * len(engines), 5.4), layout="constrained")
    figure.suptitle(f"{metric}, {len(table)} cases (dashed: 20 % off)", parse_math=False)
    values = table[["measured", "predicted"]].to_numpy(float)
    bounds = (values.min() / 1.3, values.max() * 1.3)
    chips = sorted(table["chip"].unique())
    for axes, engine in zip(figure.subplots(1, len(engines), squeeze=False)[0], engines, strict=True):
        _diagonal(axes, bounds)
        of = table[table["engine"] == engine]
        for number, chip in enumerate(chips):
            rows = of[of["chip"] == chip]
            if len(rows):
                look: dict[str, Any] = {
                    "s": 14,
                    "alpha": 0.55,
                    "linewidths": 0,
                    "color": COLOURS[number % len(COLOURS)],
                    "marker": _MARKERS[number // len(COLOURS) % len(_MARKERS)],
                }
                axes.scatter(rows["measured"], rows["predicted"], label=chip, **look)
        unit = "tokens/s" if metric.endswith("tok_s") else "ms"
        axes.set(title=engine, xlabel=f"measured, {unit}", ylabel=f"predicted, {unit}")
        axes.legend(loc="upper left", fontsize=8)
    save_picture(figure, path)


def _diagonal(axes: Axes, bounds: tuple[float, float]) -> None:
    """Draw where a prediction is right, and where it is a fifth off."""
    line = np.array(bounds)
    axes.plot(line, line, color="#555555", linewidth=1)
    for factor in (0.8, 1.2):
        axes.plot(line, factor * line, **BOUND)
    axes.set(xscale="log", yscale="log", xlim=bounds, ylim=bounds)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, alpha=0.25, which="both")


def plot_by_users(table: pd.DataFrame, metrics: list[str], path: Path) -> None:
    """Draw the signed error of metrics by the number of users, a row of boxes for each engine.

    Parameters
    ----------
    table
        Columns ``metric``, ``engine``, ``users``, ``measured``, ``predicted``; rows with both values.
    metrics
        A column of panels each.
    path
        PNG file to write.
    """
    engines = sorted(table["engine"].unique())
    figure = Figure(figsize=(6.4 * len(metrics), 3.1 * len(engines)), layout="constrained")
    figure.suptitle(
        "Signed error by number of users, %: boxes are quartiles, whiskers 10 to 90 %, cut at 200", parse_math=False
    )
    panels = figure.subplots(len(engines), len(metrics), squeeze=False)
    for row, engine in enumerate(engines):
        for axes, metric in zip(panels[row], metrics, strict=True):
            of = table[(table["engine"] == engine) & (table["metric"] == metric)]
            _boxes(axes, of)
            axes.set(title=f"{engine}: {metric}", ylabel="error, %")
    save_picture(figure, path)


def _boxes(axes: Axes, rows: pd.DataFrame) -> None:
    groups = {
        str(name).strip(): errors_percent(of["measured"], of["predicted"])
        for name, of in rows.groupby("users", sort=True)
    }
    axes.axhline(0, color="#555555", linewidth=1)
    axes.grid(visible=True, axis="y", alpha=0.25)
    if groups:
        labels = [f"{name.replace(' and', chr(10) + 'and')}\n({len(errors)})" for name, errors in groups.items()]
        axes.boxplot(list(groups.values()), tick_labels=labels, whis=(10, 90), showfliers=False)
        axes.tick_params(axis="x", labelsize=7)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, _LOWEST), min(high, _HIGHEST))
