"""Which rank is the slowest, and for how long."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from serving import linear_prices

from perfdb.step_prices import FRACTION_BITS
from simulator.pace import slowest, steps_paced

batches = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3000)), min_size=1, max_size=5)
prices = st.builds(
    linear_prices,
    step_ns=st.just(1_000_000),
    token_ns=st.sampled_from([0, 100, 1000]),
    context_ns=st.sampled_from([0.0, 0.01, 3.0]),
    pair_ns=st.just(0.0),
)


def units(found, batch) -> int:
    """Return the price of a step, worked out knot by knot, with its fraction of a nanosecond."""
    curve = found.decode_curve(batch[0])
    place = max(place for place, knot in enumerate(curve.knots) if knot <= batch[1])
    price = curve.first[place] + curve.slope[place] * (batch[1] - curve.knots[place])
    return (found.constant_ns(batch[0]) << FRACTION_BITS) + price


@settings(max_examples=300)
@given(prices, batches, st.integers(1, 400))
def test_the_slowest_stays_the_slowest_for_so_many_steps_and_no_longer(found, drawn, most):
    pace = slowest(found, drawn)
    steps = steps_paced(found, drawn, pace, most)
    assert 1 <= steps <= most
    for step in range(steps):
        costs = [units(found, (decodes, context + step)) for decodes, context in drawn]
        assert costs.index(max(costs)) == pace
    if steps < most:
        costs = [units(found, (decodes, context + steps)) for decodes, context in drawn]
        assert costs.index(max(costs)) != pace


@settings(max_examples=200)
@given(prices, batches)
def test_a_step_costs_the_most_that_any_rank_costs_up_to_a_nanosecond(found, drawn):
    costs = [found.decode_ns(*batch) for batch in drawn]
    assert abs(max(costs) - costs[slowest(found, drawn)]) <= 1
