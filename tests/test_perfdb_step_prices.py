"""Laws of step prices: a run of steps is the sum of its steps, chunks add up, more work never costs less."""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import LIMITS, costs_of, prefill_ns

from hardware.catalogue import load_chip
from perfdb.compile import HostTime, _context_curve, _decode_curve, _doubling_knots
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import step_operators
from perfdb.roofline import RooflineSource
from perfdb.step_prices import FRACTION_BITS, Launches, StepPrices

LONGEST = 131_072
KNOTS = _doubling_knots(LONGEST)
ROOFLINE = [("Llama-3.1-8B", "h200_sxm", 1), ("Qwen3-32B", "a100_80_sxm", 4), ("Qwen2.5-7B", "l4", 2)]

knot_prices = st.lists(st.floats(1e3, 1e9), min_size=len(KNOTS), max_size=len(KNOTS))
contexts = st.integers(0, LONGEST - 1)
cuts = st.lists(st.integers(1, 2048), min_size=1, max_size=4)


def any_prices(ns, constant=0, launch=0):
    """Return prices whose generation attention is `ns` at the knots, rising or not."""
    curve, whole = _decode_curve(KNOTS, np.array(ns)), _context_curve(KNOTS, np.array(ns))
    launches = Launches(launch, launch)
    return StepPrices([constant] * 9, [0] * 9, [0] * 9, lambda _: curve, lambda _: whole, launches)


def roofline(model="Llama-3.1-8B", chip="h200_sxm", tensor=1, **options):
    return costs_of(model, chip, tensor, ("roofline",), **options).prices


# --- eager hosts -------------------------------------------------------------------------------------


@given(knot_prices, st.integers(0, 10**9), st.lists(contexts, min_size=1, max_size=20))
def test_a_curve_with_a_floor_is_the_larger_of_both_at_every_context(ns, floor_ns, where):
    curve = _decode_curve(KNOTS, np.array(ns))
    floor = floor_ns << FRACTION_BITS
    raised = curve.never_below(floor)
    assert raised.knots == sorted(set(raised.knots))
    # Contexts at random, and those around every knot, where the two change places.
    near = {max(knot + d, 0) for knot in raised.knots for d in (-1, 0, 1)}
    for context in sorted(near.union(where)):
        assert exact_price(raised, context) == max(exact_price(curve, context), floor)


def exact_price(curve, context):
    """Return the price at a context in units of 2**-10 ns."""
    place = max(i for i, knot in enumerate(curve.knots) if knot <= context)
    return curve.first[place] + curve.slope[place] * (context - curve.knots[place])


@given(knot_prices, st.integers(0, 10**6), st.integers(0, 10**9), contexts, st.integers(1, 300))
def test_a_step_of_an_eager_engine_takes_as_long_as_its_kernels_or_their_launches(ns, constant, launch, context, steps):
    curve = _decode_curve(KNOTS, np.array(ns))

    def prices(launches):
        return StepPrices([constant] * 9, [0] * 9, [7] * 9, lambda _: curve, lambda _: curve, launches)

    eager, hurried = prices(Launches(launch, launch)), prices(None)
    singles = [eager.decode_ns(3, context + i) for i in range(steps)]
    assert eager.decode_ns(3, context, steps) == sum(singles)
    for i, single in enumerate(singles):
        assert single == pytest.approx(max(hurried.decode_ns(3, context + i), launch + 7), abs=2)


# --- decode ------------------------------------------------------------------------------------------


@given(knot_prices, st.integers(0, 10**6), contexts, st.integers(1, 300))
def test_a_run_of_steps_costs_exactly_the_sum_of_its_steps(ns, constant, context, steps):
    prices = any_prices(ns, constant)
    assert prices.decode_ns(3, context, steps) == sum(prices.decode_ns(3, context + i) for i in range(steps))


@given(st.integers(1, 256), st.integers(0, 16_000), st.integers(1, 300), st.integers(1, 300))
def test_real_runs_split_anywhere_cost_the_same(sequences, context, first, second):
    prices = roofline()
    parts = prices.decode_ns(sequences, context, first) + prices.decode_ns(sequences, context + first, second)
    assert prices.decode_ns(sequences, context, first + second) == parts


