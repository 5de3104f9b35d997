"""How far predictions are from what was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Score", "errors_percent", "grouped", "score", "spearman"]


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of a metric over some cases, percent of what was measured.

    Attributes
    ----------
    cases, predicted
        How many were measured, and how many of them predicted.
    mean_ape, median_ape, p90_ape
        Mean (MAPE), median and 90th percentile of the absolute error.
    median_error
        Median of the signed error; above 0 is predicted too high.
    spearman
        Rank correlation of predicted and measured, -1 to 1; None for fewer than three cases, or where all are equal.
    """

    cases: int
    predicted: int
    mean_ape: float | None = None
    median_ape: float | None = None
    p90_ape: float | None = None
    median_error: float | None = None
    spearman: float | None = None

    @property
    def coverage(self) -> float:
        """Share of the measured cases that were predicted."""
        return self.predicted / self.cases if self.cases else 0.0

    def content(self) -> dict[str, Any]:
        """Return the numbers by name, with the coverage."""
        return asdict(self) | {"coverage": self.coverage}


def errors_percent(measured: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """Return signed errors, percent of what was measured."""
    errors: NDArray[np.float64] = 100 * (np.asarray(predicted, float) / np.asarray(measured, float) - 1)
    return errors


def score(measured: Sequence[float], predicted: Sequence[float | None]) -> Score:
    """Return the score of predictions.

    Parameters
    ----------
    measured
        Values above 0.
    predicted
        A value for each, None where there is none.

    Examples
    --------
    >>> found = score([100.0, 100.0, 200.0], [110.0, 80.0, None])
    >>> found.cases, found.predicted, round(found.median_ape, 6), round(found.median_error, 6)
    (3, 2, 15.0, -5.0)
    """
    pairs = [(m, p) for m, p in zip(measured, predicted, strict=True) if p is not None]
    if not pairs:
        return Score(len(measured), 0)
    of, found = zip(*pairs, strict=True)
    errors = errors_percent(of, found)
    absolute = np.abs(errors)
    return Score(
        len(measured),
        len(pairs),
        float(absolute.mean()),
        float(np.median(absolute)),
        float(np.percentile(absolute, 90)),
        float(np.median(errors)),
        spearman(of, found),
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the rank correlation of two columns, equal values sharing their mean rank; None where there is none."""
    one, other = (pd.Series(column).rank().to_numpy(float) for column in (first, second))
    if len(first) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def grouped(table: pd.DataFrame, by: Sequence[str]) -> dict[tuple[str, ...], Score]:
    """Return the score of each group of rows, in order of its name.

    Parameters
    ----------
    table
        Columns ``measured``, ``predicted`` (NaN for none) and those named in ``by``.
    by
        Columns whose values make a group.
    """
    found = {}
    for name, rows in table.groupby(list(by), sort=True, dropna=False):
        predicted = [None if np.isnan(value) else float(value) for value in rows["predicted"]]
        found[tuple(str(part) for part in name)] = score(rows["measured"].tolist(), predicted)
    return found
