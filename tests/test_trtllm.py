"""TensorRT-LLM's rules, each by a test of its own, and all of them against a model that takes everything one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import tree_of_prompts
from serving import Deployment, OpenLoop, gaps_of, linear_prices
from trtllm_oracle import TrtllmOracle
from trtllm_steps import Steps

PRICES = linear_prices()
SHARED = {"prefix": (1,), "ends": (8,)}

RULES = {
    "capacity": st.sampled_from(["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"]),
    "chunking": st.sampled_from(["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS", "FORCE_CHUNK"]),
    "prefix_aware": st.booleans(),
    "wait_steps": st.sampled_from([0, 0, 1, 5]),
    "wait_share": st.sampled_from([0.1, 0.5, 1.0]),
}


def compare(arrivals, prompts, outputs, *, identities=None, ahead=False, declared=0, rules=None, wait_ns=0, **limits):
    """Return the simulated cluster, whose every decision is the oracle's."""
    rules, size = rules or {}, len(prompts)
    known = [0] * size if identities is None else [spans[-1][1] if spans else 0 for spans in identities.spans]
    texts = [[(-1 - row, place) for place in range(prompt)] for row, prompt in enumerate(prompts)]
    if identities is not None:
        texts = [identities.text(row, prompt) for row, prompt in enumerate(prompts)]
    oracle = TrtllmOracle(PRICES, **limits, **rules, overlap=ahead, reuse=identities is not None, wait_ns=wait_ns)
    most = [max(declared, output) for output in outputs]
    rows = oracle.run(arrivals, texts, known, outputs, most)
    cluster = Deployment(
        **limits,
        prices=PRICES,
        policy="trtllm",
        rules=rules,
        plans_ahead=ahead,
        caching=identities is not None,
        identities=identities,
        declared_tokens=declared,
        waits_ns=wait_ns,
    ).serve(OpenLoop(arrivals), prompts, outputs)
    expected = {
        "admitted_ns": [row.admitted_ns for row in rows],
        "first_token_ns": [row.first_ns for row in rows],
        "finish_ns": [row.finish_ns for row in rows],
        "preemptions": [row.preemptions for row in rows],
        "cached_tokens": [row.hit for row in rows],
    }
    assert {name: cluster.ledger.column(name).tolist() for name in expected} == expected
    gaps = gaps_of(cluster)
    every = np.concatenate([np.diff(row.token_ns) for row in rows]).astype(int)
    assert np.repeat(gaps.gap_ns, gaps.count).tolist() == np.sort(every).tolist()
    return cluster


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 35),
    gap_ns=st.sampled_from([300_000, 5_000_000, 100_000_000]),
    block_tokens=st.sampled_from([1, 4, 16]),
    spare=st.sampled_from([0, 2, 9, 200]),
    max_sequences=st.sampled_from([1, 3, 20]),
    max_tokens=st.sampled_from([20, 100, 1000]),
    chunked=st.booleans(),
    caching=st.booleans(),
    ahead=st.booleans(),
    declared=st.sampled_from([0, 60, 100]),
    rules=st.fixed_dictionaries({}, optional=RULES),
    wait_ns=st.sampled_from([0, 0, 300_001, 1_200_000, 30_000_000]),
)
def test_any_workload(
    seed,
    size,
    gap_ns,
    block_tokens,
    spare,
    max_sequences,
    max_tokens,
    chunked,
    caching,
    ahead,
    declared,
    rules,
    wait_ns,
):
    rng = np.random.default_rng(seed)
    identities, prompts, outputs = tree_of_prompts(rng, size)
    arrivals = np.cumsum(rng.exponential(gap_ns, size)).astype(int).tolist()
    longest = max(p + max(o, declared) for p, o in zip(prompts, outputs, strict=True))
    compare(
        arrivals,
        prompts,
        outputs,
        identities=identities if caching else None,
        ahead=ahead,
        declared=declared,
        rules=rules,
        blocks=-(-longest // block_tokens) + spare,
        block_tokens=block_tokens,
        max_sequences=max_sequences,
        max_tokens=max_tokens,
        chunked=chunked,
        wait_ns=wait_ns,
    )


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("capacity", ["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"])
def test_a_starved_cache(capacity, ahead):
    rng = np.random.default_rng(7)
    arrivals = np.cumsum(rng.exponential(3_000_000, 250)).astype(int).tolist()
    prompts, outputs = rng.integers(1, 200, 250).tolist(), rng.integers(1, 400, 250).tolist()
    limits = {"blocks": 40, "block_tokens": 16, "max_tokens": 512, "max_sequences": 48}
    cluster = compare(arrivals, prompts, outputs, ahead=ahead, rules={"capacity": capacity}, **limits)
    assert (sum(cluster.ledger.preemptions) > 200) == (capacity == "MAX_UTILIZATION")


# --- who fits: GUARANTEED_NO_EVICT --------------------------------------------------------------------------


def test_blocks_are_promised_to_the_last_token_a_request_may_have():
    engine = Steps(blocks=10)
    for index in range(2):
        engine.add(index, 4, answer=16)
    assert engine.chunks() == {0: 4, 1: 4}
    engine.add(2, 4)
    assert engine.step().decoding == [0, 1]
    assert engine.state.pool.free == 6


def test_promises_shrink_as_answers_grow():
    engine = Steps(blocks=10)
    engine.add(0, 4, answer=16)
    for _ in range(5):
        engine.step()
    assert engine.state.pool.free == 8
    engine.add(1, 4, answer=16)
    assert engine.chunks() == {1: 4}


def test_no_promise_goes_beyond_the_longest_sequence_served():
    engine = Steps(blocks=10, longest=20)
    engine.add(0, 4, answer=1000)
    engine.add(1, 4, answer=1000)
    assert engine.chunks() == {0: 4, 1: 4}


def test_where_nobody_decodes_a_prompt_and_a_token_are_promised():
    engine = Steps(blocks=10, answers=False)
    engine.add(0, 19, answer=1000)
    engine.add(1, 19, answer=1000)
    engine.add(2, 1, answer=1000)
    assert engine.chunks() == {0: 19, 1: 19}


def test_the_first_that_does_not_fit_holds_up_those_behind():
    engine = Steps(blocks=10)
    engine.add(0, 4, answer=24)
    engine.add(1, 4, answer=12)
    engine.add(2, 4)
    assert engine.chunks() == {0: 4}


def test_blocks_others_use_are_not_asked_for_again_but_free_ones_are():
    shared = {"prefix": (1,), "ends": (16,)}
    engine = Steps(blocks=10, caching=True)
    engine.add(0, 17, answer=7, **shared)
    engine.step()
    engine.add(1, 17, answer=14, **shared)
    assert engine.chunks() == {1: 1}
    engine.finish(0, 1)
    engine.step()
    engine.add(2, 4, answer=14)
    engine.add(3, 17, answer=7, **shared)
    assert engine.chunks() == {2: 4}


def test_promises_to_requests_that_have_ended_hold_until_the_engine_knows():
    engine = Steps(blocks=10, ahead=True)
    engine.add(0, 4, answer=20)
    for _ in range(3):
        engine.step()
    engine.finish(0)
    engine.add(1, 20)
    assert engine.chunks() == {}
    assert engine.chunks() == {1: 20}


def test_kv_to_be_fetched_gets_its_blocks_before_earlier_prompts():
    engine = Steps(blocks=10)
    engine.add(0, 24)
    engine.add(1, 25, answer=3, remote=True)
    step = engine.step()
    assert (step.loads, step.chunks) == ([1], {})


def test_kv_that_does_not_fit_holds_up_no_prompt():
    engine = Steps(blocks=10)
    engine.add(0, 25, answer=30, remote=True)
    engine.add(1, 24)
    step = engine.step()
    assert (step.loads, step.chunks) == ([], {1: 24})


def test_blocks_are_promised_to_requests_whose_kv_is_under_way_or_waits():
    engine = Steps(blocks=10)
    engine.add(0, 9, answer=23, remote=True)
    assert engine.step().loads == [0]
    engine.add(1, 12)
    assert engine.chunks() == {}
    engine = Steps(blocks=10, max_tokens=1)
    engine.add(0, 1, answer=3)
    engine.step()
    engine.add(1, 9, answer=11, remote=True)
    assert engine.step().loads == [1]
    engine.deliver(1)
    engine.add(2, 9, answer=11, remote=True)
    step = engine.step()
    assert (step.decoding, step.loads) == ([0], [])


def test_a_prompt_in_progress_goes_on_where_an_earlier_one_lacks_the_blocks_it_holds():
    engine = Steps(blocks=16, max_tokens=13, caching=True)
    engine.add(0, 9, **SHARED)
    engine.add(1, 9, answer=19, **SHARED)
    engine.add(2, 40)
    assert engine.chunks() == {0: 9, 2: 4}
    engine.finish(0)
    assert engine.chunks() == {2: 12}


# --- who fits: waiting for what another computes ------------------------------------------------------------


def test_a_prompt_waits_for_the_block_that_another_is_computing():
    engine = Steps(caching=True)
    for index in range(3):
        engine.add(index, 9 + index, **SHARED)
    assert engine.chunks() == {0: 9}
    assert engine.chunks() == {1: 2, 2: 3}


def test_those_behind_a_prompt_that_waits_are_let_in():
    engine = Steps(caching=True)
    engine.add(0, 9, **SHARED)
    engine.add(1, 9, **SHARED)
    engine.add(2, 5)
    assert engine.chunks() == {0: 9, 2: 5}


def test_a_prompt_waits_for_one_that_is_computed_in_chunks():
    engine = Steps(caching=True, max_tokens=14)
    engine.add(0, 21, prefix=(1,), ends=(20,))
    assert engine.chunks() == {0: 12}
    engine.add(1, 21, prefix=(1,), ends=(20,))
    assert engine.chunks() == {0: 9}
    assert engine.chunks() == {1: 1}


def test_nobody_waits_where_decisions_ignore_the_cache():
    engine = Steps(caching=True, prefix_aware=False)
    engine.add(0, 9, **SHARED)
    engine.add(1, 9, **SHARED)
    assert engine.chunks() == {0: 9, 1: 9}


def test_prompts_that_wait_count_among_the_active():
    engine = Steps(caching=True, max_sequences=2)
    engine.add(0, 9, **SHARED)
    engine.add(1, 9, **SHARED)
    engine.add(2, 5)
    assert engine.chunks() == {0: 9}


# --- who fits: MAX_UTILIZATION, STATIC_BATCH ----------------------------------------------------------------


def utilizing(**rest):
    return Steps(capacity="MAX_UTILIZATION", **rest)


def test_max_utilization_asks_for_the_blocks_of_one_step():
    engine = utilizing(blocks=10)
    for index in range(6):
        engine.add(index, 8, answer=1000)
    assert engine.chunks() == dict.fromkeys(range(5), 8)


def test_max_utilization_pauses_the_last_to_come_and_lets_it_in_again_in_its_turn():
    engine = utilizing(blocks=4)
    engine.add(0, 8, answer=20)
    engine.add(1, 7, answer=20)
    engine.add(2, 3, answer=20)
    assert engine.chunks() == {0: 8, 1: 7}
    step = engine.step()
    assert (step.paused, step.chunks, step.decoding) == ([1], {}, [0])
    engine.add(3, 1)
    assert engine.step().chunks == {}
    engine.finish(0)
    assert engine.chunks() == {1: 8, 2: 3, 3: 1}


def test_max_utilization_counts_a_block_for_requests_that_have_ended_until_the_engine_knows():
    engine = utilizing(blocks=5, ahead=True)
    engine.add(0, 8)
    engine.add(1, 8)
    engine.step()
    engine.finish(0)
    assert engine.step().paused == [1]


def test_nobody_is_let_in_in_a_step_that_pauses():
    engine = utilizing(blocks=5, ahead=True)
    engine.add(0, 8)
    engine.add(1, 8)
    engine.step()
    engine.finish(1)
    engine.add(2, 1)
    step = engine.step()
    assert (step.paused, step.chunks) == ([1], {})


def test_max_utilization_deducts_from_the_cost_of_a_prompt_what_others_use():
    engine = utilizing(max_tokens=20, chunked=False, caching=True)
    for index, prompt in enumerate((17, 17, 18, 17, 4)):
        shared = {} if prompt in {18, 4} else {"prefix": (1,), "ends": (16,)}
        if index == 3:
            engine.finish(0, 1)
            engine.step()
        engine.add(index, prompt, **shared)
        if index in {0, 2, 4}:
            found = engine.chunks()
            assert found == {0: {0: 17}, 2: {1: 1, 2: 18}, 4: {3: 1}}[index]


def test_a_paused_prompt_gives_back_the_blocks_it_has_not_filled():
    engine = utilizing(blocks=10, max_tokens=8)
    engine.add(0, 3, answer=20)
    engine.step()
    engine.add(1, 36)
    engine.step()
    assert engine.state.pool.free == 0
    step = engine.step()
    assert step.paused == [1]
    assert engine.state.pool.free == 8


def test_who_waits_before_others_that_run_takes_their_blocks():
    engine = utilizing(blocks=8, caching=True)
    engine.add(0, 9, **SHARED)
    engine.add(1, 25, answer=3, **SHARED)
    engine.add(2, 12)
    assert engine.chunks() == {0: 9, 2: 12}
    step = engine.step()
    # Looked at once more after the pause, it takes its own first missing block for one that another is computing.
    assert (step.paused, step.chunks) == ([2], {})
    step = engine.step()
    assert (step.paused, step.chunks) == ([], {1: 17})


def test_a_static_batch_is_served_to_its_end():
    engine = Steps(capacity="STATIC_BATCH")
    engine.add(0, 4)
    engine.add(1, 4)
    engine.step()
    engine.add(2, 4)
    assert engine.chunks() == {}
    engine.finish(0)
    assert engine.chunks() == {}
    engine.finish(1)
    assert engine.chunks() == {2: 4}


# --- what a step computes -----------------------------------------------------------------------------------


def test_prompts_share_steps_with_decoding_sequences():
    engine = Steps(max_tokens=10)
    engine.add(0, 4)
    engine.step()
    engine.add(1, 9)
    step = engine.step()
    assert (step.chunks, step.decoding) == ({1: 9}, [0])


def test_a_batch_holds_so_many_requests():
    engine = Steps(max_sequences=2)
    for index in range(3):
        engine.add(index, 4)
    assert engine.chunks() == {0: 4, 1: 4}
    assert engine.chunks() == {}


def test_requests_that_have_ended_keep_their_place_until_the_engine_knows():
    engine = Steps(max_sequences=1, ahead=True)
    engine.add(0, 4)
    engine.step()
    engine.finish(0)
    engine.add(1, 4)
    assert engine.chunks() == {}
    assert engine.chunks() == {1: 4}


def test_whole_prompts_stop_at_the_first_that_exceeds_the_budget():
    engine = Steps(max_tokens=20, chunked=False)
    engine.add(0, 11)
    engine.add(1, 10)
    engine.add(2, 3)
    assert engine.chunks() == {0: 11}
    assert engine.chunks() == {1: 10, 2: 3}


def test_whole_prompts_cost_only_what_is_not_found():
    engine = Steps(max_tokens=20, chunked=False, caching=True)
    engine.add(0, 17, prefix=(1,), ends=(16,))
    engine.step()
    engine.add(1, 17, prefix=(1,), ends=(16,))
    engine.add(2, 18)
    assert engine.chunks() == {1: 1, 2: 18}


def test_a_whole_prompt_beyond_the_budget_runs_alone():
    engine = utilizing(max_tokens=10, chunked=False)
    engine.add(0, 11)
    engine.add(1, 1)
    assert engine.chunks() == {0: 11}


def test_chunks_end_where_a_block_does_and_the_first_come_take_all_they_can():
    engine = Steps(max_tokens=30)
    engine.add(0, 3)
    engine.add(1, 37)
    engine.add(2, 10)
    engine.add(3, 3)
    assert engine.chunks() == {0: 3, 1: 24, 3: 3}
    assert engine.chunks() == {1: 13, 2: 10}


def test_a_chunk_after_what_is_found_is_as_long_as_the_budget():
    engine = Steps(max_tokens=20, caching=True)
    engine.add(0, 17, prefix=(1,), ends=(16,))
    engine.step()
    engine.finish(0)
    engine.add(1, 100, prefix=(1,), ends=(16,))
    assert engine.chunks() == {1: 20}
    assert engine.requests[1].found == 16


def test_a_prompt_takes_the_blocks_of_all_its_tokens_with_its_first_chunk():
    engine = Steps(max_tokens=8)
    engine.add(0, 40)
    engine.step()
    assert engine.state.pool.free == 90


def test_equal_progress_hands_out_a_block_each_in_turn():
    engine = Steps(max_tokens=20, chunking="EQUAL_PROGRESS")
    engine.add(0, 40)
    engine.add(1, 6)
    engine.add(2, 40)
    assert engine.chunks() == {0: 8, 1: 6, 2: 4}


def test_forced_chunks_do_not_deduct_what_is_found():
    found = []
    for chunking in ("FORCE_CHUNK", "FIRST_COME_FIRST_SERVED"):
        engine = Steps(max_tokens=20, chunking=chunking, caching=True)
        engine.add(0, 17, prefix=(1,), ends=(16,))
        engine.step()
        engine.finish(0)
        engine.add(1, 18, prefix=(1,), ends=(16,))
        engine.add(2, 10)
        found.append(engine.chunks())
    assert found == [{1: 2}, {1: 2, 2: 10}]


def test_a_shorter_prompt_may_pass_one_of_which_no_chunk_fits():
    engine = Steps(max_tokens=4)
    engine.add(0, 1)
    engine.step()
    engine.add(1, 9)
    assert engine.step().steps == 1
    engine.add(2, 3)
    assert engine.chunks() == {2: 3}


# --- prompts put off ----------------------------------------------------------------------------------------


def test_prompts_are_put_off_for_so_many_steps_while_others_decode():
    engine = Steps(wait_steps=2, wait_share=1.0)
    engine.add(0, 4)
    assert engine.chunks() == {0: 4}
    engine.add(1, 4)
    assert [engine.chunks() for _ in range(3)] == [{}, {}, {1: 4}]
    engine.add(2, 4)
    assert [engine.chunks() for _ in range(3)] == [{}, {}, {2: 4}]


def test_prompts_are_put_off_until_a_step_is_full_enough():
    engine = Steps(wait_steps=9, wait_share=0.25)
    engine.add(0, 4)
    engine.step()
    engine.add(1, 14)
    assert engine.chunks() == {}
    engine.add(2, 1)
    assert engine.chunks() == {1: 14, 2: 1}


# --- blocks -------------------------------------------------------------------------------------------------


def test_blocks_are_found_once_their_step_is_over_or_a_step_later_where_steps_are_planned_ahead():
    for ahead, steps in ((False, 1), (True, 2)):
        engine = Steps(caching=True, ahead=ahead)
        engine.add(0, 9, **SHARED)
        for _ in range(steps):
            engine.step()
        engine.add(1, 9, **SHARED)
        assert engine.chunks() == {1: 1}
        engine = Steps(caching=True, ahead=ahead)
        engine.add(0, 9, **SHARED)
        for _ in range(steps - 1):
            engine.step()
        engine.add(1, 9, **SHARED)
        assert engine.chunks() == ({0: 9} if steps == 1 else {1: 9})


def test_the_last_block_of_a_sequence_is_not_handed_out_before_older_ones():
    engine = Steps(blocks=5, caching=True)
    engine.add(0, 9, **SHARED)
    engine.step()
    engine.finish(0)
    engine.add(1, 6)
    engine.step()
    engine.finish(1)
    engine.add(2, 5)
    engine.step()
    engine.finish(2)
    # Of the blocks of the first, its last one and the second of the prefix are gone; vLLM would have kept both.
    engine.add(3, 9, **SHARED)
    assert engine.chunks() == {3: 5}