@given(
    knot_prices,
    st.integers(0, 10**6),
    contexts,
    st.integers(0, 10**12),
    st.integers(1, 10**5),
    st.sampled_from([0, 10**6, 10**9]),
)
def test_steps_covering_is_the_fewest_steps_that_last_long_enough(ns, constant, context, elapsed, limit, launch):
    prices = any_prices(ns, constant, launch)
    steps, duration = prices.steps_covering(3, context, elapsed, limit)
    assert duration == prices.decode_ns(3, context, steps)
    assert 1 <= steps <= limit
    assert steps == limit or prices.decode_ns(3, context, steps) >= elapsed
    assert steps == 1 or prices.decode_ns(3, context, steps - 1) < elapsed


@given(st.sampled_from(ROOFLINE), st.integers(1, 256), st.integers(0, 16_000), st.integers(1, 300), st.integers(-3, 3))
def test_steps_covering_finds_every_step_boundary_of_a_real_run(case, sequences, context, steps, early_ns):
    prices = roofline(*case)
    boundary = prices.decode_ns(sequences, context, steps)
    found, lasted = prices.steps_covering(sequences, context, boundary - early_ns, 1000)
    assert found == steps + (early_ns < 0)
    assert lasted == prices.decode_ns(sequences, context, found)


@given(knot_prices, contexts, st.integers(1, 10**5))
def test_steps_covering_is_the_inverse_of_the_price(ns, context, steps):
    prices = any_prices(ns, constant=1)
    lasted = prices.decode_ns(3, context, steps)
    assert prices.steps_covering(3, context, lasted, 10**6) == (steps, lasted)
    assert prices.steps_covering(3, context, lasted + 1, 10**6)[0] == steps + 1
    assert prices.steps_covering(3, context, lasted + 1, steps) == (steps, lasted)


@given(knot_prices, contexts)
def test_a_step_costs_what_lies_on_the_line_between_the_knots(ns, context):
    prices = any_prices(ns)
    off = prices.decode_ns(3, context) - np.interp(context, KNOTS, ns)
    # Cumulatives are whole ns, and a slope is rounded down to 2**-10 ns per token since the knot.
    since = context - KNOTS[np.searchsorted(KNOTS, context, side="right") - 1]
    assert -1.01 - since / 2**FRACTION_BITS <= off <= 1.01


@given(st.integers(1, 256), st.integers(0, 16_000))
def test_real_steps_are_within_a_nanosecond_of_the_line_and_a_rounded_slope(sequences, context):
    costs = costs_of("Llama-3.1-8B", "h200_sxm", 1, ("roofline",))
    at = costs.generation.ns.reshape(-1, len(costs.generation_knots))[sequences]
    line = np.interp(context, costs.generation_knots, at) + costs.prices.constant_ns(sequences)
    off = costs.prices.decode_ns(sequences, context) - line
    assert abs(off) <= 1.01 + 8192 / 2**FRACTION_BITS
    assert abs(off) <= 1e-5 * line


@given(st.sampled_from(ROOFLINE), st.integers(1, 255), st.integers(0, 16_000), st.integers(1, 300))
def test_more_sequences_or_longer_contexts_never_cost_less(case, sequences, context, steps):
    prices = roofline(*case)
    price = prices.decode_ns(sequences, context, steps)
    assert price <= prices.decode_ns(sequences + 1, context, steps) + 1
    assert price <= prices.decode_ns(sequences, context + 1, steps) + 1
    assert price < prices.decode_ns(sequences, context, steps + 1)


# --- prompts and chunks ------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [1, 3, 8])
@pytest.mark.parametrize("case", ROOFLINE)
def test_whole_prompts_cost_what_the_source_says_of_plain_prompts(case, prompts):
    model, chip, tensor = case
    (attention,) = step_operators(load_model(model), Layout(tensor)).context
    prices = roofline(*case)
    for tokens in (64, 512, 768, 1000, 1024):
        found = prefill_ns(prices, *[(0, tokens)] * prompts)
        plain = RooflineSource(load_chip(chip)).attention(attention, np.array([prompts]), np.array([tokens])).ns[0]
        rest = prices.token_ns[prompts * tokens] + prices.host_ns[prompts] + prices.sample_ns[0]
        # Between its knots the square root of the price is a line.
        assert found - rest == pytest.approx(attention.count * plain, rel=0.01 if tokens == 1000 else 1e-6, abs=2)


