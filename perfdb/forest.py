"""What a random forest over one feature says on average, in closed form: nothing is drawn and nothing is trained.

A tree grown to the end on a bootstrap sample of ``n`` rows puts a threshold midway between any two neighbouring
positions of its sample, and so answers with the rows of the nearest sampled position (the lower one at a tie). A
position with ``r`` rows is missing from a sample with probability ``(1 - r / n) ** n``. Positions miss it nearly
independently, so that the chance of each to be the nearest on either side is a product, and the mean over all forests a
weighted sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["forest_weights"]

#: Neighbours looked at on each side: one row is missing with probability 1/e, so that beyond lie less than 4e-6.
_NEIGHBOURS = 12


def forest_weights(
    positions: NDArray[np.float64], rows: NDArray[np.float64], asked: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weight of the rows at each position in the mean answer of a forest.

    Parameters
    ----------
    positions
        Distinct values of the feature, increasing, shape (positions,).
    rows
        Rows at each of them, same shape.
    asked
        Where the forest is asked, shape (points,).

    Returns
    -------
    numpy.ndarray
        float64, shape (points, positions); each line adds up to 1.

    Examples
    --------
    >>> forest_weights(np.array([8.0, 16.0]), np.array([50.0, 50.0]), np.array([8.0, 11.0, 13.0])).round(3).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    absent = (1 - rows / rows.sum()) ** rows.sum()
    right = np.searchsorted(positions, asked)
    below, above = _nearest(absent, right - 1, -1), _nearest(absent, right, 1)
    weights = np.zeros((len(asked), len(positions)))
    for left_place, left_chance in below:
        for right_place, right_chance in above:
            middle = (positions[left_place] + positions[right_place]) / 2
            # A side that has no position left leaves the answer to the other one.
            takes_left = (left_place >= 0) & ((right_place < 0) | (asked <= middle))
            np.add.at(
                weights,
                (np.arange(len(asked)), np.where(takes_left, left_place, right_place)),
                left_chance * right_chance * ((left_place >= 0) | (right_place >= 0)),
            )
    found: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return found


def _nearest(
    absent: NDArray[np.float64], start: NDArray[np.int64], step: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return positions from ``start`` on with their chance to be the nearest in a sample; last, as -1, that none is."""
    found, missing, place = [], np.ones(len(start)), start
    for _ in range(_NEIGHBOURS):
        inside = (place >= 0) & (place < len(absent))
        gone = np.where(inside, absent[np.clip(place, 0, len(absent) - 1)], 1.0)
        found.append((np.where(inside, place, -1), missing * (1 - gone)))
        missing, place = missing * gone, place + step
    return [*found, (np.full(len(start), -1), missing)]
