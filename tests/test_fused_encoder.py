"""vLLM's encoder budget and cache, inside the steps of one engine."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from test_encode_stage import EPD, encoding, mean, run

from perfdb.encoder_prices import EncoderWork
from perfdb.media_rules import Seen
from simulator.fused_encoder import FusedEncoder
from simulator.request import Request
from simulator.request_media import Encodable, RequestMedia

IMAGE = Seen(patches=400, tokens=100, sequences=((400, 1),))


def encoder(rows: list[list[tuple[int, int]]], budget: float, **options: Any) -> FusedEncoder:
    """Return an encoder for requests whose images are (content, start), each of 100 tokens."""
    items = [tuple(Encodable(content, IMAGE, start, 100, 200) for content, start in row) for row in rows]
    costs = SimpleNamespace(slowest=EncoderWork.of, work_ns=lambda work: 1000 * work.items)
    return FusedEncoder(SimpleNamespace(now=0), RequestMedia(items, 2), costs, budget, **options)


def running(*requests: Request) -> Any:
    return SimpleNamespace(running={request.index: request for request in requests})


def planned(made: FusedEncoder) -> int:
    """Return how many images the step under way encodes."""
    return made.run(SimpleNamespace(chunks=[])) // 1000


def test_a_chunk_ends_before_an_image_beyond_the_budget() -> None:
    made = encoder([[(1, 0), (2, 100), (3, 250)]], budget=200)
    request = Request(0, 400)
    made.new_step(running(request))
    assert made.allow(request, 0, 400) == 250
    assert planned(made) == 2


def test_the_next_step_encodes_the_rest() -> None:
    made = encoder([[(1, 0), (2, 100), (3, 250)]], budget=200)
    request = Request(0, 400)
    made.new_step(running(request))
    request.computed = made.allow(request, 0, 400)
    made.run(SimpleNamespace(chunks=[]))
    made.new_step(running(request))
    assert made.allow(request, 250, 150) == 150
    assert planned(made) == 1


def test_features_are_held_until_the_prompt_has_passed_them() -> None:
    made = encoder([[(1, 0), (2, 100)], [(3, 0)]], budget=200)
    one, other = Request(0, 300), Request(1, 300)
    made.new_step(running(one, other))
    one.computed = made.allow(one, 0, 150)
    assert one.computed == 150
    made.run(SimpleNamespace(chunks=[]))
    made.new_step(running(one, other))
    # One image is passed, the other one not: there is room for one.
    assert made.allow(other, 0, 300) == 300
    made.run(SimpleNamespace(chunks=[]))
    made.new_step(running(one, other))
    other.computed = 300
    assert planned(made) == 0


def test_no_room_is_made_of_what_is_still_needed() -> None:
    made = encoder([[(1, 0), (2, 100)], [(3, 20)]], budget=200)
    one, other = Request(0, 300), Request(1, 300)
    made.new_step(running(one, other))
    made.allow(one, 0, 300)
    made.run(SimpleNamespace(chunks=[]))
    one.computed = 50
    made.new_step(running(one, other))
    assert made.allow(other, 0, 300) == 20


def test_an_equal_image_is_not_encoded_again_while_it_is_kept() -> None:
    made = encoder([[(7, 0)], [(7, 0)], [(8, 0)], [(9, 0)], [(7, 0)]], budget=200)
    counts = []
    for index in range(5):
        request = Request(index, 120)
        made.new_step(running(request))
        assert made.allow(request, 0, 120) == 120
        counts.append(planned(made))
        request.computed = 120
        made.new_step(running())
    # The third and the fourth need the room of the first.
    assert counts == [1, 0, 1, 1, 1]
    assert (made.asked, made.hits) == (5, 1)


def test_an_image_larger_than_the_budget_runs_alone() -> None:
    made = encoder([[(1, 0)], [(2, 0)]], budget=50)
    one, other = Request(0, 120), Request(1, 120)
    made.new_step(running(one, other))
    assert made.allow(one, 0, 120) == 120
    assert made.allow(other, 0, 120) == 0


def test_no_image_is_cut_where_that_is_disabled() -> None:
    cut, whole = (encoder([[(1, 50)]], budget=500, whole_images=flag) for flag in (False, True))
    assert cut.allow(Request(0, 200), 0, 100) == 100
    assert whole.allow(Request(0, 200), 0, 100) == 50
    assert whole.allow(Request(0, 200), 50, 60) == 60


def test_a_preempted_prompt_holds_nothing() -> None:
    made = encoder([[(1, 0), (2, 100)], [(3, 0), (4, 100)]], budget=200)
    one, other = Request(0, 300), Request(1, 300)
    made.new_step(running(one))
    made.allow(one, 0, 300)
    made.run(SimpleNamespace(chunks=[]))
    made.new_step(running(other))
    assert made.allow(other, 0, 300) == 300


def test_an_engine_without_a_budget_encodes_what_it_computes() -> None:
    made = encoder([[(1, 0), (2, 100)]], budget=inf)
    request = Request(0, 300)
    assert made.run(SimpleNamespace(chunks=[(request, 50)])) == 1000
    request.computed = 50
    assert made.run(SimpleNamespace(chunks=[(request, 250)])) == 1000


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_every_engine_encodes_each_image_once(engine: str) -> None:
    result = run(({**EPD, "engine": engine},))
    assert encoding(result)["items"] == result.requests["images"].sum()


def test_large_images_are_spread_over_steps() -> None:
    pool = {**EPD, "engine_options": {"max_num_batched_tokens": 2048, "max_num_seqs": 8}}
    four = {"images": {"kind": "fixed", "value": 4}, "arrivals": {"kind": "constant", "rate_per_s": 1.0}}
    spread = encoding(run((pool,), workload=four))
    assert spread["mean_items_per_run"] == pytest.approx(1.0)
    assert encoding(run((EPD,), workload=four))["mean_items_per_run"] > 1.5


def test_decoding_waits_while_images_are_encoded() -> None:
    busy = {"arrivals": {"kind": "constant", "rate_per_s": 8.0}, "output_tokens": {"kind": "fixed", "value": 50}}
    alone = run((EPD,), workload=busy)
    apart = run((EPD | {"stages": ("prefill", "decode")}, EPD | {"name": "e", "stages": ("encode",)}), workload=busy)
    assert mean(alone, "tpot_ms") > 1.05 * mean(apart, "tpot_ms")


def test_an_engine_that_dies_while_it_encodes_has_its_time_summed_up() -> None:
    busy = {"arrivals": {"kind": "constant", "rate_per_s": 60.0}}
    for at_s in (0.5, 0.503, 0.506, 0.509):
        down = {"incident": [{"kind": "instance_down", "at_s": at_s, "pool": EPD["name"], "restart_after_s": 0.1}]}
        assert run((EPD,), workload=busy, operations=down).requests["completed"].all()