@given(st.sampled_from(ROOFLINE), cuts)
def test_chunks_of_a_prompt_attend_at_least_as_long_as_the_whole(case, sizes):
    prices = roofline(*case)
    ends = list(accumulate(sizes, initial=0))
    parts = [prefill_ns(prices, (past, end - past)) - prices.token_ns[end - past] for past, end in pairwise(ends)]
    whole = prefill_ns(prices, (0, ends[-1])) - prices.token_ns[ends[-1]]
    assert sum(parts) >= whole - len(parts)


@given(st.sampled_from(ROOFLINE), st.integers(0, 12_000), st.integers(1, 4000), st.integers(1, 2048))
def test_a_chunk_costs_more_the_further_back_it_must_look(case, past, further, new):
    prices = roofline(*case)
    assert prefill_ns(prices, (past, new)) <= prefill_ns(prices, (past + further, new))


@given(st.sampled_from(ROOFLINE), st.integers(0, 4000), st.integers(1, 4000), st.integers(1, 2000))
def test_more_new_tokens_never_cost_less(case, past, new, more):
    prices = roofline(*case)
    assert prefill_ns(prices, (past, new)) <= prefill_ns(prices, (past, new + more))


@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 1000)), min_size=1, max_size=4))
def test_a_chunk_with_a_past_is_never_cheaper_than_reading_it(chunks):
    prices = roofline()
    floor = prices.decode_ns(1, sum(past + new for past, new in chunks)) - prices.constant_ns(1)
    assert prefill_ns(prices, *chunks) - prices.token_ns[sum(new for _, new in chunks)] >= floor - 1


@pytest.mark.parametrize(("past", "reads"), [(0, 0), (1, 7_000)])
def test_only_a_past_must_be_read_again_whatever_decodes_beside_it(past, reads):
    generation, nothing = (_decode_curve(KNOTS, np.full(len(KNOTS), 7_000.0)), _context_curve(KNOTS, 0.0 * KNOTS))
    prices = StepPrices([0] * 99, [0] * 99, [0] * 99, lambda _: generation, lambda _: nothing)
    sums = {"samples": 9, "prompts": 1, "pairs": 1, "reach": past + 10, "context": 50}
    assert prices.mixed_ns(tokens=10 + 9, decodes=9, **sums) == 7_000 + reads
    assert prices.mixed_ns(tokens=10, decodes=0, **sums) == reads


@given(st.integers(1, 250), st.integers(0, 16_000), st.integers(0, 4000), st.integers(1, 2000))
def test_decodes_beside_a_chunk_pay_their_own_attention(decodes, context, past, new):
    prices = roofline()
    sums = {"samples": decodes, "prompts": 1, "pairs": (past + new) ** 2 - past**2, "reach": past + new}
    beside = prices.mixed_ns(tokens=new + decodes, decodes=decodes, context=context, **sums)
    tables = prices.token_ns[new + decodes] + prices.sample_ns[decodes] + prices.host_ns[decodes + 1]
    generation = prices.decode_ns(decodes, context) - prices.constant_ns(decodes)
    chunk = prefill_ns(prices, (past, new)) - prices.token_ns[new] - prices.host_ns[1]
    assert beside == tables + generation + chunk


@pytest.mark.parametrize("case", ROOFLINE)
def test_tables_rise_with_tokens_and_sequences(case):
    prices = roofline(*case)
    assert prices.max_tokens == LIMITS.tokens
    for table in (prices.token_ns, prices.sample_ns):
        assert table[0] == 0
        assert all(a <= b for a, b in pairwise(table))


def test_every_price_is_an_int():
    prices = roofline()
    found = [prices.decode_ns(5, 1000), prices.decode_ns(5, 1000, 7), *prices.steps_covering(5, 9, 10**9, 50)]
    found += [prefill_ns(prices, (0, 100), (900, 24)), prices.constant_ns(3), *prices.token_ns[:9]]
    assert {type(value) for value in found} == {int}


def test_host_time_is_added_to_every_step_that_computes():
    bare = roofline()
    busy = roofline(host=HostTime(step_ns=600_000, sequence_ns=20_000))
    for sequences in (1, 7, 256):
        added = 600_000 + 20_000 * sequences
        assert busy.decode_ns(sequences, 500, 3) - bare.decode_ns(sequences, 500, 3) == 3 * added
    assert prefill_ns(busy, (0, 64), (64, 64)) - prefill_ns(bare, (0, 64), (64, 64)) == 640_000
    assert busy.host_ns[0] == 0
