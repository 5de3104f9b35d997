"""Columns of 64-bit integers, and ragged ones: what workloads are made of."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["IntColumn", "cuts", "frozen", "picked"]

IntColumn: TypeAlias = NDArray[np.int64]


def frozen(column: IntColumn) -> IntColumn:
    """Return a read-only view as contiguous 64-bit integers; the caller's own array stays as it is."""
    view = np.ascontiguousarray(column, dtype=np.int64).view()
    view.flags.writeable = False
    return view


def cuts(offsets: IntColumn, column: IntColumn) -> bool:
    """Tell whether offsets cut a ragged column into rows: they rise from 0 to its length."""
    ends = (int(offsets[0]), int(offsets[-1])) if offsets.size else (-1, -1)
    return ends == (0, column.size) and not bool((np.diff(offsets) < 0).any())


def picked(offsets: IntColumn, rows: IntColumn) -> tuple[IntColumn, IntColumn]:
    """Return the offsets of some rows of a ragged column, and the places of what they hold."""
    sizes = offsets[rows + 1] - offsets[rows]
    new = np.append(0, np.cumsum(sizes))
    return new, np.repeat(offsets[rows] - new[:-1], sizes) + np.arange(new[-1])
