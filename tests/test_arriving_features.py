"""Prompts that begin with the images that are there, and the room that features take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_encode_stage import SHAPES, D, E, P, encoding, mean, run, scenario

from hardware.errors import LawError
from perfdb.media_rules import Seen
from simulator.arriving import ArrivingFeatures
from simulator.feature_room import FeatureRoom
from simulator.feature_store import FeatureStore
from simulator.request import Request
from simulator.request_media import Encodable, RequestMedia

IMAGE = Seen(patches=400, tokens=100, sequences=((400, 1),))
READY = {"streaming": True, "prompt_starts": "ready"}
#: One image a run, so that those of a request come one after the other.
ONE_BY_ONE = {**E, "engine_options": {"max_num_batched_tokens": 1200, "max_num_seqs": 8}}
#: It computes whole prompts.
WHOLE = {"additional_config": {"ascend_scheduler_config": {"enabled": True}}}
ASCEND = {**P, "chip": "ascend_910b3", "engine_options": WHOLE}
FOUR = {"arrivals": {"kind": "constant", "rate_per_s": 1.0}, "images": {"kind": "fixed", "value": 4}}


def arriving(*starts: int) -> ArrivingFeatures:
    """Return what is known of one request whose images, of 100 tokens each, begin there."""
    items = tuple(Encodable(content, IMAGE, start, 100, 200) for content, start in enumerate(starts))
    return ArrivingFeatures(RequestMedia([items], 2))


# --- prompts begin with what is there ------------------------------------------------------------------


def test_a_prompt_is_computed_up_to_the_first_image_that_is_missing() -> None:
    made, request = arriving(20, 120, 300), Request(0, 500)
    made.expect(0, {1, 2})
    assert made.begins(0, {0}) == 120
    assert [made.allow(request, past, 200) for past in (0, 100, 120, 150)] == [120, 20, 0, 0]
    assert made.allow(request, 220, 200) == 80
    made.expect(0, {2})
    assert made.allow(request, 0, 200) == 200


def test_an_image_in_the_cache_is_not_waited_for() -> None:
    made, request = arriving(0, 100), Request(0, 300)
    made.expect(0, {0, 1})
    assert made.allow(request, 200, 100) == 100


def test_an_image_that_was_computed_before_it_came_breaks_a_law() -> None:
    made, request = arriving(0, 100), Request(0, 300)
    core = SimpleNamespace(note=lambda action, request, **_: action(request))
    server = SimpleNamespace(cores=[core], rank_of=lambda _: 0)
    made.expect(0, {1})
    request.computed = 150
    with pytest.raises(LawError, match="computed an image at token 100"):
        made.tell(server, request, 1)
    made.expect(0, {1})
    request.found = 150
    made.tell(server, request, 1)
    assert not made.holds_up(SimpleNamespace(prefilling={}, waiting=[request]))


@pytest.mark.parametrize("mode", ["direct", "store"])
def test_a_prompt_that_begins_early_ends_early(mode: str) -> None:
    pools, workload = (ONE_BY_ONE, P, D), FOUR | {"text_only_share": 0.0, "image_size": "1920x1080"}
    fast = {"mode": mode, "streaming": True} | ({"store_gb_per_s": 10.0} if mode == "store" else {})
    waits, begins = (
        run(pools, fast | more, workload).summary["mean_ttft_ms"] for more in ({}, {"prompt_starts": "ready"})
    )
    # All but the last image are computed while others are encoded.
    assert begins < 0.92 * waits


def test_a_prompt_whose_images_come_together_is_not_cut() -> None:
    early, late = (run(features=features, workload=FOUR) for features in (READY, {"streaming": True}))
    assert early.summary["mean_ttft_ms"] == pytest.approx(late.summary["mean_ttft_ms"], rel=0.02)


def test_what_a_prompt_waits_for_once_it_began_is_its_own_time() -> None:
    early, late = (run((ONE_BY_ONE, P, D), features, FOUR) for features in (READY, {"streaming": True}))
    assert mean(early, "encode_ms") < 0.5 * mean(late, "encode_ms")
    assert mean(early, "prefill_ms") > mean(late, "prefill_ms")


def test_text_before_the_first_image_is_computed_at_once() -> None:
    slow = {"shared_prefix_tokens": 3000, "arrivals": {"kind": "constant", "rate_per_s": 0.5}, "text_only_share": 0.0}
    table = run(features=READY, workload=slow).requests
    assert not table[["encode_ms", "feature_ms", "queue_ms"]].to_numpy().any()
    assert (table["encode_queue_ms"] < 15).all()


def test_others_are_served_while_a_prompt_waits_for_an_image() -> None:
    workload = {
        "requests": 40,
        "arrivals": {"kind": "constant", "rate_per_s": 1.0},
        "images": {"kind": "fixed", "value": 8},
        "text_only_share": 0.5,
    }
    slow = {**ONE_BY_ONE, "calibration": {"host": {"image_ns": 100_000_000}}}
    table = run((slow, P, D), READY, workload).requests
    text, images = (table["ttft_ms"][table["images"] == number] for number in (0, 8))
    assert text.max() < 0.3 * images.median()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.sampled_from(["E-P-D", "E-PD"]),
    rate=st.sampled_from([2.0, 12.0, 40.0]),
    pool=st.fixed_dictionaries(
        {
            "async_scheduling": st.booleans(),
            "enable_prefix_caching": st.booleans(),
            "max_num_seqs": st.sampled_from([2, 8, 64]),
            "max_num_batched_tokens": st.sampled_from([1200, 2048, 8192]),
        }
    ),
    prefix=st.sampled_from([0, 700]),
    blocks=st.sampled_from([None, 700]),
    mode=st.sampled_from(["direct", "store"]),
)
def test_macro_steps_change_nothing(
    shape: str, rate: float, pool: dict[str, Any], prefix: int, blocks: int | None, mode: str
) -> None:
    limits = {} if blocks is None else {"limits": {"kv_blocks": blocks}}
    pool |= {"max_model_len": "auto"}
    pools = (ONE_BY_ONE, *({**other, "engine_options": pool, **limits} for other in SHAPES[shape][1:]))
    workload = {"arrivals": {"kind": "poisson", "rate_per_s": rate}, "shared_prefix_tokens": prefix, "image_pool": 30}
    tables = [run(pools, READY | {"mode": mode}, workload, macro_steps=macro).requests for macro in (True, False)]
    assert tables[0].equals(tables[1])
    assert tables[0]["completed"].all()


@pytest.mark.parametrize(
    ("pools", "features", "says"),
    [
        (SHAPES["E-P-D"], {"prompt_starts": "ready"}, "no image leaves before all are encoded"),
        (SHAPES["EPD"], READY, "no pool encodes for others"),
        (tuple({**pool, "engine": "sglang"} for pool in (E, P, D)), READY, "engine 'sglang' begins a prompt when all"),
        ((E, ASCEND, {**D, "chip": "ascend_910b3"}), READY, "engine 'vllm' begins a prompt when all"),
        ((E, {**P, "engine": "trtllm"}, {**D, "engine": "trtllm"}), READY, "engine 'trtllm' begins a prompt when all"),
    ],
)
def test_impossible_beginnings_are_refused(pools: tuple[Any, ...], features: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        scenario(pools, features)


def test_a_request_whose_images_are_in_the_cache_may_end_before_their_features_come() -> None:
    talk = {
        "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
        "shared_prefix_tokens": 500,
        "image_pool": 40,
        "images": {"kind": "uniform", "low": 1, "high": 2},
        "sessions": {"turns": 4, "think_time_s": {"kind": "fixed", "value": 3}, "wait_for_answer": True},
    }
    pools = (E, {**SHAPES["E-PD"][1], "data_parallel": 2})
    for shape in (SHAPES["E-PD"], pools):
        assert run(shape, READY | {"mode": "store"}, talk, seed=49).requests["completed"].all()


# --- room for features ---------------------------------------------------------------------------------


def test_features_that_nobody_needs_are_dropped_in_the_order_of_their_use() -> None:
    room = FeatureRoom(capacity=300, reusable=200)
    for content in (1, 2):
        room.hold(content, 100, (0, 0))
        room.made(content)
    room.release(2, (0, 0))
    room.release(1, (0, 0))
    room.hold(2, 100, (1, 0))
    room.release(2, (1, 0))
    room.hold(3, 200, (2, 0))
    assert [content in room for content in (1, 2, 3)] == [False, True, False]
    assert (room.needed, room.idle, room.peak) == (200, 100, 300)


def test_no_room_is_made_of_features_that_somebody_needs() -> None:
    room = FeatureRoom(capacity=250, reusable=250)
    room.hold(1, 100, (0, 0))
    room.hold(1, 100, (1, 0))
    assert room.fits({2: 150})
    assert room.fits({1: 100, 2: 150})
    assert not room.fits({2: 151})
    room.release(1, (0, 0))
    assert not room.fits({2: 151})
    room.release(1, (1, 0))
    # It was never made, so that nothing is kept; and who is alone gets whatever it asks for.
    assert (room.needed, room.idle) == (0, 0)
    assert room.fits({2: 1000})


def test_a_store_keeps_what_is_about_to_be_fetched() -> None:
    store = FeatureStore(capacity_bytes=200)
    assert store.put(1, 100)
    assert store.put(2, 100)
    store.pin(1)
    assert store.put(3, 100)
    assert [content in store for content in (1, 2, 3)] == [True, False, True]
    store.pin(3)
    assert not store.put(4, 100)
    store.unpin(1)
    assert store.put(4, 100)
    assert (store.held_bytes, store.dropped) == (200, 2)


def test_an_encoder_keeps_features_for_equal_images() -> None:
    workload = {"image_pool": 9, "requests": 100}
    counts = [
        encoding(run(features={"encoder_kept_tokens": tokens}, workload=workload))["items"]
        for tokens in (0, 3 * 1196, 9 * 1196)
    ]
    assert counts[0] > counts[1] > counts[2] == 9


def test_an_image_that_is_being_encoded_is_not_encoded_twice() -> None:
    burst = {
        "image_pool": 1,
        "requests": 3,
        "image_size": "4032x3024",
        "arrivals": {"kind": "constant", "rate_per_s": 1e6},
    }
    assert encoding(run(features={"encoder_kept_tokens": 0}, workload=burst))["items"] == 1


def engine_keeps(engine: str) -> int:
    pools = tuple({**pool, "engine": engine} for pool in SHAPES["E-P-D"])
    return run(pools, workload={"requests": 4}).run.pools[0].parts.kept_tokens


def test_engines_keep_what_they_are_known_to_keep() -> None:
    assert [engine_keeps(engine) for engine in ("vllm", "sglang", "trtllm")] == [8192, 4096 * 2**20 // 7168, 0]


def test_encoding_waits_where_features_cannot_leave() -> None:
    """One second to fetch an image from an encoder that has room for two: it makes two a second at most."""
    features = {"mode": "direct", "encoder_memory_tokens": 2 * 1196}
    slow = {
        "requests": 20,
        "arrivals": {"kind": "constant", "rate_per_s": 1000.0},
        "images": {"kind": "fixed", "value": 1},
        "text_only_share": 0.0,
    }
    network = {"kv_transfer": {"handshake_us": 1e6}}
    result = run(features=features, workload=slow, network=network)
    waits = result.requests["encode_queue_ms"].sort_values().to_numpy()
    assert [round(wait / 1000) for wait in waits] == [place // 2 for place in range(20)]
    assert result.run.cluster.encoding.dispatch.rooms[0].peak == 2 * 1196
    free = run(features={"mode": "direct"}, workload=slow, network=network)
    assert free.requests["encode_queue_ms"].max() < 1000


def test_a_request_larger_than_the_room_is_served_alone() -> None:
    features = {"encoder_memory_tokens": 1000}
    result = run(({**E, "replicas": 2}, P, D), features | {"shard_images": True})
    assert result.requests["completed"].all()
    assert max(room.peak for room in result.run.cluster.encoding.dispatch.rooms) <= 4 * 1196


def test_features_that_are_held_for_ever_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureRoom, "release", lambda *_: None)
    with pytest.raises(LawError, match="no features are held that nobody needs"):
        run(workload={"requests": 5})


@pytest.mark.parametrize("shards", [True, False])
def test_nothing_is_left_in_any_room(shards: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    features = {"encoder_memory_tokens": 6000, "shard_images": shards}
    busy = {"arrivals": {"kind": "poisson", "rate_per_s": 60.0}, "image_pool": 50}
    stage = run(({**E, "replicas": 3}, P, D), features, busy).run.cluster.encoding
    assert [room.needed for room in stage.dispatch.rooms] == [0, 0, 0]
    assert all(room.idle <= 6000 for room in stage.dispatch.rooms)
