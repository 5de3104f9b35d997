"""Attention of decoding, linear between the contexts where its price is known."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from perfdb.step_prices import DecodeCurve, cumulated

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["linear_curve"]


def linear_curve(knots: Sequence[int], first: Sequence[int], beyond: int | None = None) -> DecodeCurve:
    """Return the curve through some prices.

    Parameters
    ----------
    knots
        Contexts in tokens, increasing, the first 0.
    first
        Price at each knot, units of 2**-FRACTION_BITS ns.
    beyond
        Growth per token beyond the last knot, same units; by default the last slope goes on, but noise must not make a
        price fall for ever.
    """
    slope = [(b - a) // (y - x) for (x, y), (a, b) in zip(pairwise(knots), pairwise(first), strict=True)]
    if beyond is None:
        beyond = max(slope[-1], 0) if slope else 0
    slope.append(beyond)
    return DecodeCurve(knots, cumulated(knots, first, slope), first, slope)
