"""Cumulative decode times at many contexts at once: the same integers as one by one, with numpy."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from perfdb.step_prices import FRACTION_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perfdb.step_prices import DecodeCurve

__all__ = ["cumulatives"]

#: Beyond this many nanoseconds sums in fractions of them may leave 64 bits.
_MOST_NS = 1 << (61 - FRACTION_BITS)


def cumulatives(curve: DecodeCurve, context: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return :meth:`perfdb.step_prices.DecodeCurve.cumulative` of many contexts.

    Parameters
    ----------
    curve
        Generation attention of one batch size.
    context
        Tokens, int64, any shape, none negative.

    Returns
    -------
    numpy.ndarray
        int64 of the same shape, ns.
    """
    longest = int(context.max(initial=0))
    if curve.cumulative(longest) > _MOST_NS:
        return np.array([curve.cumulative(int(c)) for c in context.ravel()], np.int64).reshape(context.shape)
    used = bisect_right(curve.knots, longest)
    knots, base, first, slope = (
        np.array(values[:used], np.int64) for values in (curve.knots, curve.base, curve.first, curve.slope)
    )
    knot = np.searchsorted(knots, context, side="right") - 1
    d = context - knots[knot]
    total: NDArray[np.int64] = base[knot] + d * first[knot] + slope[knot] * ((d * (d - 1)) >> 1)
    return total >> FRACTION_BITS
