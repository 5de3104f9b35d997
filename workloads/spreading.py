"""Undoing a coarse clock: arrivals that share a tick are spread over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from workloads.table import IntColumn

__all__ = ["spread_ticks"]


def spread_ticks(times_ns: IntColumn) -> IntColumn:
    """Spread arrivals with one time stamp evenly over the time to the next one.

    Of ``k`` arrivals stamped ``t``, the ``j``-th (from 0) moves to ``t + j * tick / k``, where ``tick`` is
    the time to the next distinct stamp, but no more than the median such time: a silence after a burst is
    a silence, and a fine clock on which two arrivals happen to meet moves them by one ordinary gap at most.
    The arrivals of the last stamp take the median.

    Parameters
    ----------
    times_ns
        int64[n], never decreasing.

    Returns
    -------
    numpy.ndarray
        int64[n], never decreasing; the first arrival of each stamp stays where it was.

    Examples
    --------
    >>> spread_ticks(np.array([0, 0, 0, 3000, 3000, 6000])).tolist()
    [0, 1000, 2000, 3000, 4500, 6000]
    """
    stamps, first, group, count = np.unique(times_ns, return_index=True, return_inverse=True, return_counts=True)
    if stamps.size == 1:
        return times_ns
    gaps = np.diff(stamps)
    median = np.sort(gaps)[(gaps.size - 1) // 2]
    tick = np.append(np.minimum(gaps, median), median)
    place = np.arange(times_ns.size) - first[group]
    spread_ns: IntColumn = times_ns + place * tick[group] // count[group]
    return spread_ns
