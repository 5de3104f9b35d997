"""Which rows of a kernel table cannot be: faster than light, far slower than elsewhere, or beaten by a longer one.

A table holds what a script measured on one machine on one day. Three things give a wrong row away without knowing
the right one:

* it beats the speed of light, because its operands stayed in the cache from the repetition before;
* every other framework runs the same product on the same chip several times as fast, and more work takes no longer,
  because launches were timed and not kernels;
* a longer one of the same curve takes far less time.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from perfdb.points import Points

__all__ = ["Verdict", "possible", "screened", "slowest_sibling"]

#: A row this much faster than its bound cannot be: nominal peaks are met to a few percent.
LIGHT_MARGIN: Final = 1.05
#: Where kernels were timed, projections of three frameworks stay within 2.6 times of each other (99.9 % of the rows of
#: each). A curve with a row beyond that is also wrong in the rows around it that are still far off.
FAR_SLOWER: Final = 3.0
STILL_SLOWER: Final = 1.5
#: The time of a launch does not grow with the work: such rows are within this of the fastest of their curve. Slow
#: kernels do grow, and are measured again by later versions.
FLAT: Final = 2.0
#: Honest steps down, where a kernel changes with the number of rows, stay below this.
FAR_BEATEN: Final = 1.5
#: More than any kernel takes, ns: keeps the curves apart where all are scanned at once.
_APART: Final = 1e10


class Verdict(enum.IntEnum):
    """What screening says of a row."""

    SOUND = 0
    FASTER_THAN_LIGHT = 1
    SLOWER_THAN_SIBLINGS = 2
    BEATEN_BY_LONGER = 3


def screened(
    points: Points, bound_ns: NDArray[np.float64] | None = None, siblings_ns: NDArray[np.float64] | None = None
) -> NDArray[np.uint8]:
    """Return the :class:`Verdict` of each point, shape (points,).

    Parameters
    ----------
    points
        The table.
    bound_ns
        Speed of light of each; None where nobody knows it.
    siblings_ns
        What the slowest sibling takes, see :func:`slowest_sibling`; None not to compare with siblings.
    """
    found = np.zeros(len(points.ns), np.uint8)
    if siblings_ns is not None:
        found[_far_slower(points, siblings_ns)] = Verdict.SLOWER_THAN_SIBLINGS
    if bound_ns is not None:
        found[points.ns * LIGHT_MARGIN < bound_ns] = Verdict.FASTER_THAN_LIGHT
    found[points.ns <= 0] = Verdict.FASTER_THAN_LIGHT
    sound = np.flatnonzero(found == Verdict.SOUND)
    found[sound[_beaten(points.curve[sound], points.ns[sound])]] = Verdict.BEATEN_BY_LONGER
    return found


def possible(points: Points, bound_ns: NDArray[np.float64]) -> Points:
    """Return the points that are not faster than light: those that others may be held against."""
    return points.where((points.ns > 0) & ~(points.ns * LIGHT_MARGIN < bound_ns))


def slowest_sibling(points: Points, siblings: Sequence[Points], sizes: Sequence[int] = ()) -> NDArray[np.float64]:
    """Return the time of the slowest of other tables at each point, ns; NaN where none has it.

    Parameters
    ----------
    points, siblings
        Tables with the same columns.
    sizes
        Columns that are sizes: a sibling that lacks one is asked for the next larger, which is more work.
    """
    slowest = np.full(len(points.ns), np.nan)
    for sibling in siblings:
        shape = points.shape.copy()
        for column in sizes:
            there = np.unique(sibling.shape[:, column])
            shape[:, column] = there[np.minimum(np.searchsorted(there, shape[:, column]), len(there) - 1)]
        # Larger than all that the sibling has: not comparable.
        fits = (shape >= points.shape).all(axis=1)
        asked, key = _keys([(shape, points.at), (sibling.shape, sibling.at)])
        place = np.minimum(np.searchsorted(key, asked), len(key) - 1)
        slowest = np.fmax(slowest, np.where(fits & (key[place] == asked), sibling.ns[place], np.nan))
    return slowest


def _keys(tables: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> list[NDArray[np.int64]]:
    """Return one number for each (shape, position) of each table, equal for equal ones and in their order."""
    keys = [np.zeros(len(at), np.int64) for _, at in tables]
    for column in range(tables[0][0].shape[1] + 1):
        columns = [at if column == shape.shape[1] else shape[:, column] for shape, at in tables]
        values = np.unique(np.concatenate(columns))
        keys = [key * len(values) + np.searchsorted(values, one) for key, one in zip(keys, columns, strict=True)]
    return keys


def _far_slower(points: Points, siblings_ns: NDArray[np.float64]) -> NDArray[np.bool_]:
    ratio = points.ns / siblings_ns
    fastest = np.full(int(points.curve[-1]) + 1, np.inf)
    np.minimum.at(fastest, points.curve, points.ns)
    flat = points.ns <= FLAT * fastest[points.curve]
    off = flat & (ratio > STILL_SLOWER)
    new = np.append(True, (off[1:] != off[:-1]) | (points.curve[1:] != points.curve[:-1]))
    run = np.cumsum(new) - 1
    far = np.zeros(len(points.ns) + 1, bool)
    far[run[flat & (ratio > FAR_SLOWER)]] = True
    slower: NDArray[np.bool_] = off & far[run]
    return slower


def _beaten(curve: NDArray[np.int64], ns: NDArray[np.float64]) -> NDArray[np.bool_]:
    best_later = np.minimum.accumulate((ns + curve * _APART)[::-1])[::-1] - curve * _APART
    beaten: NDArray[np.bool_] = ns > best_later * FAR_BEATEN
    return beaten
