"""The folder of a validation: what is written into it."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Final

from simulator.cases import METRICS
from simulator.plots_validate import plot_by_users, plot_scatter
from simulator.result_folder import json_text
from simulator.validate_report import markdown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from simulator.staging import Staging
    from simulator.validate import Validation

__all__ = ["write_validation"]

#: What is drawn by the number of users, and what at all.
_MAIN: Final = ("ttft_mean", "tpot_mean")
_DRAWN: Final = (*_MAIN, "itl_mean", "e2e_mean", "output_tok_s")


def write_validation(found: Validation, content: Mapping[str, Any], staging: Staging) -> None:
    """Write ``predictions.csv``, ``skipped.csv``, ``report.json``, ``report.md`` and the pictures.

    Parameters
    ----------
    found
        What came of the cases.
    content
        The content of ``report.json``.
    staging
        The result directory in the making.

    Raises
    ------
    OutputError
        If the directory holds something else or cannot be written; the runs are still kept.
    """
    staging.place(lambda folder: _fill(folder, found, content))


def _fill(folder: Path, found: Validation, content: Mapping[str, Any]) -> None:
    predictions = (
        (name, metric, repr(figures[metric]))
        for name, figures in found.predicted.items()
        for metric in METRICS
        if metric in figures
    )
    _write_rows(folder / "predictions.csv", ("case_id", "metric", "predicted"), predictions)
    _write_rows(folder / "skipped.csv", ("case_id", "reason"), found.skipped.items())
    (folder / "report.json").write_text(json_text(content), encoding="utf-8")
    (folder / "report.md").write_text(markdown(content), encoding="utf-8")
    table = found.table().dropna(subset="predicted")
    for metric in _DRAWN:
        rows = table[table["metric"] == metric]
        if len(rows):
            plot_scatter(rows, metric, folder / f"{metric}.png")
    main = [metric for metric in _MAIN if (table["metric"] == metric).any()]
    if main:
        plot_by_users(table, main, folder / "users.png")


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
