"""What a step of TensorRT-LLM computes, and which blocks it takes: each rule by a test of its own."""

from __future__ import annotations

from trtllm_steps import Steps

SHARED = {"prefix": (1,), "ends": (8,)}


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
    engine = Steps(capacity="MAX_UTILIZATION", max_tokens=10, chunked=False)
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
