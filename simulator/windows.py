"""A run cut into windows of a round length, and what happened in each.

Every function is one pass over columns: a run has many events and some hundred windows.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["mean_open", "mean_rate", "percentiles", "window_edges", "window_of"]

_MOST: Final = 200
_LEAST_NS: Final = 1_000_000


def window_edges(end_ns: int) -> NDArray[np.int64]:
    """Return the edges of the windows of a run: multiples of 1, 2 or 5 times a power of ten, and the end.

    There are at most 200, of 1 ms or more, and 80 or more where that allows it. The last is half as long as the others
    to half as long again, so that no window is too short to mean anything.

    Parameters
    ----------
    end_ns
        End of the run, ns.

    Returns
    -------
    array
        int64 of shape (windows + 1,), rising from 0.

    Examples
    --------
    >>> (window_edges(907_300_000_000)[[1, -2, -1]] / 1e9).tolist()
    [5.0, 905.0, 907.3]
    """
    end_ns = max(end_ns, _LEAST_NS)
    lengths = (step * 10**power for power in count() for step in (1, 2, 5))
    length = next(length for length in lengths if length >= _LEAST_NS and end_ns <= _MOST * length)
    windows = max(1, (end_ns + length // 2) // length)
    edges: NDArray[np.int64] = length * np.arange(windows + 1, dtype=np.int64)
    edges[-1] = end_ns
    return edges


def window_of(times_ns: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the window each time falls into, shape (times,); the last window holds its end."""
    found: NDArray[np.int64] = np.clip(np.searchsorted(edges, times_ns, side="right") - 1, 0, len(edges) - 2)
    return found


def mean_open(
    starts_ns: NDArray[np.int64],
    ends_ns: NDArray[np.int64],
    edges: NDArray[np.int64],
    weights: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return how many intervals were open in each window, averaged over its time.

    Parameters
    ----------
    starts_ns, ends_ns
        Intervals, shape (intervals,); what lies outside the windows is not counted.
    edges
        Edges of the windows.
    weights
        What an interval counts for; None for one each.

    Returns
    -------
    array
        Shape (windows,): the sum over intervals of weight times time inside the window, over the window's length.
    """
    counts = np.ones(len(starts_ns)) if weights is None else weights.astype(float)
    opened, opened_area = _from_then_on(starts_ns, counts, edges)
    closed, closed_area = _from_then_on(ends_ns, counts, edges)
    return (opened - closed) + (opened_area - closed_area) / np.diff(edges)


def _from_then_on(
    times_ns: NDArray[np.int64], weights: NDArray[np.float64], edges: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what counts from before each window, and weight times time of what counts from within it."""
    times_ns = np.clip(times_ns, edges[0], edges[-1])
    window, windows = window_of(times_ns, edges), len(edges) - 1
    within, area = (
        np.bincount(window, many, windows).astype(float) for many in (weights, weights * (edges[window + 1] - times_ns))
    )
    return np.cumsum(within) - within, area


def mean_rate(
    times_ns: NDArray[np.int64], amounts: NDArray[np.float64], edges: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how fast some amounts grew in each window, per ns, shape (windows, amounts).

    Parameters
    ----------
    times_ns
        Rising instants that cover the windows, shape (samples,); between two, amounts grow steadily.
    amounts
        The amounts at these instants, shape (samples, amounts).
    edges
        Edges of the windows.
    """
    before = np.clip(np.searchsorted(times_ns, edges, side="right") - 1, 0, len(times_ns) - 2)
    share = (edges - times_ns[before]) / (times_ns[before + 1] - times_ns[before])
    at_edges = amounts[before] + (amounts[before + 1] - amounts[before]) * share[:, np.newaxis]
    return np.diff(at_edges, axis=0) / np.diff(edges)[:, np.newaxis]


def percentiles(
    values: NDArray[np.float64], window: NDArray[np.int64], windows: int, wanted: Sequence[float]
) -> list[NDArray[np.float64]]:
    """Return linear percentiles of the values of each window, as ``numpy.percentile`` computes them.

    Parameters
    ----------
    values
        Shape (values,); NaN ones are left out.
    window
        The window of each, shape (values,).
    windows
        How many windows there are.
    wanted
        Percentages.

    Returns
    -------
    list
        One array of shape (windows,) per percentage; NaN where a window has no value.
    """
    known = ~np.isnan(values)
    values, window = values[known], window[known]
    ordered = np.append(values[np.lexsort((values, window))], np.nan)
    many = np.bincount(window, minlength=windows)
    first = np.cumsum(many) - many
    found = []
    for percentage in wanted:
        place = percentage / 100 * np.maximum(many - 1, 0)
        below = np.floor(place).astype(int)
        low, high = ordered[first + below], ordered[first + np.minimum(below + 1, np.maximum(many - 1, 0))]
        found.append(np.where(many > 0, low + (high - low) * (place - below), np.nan))
    return found
