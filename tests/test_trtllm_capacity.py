"""Whom TensorRT-LLM lets into a batch: each rule by a test of its own."""

from __future__ import annotations

from trtllm_steps import Steps

SHARED = {"prefix": (1,), "ends": (8,)}


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
