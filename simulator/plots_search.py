"""The picture of a search: what chips yield against how fast each user is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

from simulator.plots import COLOURS, save_picture
from simulator.search_space import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["plot_front"]

_SPLITS: Final = {
    split: (colour, marker) for split, colour, marker in zip(SPLITS, COLOURS, ("o", "s", "^", "D"), strict=False)
}


def plot_front(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every run by tokens per second of a chip and of a user, and the front of those that keep the SLO.

    Parameters
    ----------
    content
        The content of ``search.json``.
    rows
        The rows of ``points.parquet``.
    path
        PNG file to write.
    """
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    title = f"{content['name']}: {content['model']} on up to {content['gpus']} chips"
    figure.suptitle(title, parse_math=False)
    axes = figure.subplots()
    for split, (colour, marker) in _SPLITS.items():
        for keeps, face, label in ((True, colour, f"{split}, keeps the SLO"), (False, "none", f"{split}, misses it")):
            whole = [row for row in rows if row["split"] == split and row["round"] != "stage"]
            shown = [row for row in whole if row["keeps_slo"] == keeps]
            shown = [row for row in shown if row["tokens_per_s_per_user"] is not None]
            if shown:
                axes.scatter(
                    [row["tokens_per_s_per_user"] for row in shown],
                    [row["tokens_per_s_per_chip"] for row in shown],
                    s=22,
                    marker=marker,
                    facecolors=face,
                    edgecolors=colour,
                    alpha=0.75 if keeps else 0.35,
                    linewidths=0.9,
                    label=label,
                )
    front = content["front"]
    axes.plot(
        [row["tokens_per_s_per_user"] for row in front],
        [row["tokens_per_s_per_chip"] for row in front],
        color="black",
        linewidth=1.4,
        label="front",
    )
    for split, (colour, _) in _SPLITS.items():
        _mark_best(axes, content["best_by_split"].get(split), colour)
    axes.set(xlabel="output tokens/s of a user (1 / mean TPOT)", ylabel="output tokens/s of a chip", ylim=(0, None))
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False)
    save_picture(figure, path)


def _mark_best(axes: Any, best: Mapping[str, Any] | None, colour: str) -> None:  # noqa: ANN401 - matplotlib's axes
    if best is None:
        return
    place = (1e3 / best["mean_tpot_ms"], best["tokens_per_s_per_chip"])
    axes.scatter(*place, s=150, facecolors="none", edgecolors=colour, linewidths=1.8)
    text = axes.annotate(
        best["deployment"], place, textcoords="offset points", xytext=(10, 6), fontsize=8, color=colour
    )
    text.set_parse_math(False)
