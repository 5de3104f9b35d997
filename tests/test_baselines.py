"""Policies of the literature, rule by rule: each of these fails where its rule is taken out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, linear_prices, times
from whole_prompts_oracle import WholePromptOracle

from simulator.request import Request
from simulator.schedulers import SCHEDULERS, Limits
from simulator.schedulers.state import EngineState

FREE = Limits(10_000, 100)


def instance(policy, limits=FREE, *, blocks=1000, block_tokens=16, **rules):
    """Return an empty instance of a policy, and a function that makes its next step happen."""
    state, scheduler = EngineState(blocks, block_tokens), SCHEDULERS[policy](limits, **rules)
    scheduler.begin(state)

    def step():
        plan = scheduler.plan(state)
        chunks = {request.index: new for request, new in plan.chunks}
        if plan.steps > 1:
            state.pool.take(state.pool.needed(state.step, 1))
        if plan.decodes:
            state.step += 1
            state.context_sum += plan.decodes
        for request, new in plan.chunks:
            request.computed += new
            state.prefilling.pop(request.index, None)
            if request.computed == request.tokens:
                state.join_decode(request)
            else:
                state.prefilling[request.index] = request
        return chunks, plan.decodes, [request.index for request in plan.preempted]

    return state, step


def sends(state, *prompts, answer=1000):
    """Let requests wait, and return them."""
    first = len(state.running) + len(state.waiting)
    found = [Request(first + i, prompt, prompt + answer) for i, prompt in enumerate(prompts)]
    for request in found:
        request.order = request.index
        state.waiting.append(request)
    return found


def leaves(state, request):
    """Let a decoding request have all its tokens."""
    del state.running[request.index]
    state.leave_decode(request)
    state.release(request)


# --- Sarathi-Serve ----------------------------------------------------------------------------------------


def test_sarathi_fills_one_chunk_from_the_queue_and_cuts_the_last_prompt():
    state, step = instance("sarathi", Limits(100, 10))
    sends(state, 60, 70, 80)
    assert step() == ({0: 60, 1: 40}, 0, [])


def test_sarathi_counts_decodes_within_the_chunk_and_goes_on_with_the_cut_prompt_first():
    state, step = instance("sarathi", Limits(100, 10))
    sends(state, 60, 70, 200)
    step()
    assert step() == ({1: 30, 2: 69}, 1, [])
    assert step() == ({2: 98}, 2, [])


def test_sarathi_decodes_beyond_the_chunk_and_computes_no_prompt_meanwhile():
    state, step = instance("sarathi", Limits(2, 10))
    sends(state, 1, 1)
    step()
    sends(state, 5)
    assert step() == ({}, 2, [])
    state, step = instance("sarathi", Limits(4, 10))
    sends(state, 4)
    step()
    first = next(iter(state.running.values()))
    sends(state, 5)
    assert step() == ({1: 3}, 1, [])
    leaves(state, first)
    assert step() == ({1: 2}, 0, [])


def test_sarathi_admits_no_more_requests_than_may_hold_blocks():
    state, step = instance("sarathi", Limits(100, 2))
    sends(state, 10, 10, 10)
    assert step() == ({0: 10, 1: 10}, 0, [])


def test_sarathi_keeps_the_blocks_of_a_whole_prompt_for_it_from_the_start():
    # Of 20 blocks the first prompt owns 10 although its first chunk fills one; 11 more do not fit.
    state, step = instance("sarathi", Limits(16, 10), blocks=20, watermark=0.0)
    sends(state, 1, 159, 11 * 16)
    assert step()[0] == {0: 1, 1: 15}
    for _ in range(9):
        assert 2 not in step()[0]
    assert [request.index for request in state.waiting] == [2]


def test_sarathi_takes_blocks_of_a_cut_prompt_for_nobody_who_decodes():
    # Three blocks: one is the first sequence's, two belong to the second prompt, of which one is still free.
    state, step = instance("sarathi", Limits(4, 10), blocks=3, block_tokens=4, watermark=0.0)
    sends(state, 3, 6)
    assert step() == ({0: 3, 1: 1}, 0, [])
    assert state.pool.free == 1
    # The first has room for one more token, but its step needs a free block and the last one is spoken for.
    assert step()[2] == [1]


def test_sarathi_fetches_no_kv_into_blocks_of_a_cut_prompt():
    state, step = instance("sarathi", Limits(16, 10), blocks=10, watermark=0.0)
    sends(state, 160)
    step()
    (fetched,) = sends(state, 17)
    fetched.remote = True
    assert step()[0] == {0: 16}
    assert list(state.waiting) == [fetched]


def test_sarathi_leaves_a_hundredth_of_the_blocks_free_unless_it_is_empty():
    state, step = instance("sarathi", blocks=100)
    sends(state, 100 * 16)
    assert step()[0] == {0: 1600}
    state, step = instance("sarathi", blocks=100)
    sends(state, 50 * 16, 50 * 16)
    assert step()[0] == {0: 800}
    state, step = instance("sarathi", blocks=100)
    sends(state, 50 * 16, 49 * 16)
    assert step()[0] == {0: 800, 1: 784}


def test_sarathi_needs_a_free_block_for_each_step_and_puts_the_last_to_arrive_back():
    state, step = instance("sarathi", blocks=2, watermark=0.0)
    sends(state, 5, 5)
    assert step() == ({0: 5, 1: 5}, 0, [])
    # Both blocks are taken, and have room; one sequence is put back, and at once finds its own block too little.
    chunks, decodes, preempted = step()
    assert (decodes, preempted) == (1, [1])
    assert chunks == {1: 6}


# --- vLLM's first scheduler ---------------------------------------------------------------------------------


def test_padded_prompts_count_as_long_as_the_longest():
    padded = {"max_paddings": 1000}
    state, step = instance("vllm_v0", Limits(300, 10), **padded)
    sends(state, 10, 140, 10)
    assert step()[0] == {0: 10, 1: 140}
    state, step = instance("vllm_v0", Limits(300, 10))
    sends(state, 10, 140, 10)
    assert step()[0] == {0: 10, 1: 140, 2: 10}


def test_padding_is_bounded():
    state, step = instance("vllm_v0", Limits(10_000, 10), max_paddings=50)
    sends(state, 100, 60, 89)
    assert step()[0] == {0: 100, 1: 60}
    assert step()[0] == {2: 89}


PRICES = linear_prices()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30_000_000), st.integers(1, 250), st.integers(1, 60)), min_size=1, max_size=30),
    st.sampled_from([0, 2, 200]),
    st.sampled_from([100, 600]),
    st.sampled_from([0, 40, 1000]),
)
def test_padded_steps_equal_the_oracle(rows, spare, max_tokens, max_paddings):
    arrivals, prompts, outputs = (list(column) for column in zip(*sorted(rows), strict=True))
    limits = {"blocks": 20 + spare, "block_tokens": 16, "max_tokens": max_tokens, "max_sequences": 20}
    sequences = WholePromptOracle(PRICES, **limits, max_paddings=max_paddings).run(arrivals, prompts, outputs)
    rules = {"max_paddings": max_paddings}
    cluster = Deployment(**limits, prices=PRICES, policy="vllm_v0", rules=rules).serve(
        OpenLoop(arrivals), prompts, outputs
    )
    assert times(cluster)["finish_ns"] == [sequence.finish_ns for sequence in sequences]


# --- Orca and static batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["orca", "static"])
def test_whoever_joins_owns_the_blocks_for_the_longest_answer(policy):
    state, step = instance(policy, blocks=10)
    sends(state, 16, 16, answer=64)
    # Five blocks each: both fit, a third would not.
    sends(state, 1, answer=1)
    assert step()[0] == {0: 16, 1: 16}
    state, step = instance(policy, blocks=9)
    sends(state, 16, 16, answer=64)
    assert step()[0] == {0: 16}


def test_orca_gives_blocks_to_the_next_as_soon_as_one_leaves_and_not_before():
    state, step = instance("orca", blocks=10)
    first, _ = sends(state, 16, 16, answer=64)
    step()
    sends(state, 16, answer=64)
    for _ in range(20):
        # Two sequences own all ten blocks, however many of them they have filled.
        assert step() == ({}, 2, [])
    leaves(state, first)
    assert step() == ({2: 16}, 1, [])


def test_orca_computes_whole_prompts_beside_those_who_decode():
    state, step = instance("orca")
    sends(state, 10)
    step()
    sends(state, 3000, 20)
    assert step() == ({1: 3000, 2: 20}, 1, [])


@pytest.mark.parametrize("policy", ["orca", "static"])
def test_batches_have_a_number_of_places_and_a_number_of_tokens(policy):
    state, step = instance(policy, Limits(10_000, 2))
    sends(state, 10, 10, 10)
    assert step()[0] == {0: 10, 1: 10}
    state, step = instance(policy, Limits(100, 10))
    sends(state, 60, 40, 1)
    assert step()[0] == {0: 60, 1: 40}
    state, step = instance(policy, Limits(100, 10))
    sends(state, 300, 1)
    assert step()[0] == {0: 300}


def test_nobody_joins_a_static_batch_before_all_have_left():
    state, step = instance("static", Limits(10_000, 4))
    first, second = sends(state, 10, 20)
    assert step() == ({0: 10, 1: 20}, 0, [])
    sends(state, 30)
    assert step() == ({}, 2, [])
    leaves(state, first)
    assert step() == ({}, 1, [])
    leaves(state, second)
    assert step()[0] == {2: 30}


@pytest.mark.parametrize("policy", ["orca", "static"])
def test_reserving_for_declared_answers_nobody_is_ever_put_back(policy):
    rng = np.random.default_rng(3)
    prompts, outputs = rng.integers(1, 200, 300), rng.integers(1, 400, 300)
    arrivals = OpenLoop(np.sort(rng.integers(0, 2_000_000_000, 300)).tolist())
    cluster = Deployment(blocks=60, policy=policy).serve(arrivals, prompts, outputs)
    assert sum(cluster.ledger.preemptions) == 0


def test_on_one_load_batches_by_the_request_are_slower_than_by_the_iteration():
    """The claim of Orca, which sets it beside FasterTransformer."""
    rng = np.random.default_rng(4)
    size = 300
    prompts, outputs = rng.integers(100, 1500, size), rng.integers(20, 300, size)
    arrivals = OpenLoop(np.cumsum(rng.exponential(60_000_000, size)).astype(int).tolist())
    prices = linear_prices(step_ns=10_000_000, token_ns=100_000)
    waited, whole = {}, {}
    for policy in ("static", "orca"):
        served = Deployment(policy=policy, max_tokens=4000, max_sequences=32, prices=prices, blocks=4000)
        column = served.serve(arrivals, prompts, outputs).ledger.column
        waited[policy] = np.mean(column("first_token_ns") - column("arrival_ns"))
        whole[policy] = np.mean(column("finish_ns") - column("arrival_ns"))
    assert whole["static"] > whole["orca"]
    assert waited["static"] > 2 * waited["orca"]
