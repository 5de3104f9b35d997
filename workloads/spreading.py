"""Undoing a coarse clock: arrivals that share a tick are spread over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

    from workloads.table import IntColumn

__all__ = ["spread_ticks"]


def spread_ticks(times_ns: IntColumn, rng: Generator) -> IntColumn:
    """Spread arrivals with one time stamp at random over the time to the next one.

    Arrivals that share a stamp ``t`` move to independent uniform places in ``[t, t + tick)``, in order: what
    Poisson arrivals known only by their count in each tick look like. Evenly spaced they would be far more
    regular than any traffic. ``tick`` is the time to the next distinct stamp, but no more than the median
    such time: a silence after a burst is a silence, and a fine clock on which two arrivals happen to meet
    moves them by one ordinary gap at most. The arrivals of the last stamp take the median.

    Parameters
    ----------
    times_ns
        int64[n], never decreasing.
    rng
        Where the places come from.

    Returns
    -------
    numpy.ndarray
        int64[n], never decreasing; the very first arrival, and any alone with its stamp, stay where they were.
    """
    stamps, group, count = np.unique(times_ns, return_inverse=True, return_counts=True)
    if stamps.size == 1:
        return times_ns
    gaps = np.diff(stamps)
    median = np.sort(gaps)[(gaps.size - 1) // 2]
    tick = np.append(np.minimum(gaps, median), median)
    place = np.where(count[group] > 1, rng.random(times_ns.size), 0.0)
    place = place[np.lexsort((place, group))]
    place[0] = 0.0
    spread_ns: IntColumn = times_ns + (place * tick[group]).astype(np.int64)
    return spread_ns
