"""Measured points of one kernel table: shapes, the position on the curve of each shape, and times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Points"]


@dataclass(frozen=True, slots=True)
class Points:
    """Points in the order of their shapes and, within a shape, along its curve; each once.

    Attributes
    ----------
    shape
        What distinguishes the curves, int64, shape (points, columns).
    at
        Position on the curve (rows, tokens, elements), int64.
    ns
        Time, float64.
    curve
        Number of the curve, 0 and up, int64.
    """

    shape: NDArray[np.int64]
    at: NDArray[np.int64]
    ns: NDArray[np.float64]
    curve: NDArray[np.int64]

    @classmethod
    def of(cls, shape: Sequence[NDArray[np.int64]], at: NDArray[np.int64], ns: NDArray[np.float64]) -> Points:
        """Return rows in any order as points; of rows for one point the fastest counts."""
        order = np.lexsort((ns, at, *shape[::-1]))
        columns = np.stack([column[order] for column in shape], axis=1) if shape else np.zeros((len(at), 0), np.int64)
        at, ns = at[order], ns[order]
        other = np.append(True, (columns[1:] != columns[:-1]).any(axis=1))[: len(at)]
        first = other | np.append(True, at[1:] != at[:-1])[: len(at)]
        curve = np.cumsum(other) - 1
        return cls(columns[first].astype(np.int64), at[first].astype(np.int64), ns[first], curve[first])

    def where(self, keep: NDArray[np.bool_]) -> Points:
        """Return some of the points."""
        return Points(self.shape[keep], self.at[keep], self.ns[keep], self.curve[keep])

    def curves(self) -> Iterator[tuple[tuple[int, ...], slice]]:
        """Yield each shape with the place of its curve."""
        edges = np.flatnonzero(np.append(True, np.diff(self.curve) != 0))[: len(self.at)]
        ends = [*edges[1:], len(self.at)]
        for start, end in zip(edges, ends, strict=True):
            yield tuple(int(value) for value in self.shape[start]), slice(int(start), int(end))
