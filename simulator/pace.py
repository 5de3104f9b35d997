"""Which of several ranks that step together takes the longest, and for how many steps it stays the one.

A step of decoding lasts as long as that of the rank whose price is the highest, fractions of a nanosecond included; the
first of equals. A run of steps is paced by one rank, so that it costs what its decode curve says, exactly
(``docs/decisions/003-decode-cumulatives.md``): it ends where another one becomes slower.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfdb.step_prices import StepPrices

__all__ = ["Batch", "slowest", "step_of_all_ns", "steps_paced"]

#: Sequences of a rank that decode, and the floor of their mean context.
Batch = tuple[int, int]


def slowest(prices: StepPrices, batches: Sequence[Batch]) -> int:
    """Return the place of the batch whose next step costs the most; the first of equals."""
    if len(batches) == 1:
        return 0
    costs = [_piece(prices, *batch)[0] for batch in batches]
    return costs.index(max(costs))


def steps_paced(prices: StepPrices, batches: Sequence[Batch], pace: int, most: int) -> int:
    """Return for how many steps, up to ``most``, the batch at place ``pace`` stays the slowest."""
    own = batches[pace]
    for place, batch in enumerate(batches):
        if most > 1 and batch != own:
            most = _steps_ahead(prices, own, batch, most, margin=int(place < pace))
    return most


def step_of_all_ns(prices: StepPrices, costs: Sequence[tuple[int, int]], ranks: int) -> int:
    """Return how long a step lasts in which some ranks compute prompts.

    Where graphs do not ask for equal batches, experts compute the tokens that there are, and not as many of each rank
    as the largest has: what ranks run together is priced for the mean of their tokens.

    Parameters
    ----------
    prices
        Of each rank, as if all had as many tokens.
    costs
        For each rank with something to do: the price of its step, ns, and its tokens.
    ranks
        All ranks.
    """
    shared = prices.shared_ns
    if not shared:
        return max(price for price, _ in costs)
    own_ns = max(price - shared[tokens] for price, tokens in costs)
    return own_ns + shared[-(-sum(tokens for _, tokens in costs) // ranks)]


def _piece(prices: StepPrices, decodes: int, context: int) -> tuple[int, int, int]:
    """Return the price of a step in units of 2**-FRACTION_BITS ns, its growth, and the steps for which it grows so."""
    curve = prices.step_curve(decodes)
    knots = curve.knots
    place = bisect_right(knots, context)
    growth = curve.slope[place - 1]
    left = knots[place] - context if place < len(knots) else 1 << 40
    return curve.first[place - 1] + growth * (context - knots[place - 1]), growth, left


def _steps_ahead(prices: StepPrices, batch: Batch, other: Batch, most: int, *, margin: int) -> int:
    """Return the steps, up to ``most``, for which a batch costs at least ``margin`` more than another one."""
    step = 0
    while step < most:
        price, growth, left = _piece(prices, batch[0], batch[1] + step)
        others_price, others_growth, others_left = _piece(prices, other[0], other[1] + step)
        ahead, change = price - others_price - margin, growth - others_growth
        if ahead < 0:
            return step
        length = min(left, others_left)
        if change < 0 and (passed := ahead // -change + 1) < length:
            return min(most, step + passed)
        step += length
    return most
