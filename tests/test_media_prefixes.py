"""Images in what prompts share: names of prefixes, hits in the cache, and images that are not encoded again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_encode_stage import EPD, SHAPES, E, encoding, run, scenario

from perfdb.media_rules import Seen
from simulator.media_prefixes import with_media
from simulator.request_media import Encodable, RequestMedia
from simulator.requests import build_requests
from workloads.table import Prefixes

IMAGE = Seen(patches=400, tokens=100, sequences=((400, 1),))
TALK = {
    "requests": 48,
    "arrivals": {"kind": "poisson", "rate_per_s": 2.0},
    "images": {"kind": "uniform", "low": 1, "high": 2},
    "image_size": "640x480",
    "text_only_share": 0.25,
    "shared_prefix_tokens": 64,
    "sessions": {"turns": 4, "think_time_s": {"kind": "fixed", "value": 3}},
}


def spans(rows: list[list[tuple[int, int]]], texts: list[list[tuple[int, int]]] | None = None) -> list[list[Any]]:
    """Return (name, end) of what prompts share whose images are (content, start), of 100 tokens each."""
    media = RequestMedia([tuple(Encodable(c, IMAGE, at, 100, 200) for c, at in row) for row in rows], 2)
    prefixes = None
    if texts is not None:
        flat = [span for row in texts for span in row]
        offsets = np.concatenate(([0], np.cumsum([len(row) for row in texts])))
        prefixes = Prefixes(offsets, *(np.array([span[i] for span in flat], np.int64) for i in (0, 1)))
    found = with_media(prefixes, media)
    if found is None:
        return [[] for _ in rows]
    pairs = list(zip(found.contents.tolist(), found.ends.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def test_equal_images_after_equal_prefixes_are_equal_prefixes() -> None:
    one, other, third = spans([[(7, 0), (8, 100)], [(7, 0), (9, 100)], [(9, 0), (8, 100)]])
    assert one == other
    assert [end for _, end in one] == [100]
    assert third == []


def test_text_after_other_images_is_another_prefix() -> None:
    texts = [[(0, 30), (5, 90)]] * 3
    one, same, other = spans([[(7, 30)], [(7, 30)], [(8, 30)]], texts)
    assert one == same
    assert [end for _, end in one] == [30, 130, 190]
    assert other == one[:1]


def test_an_image_in_the_middle_of_a_span_cuts_it() -> None:
    one, other = spans([[(7, 40)], [(7, 40)]], [[(0, 90)]] * 2)
    assert one == other
    assert [end for _, end in one] == [40, 140, 190]


def test_behind_text_of_its_own_nothing_is_shared() -> None:
    assert spans([[(7, 40)], [(7, 40)]], [[], []]) == [[], []]
    assert spans([[(7, 40)], [(7, 40)]], [[(0, 30)], [(0, 30)]]) == [[(0, 30)], [(0, 30)]]


def test_answers_keep_their_names() -> None:
    """The second turn goes on from the first: said, answered, and an image that the answer stands before."""
    first, second = spans([[(7, 10)], [(7, 10), (8, 150)]], [[(0, 10), (1, 30)], [(0, 10), (1, 30), (-1, 50)]])
    assert [end for _, end in second] == [10, 110, 130, 150]
    assert second[:3] == first
    assert second[3][0] == -1


def test_turns_carry_the_images_of_turns_before() -> None:
    requests = build_requests(scenario(workload=TALK))
    media, spoken = requests.media, {"image_size": "28x28", "images": {"kind": "fixed", "value": 1}}
    text = build_requests(scenario(workload=TALK | spoken | {"text_only_share": 1.0}))
    assert media is not None
    for index, items in enumerate(media):
        added = sum(item.tokens for item in items)
        assert requests.prompt_tokens[index] == text.prompt_tokens[index] + added
        starts = [item.start for item in items]
        assert starts == sorted(starts)
        assert all(a.end <= b.start for a, b in pairwise(items))
        assert not items or (items[0].start >= 64 and items[-1].end <= requests.prompt_tokens[index])
    first, last = (sorted(len(items) for items in media)[place] for place in (0, -1))
    assert first <= 2
    assert last > 4


def brought_by(result: Any) -> int:
    """Return the distinct images of a run."""
    return len({item.content for items in result.run.requests.media for item in items})


def hit_rate(result: Any) -> float:
    return result.summary["prefix_cache_hit_rate"]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_images_in_the_cache_are_not_encoded_again(engine: str) -> None:
    result = run(({**EPD, "engine": engine},), workload=TALK)
    carried = int(result.requests["images"].sum())
    brought = brought_by(result)
    assert carried > 2 * brought
    assert encoding(result)["items"] == brought
    assert hit_rate(result) > 0.5
    # Answers' last tokens are not in the cache, nor is what fills no block.
    table, turns = result.requests, build_requests(scenario(workload=TALK)).identities
    assert turns is not None
    assert (table["cached_tokens"] < table["prompt_tokens"]).all()


def test_without_a_cache_images_are_computed_again() -> None:
    pool = {
        **EPD,
        "engine_options": {"enable_prefix_caching": False, "max_num_batched_tokens": 1200, "max_num_seqs": 8},
    }
    result = run((pool,), workload=TALK)
    assert hit_rate(result) == 0
    assert encoding(result)["items"] > 1.5 * len(
        {item.content for items in result.run.requests.media for item in items}
    )


def test_apart_encoders_know_only_what_they_kept() -> None:
    kept, none = (run(SHAPES["E-PD"], {"encoder_kept_tokens": tokens}, TALK) for tokens in (100_000, 0))
    brought = brought_by(kept)
    assert encoding(kept)["items"] == brought
    assert encoding(none)["items"] == none.requests["images"].sum()
    assert hit_rate(kept) > 0.5


def test_prompts_that_begin_with_equal_images_share_them() -> None:
    pictures = {"image_pool": 3, "images": {"kind": "fixed", "value": 1}, "requests": 60, "text_only_share": 0.0}
    one = run((EPD,), workload=pictures)
    assert hit_rate(one) > 0.8
    assert hit_rate(run((EPD,), workload=pictures | {"image_pool": None})) == 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.sampled_from(["EPD", "E-PD", "EP-D"]),
    ready=st.booleans(),
    pool=st.sampled_from([None, 4]),
    waits=st.booleans(),
    seed=st.integers(0, 3),
)
def test_macro_steps_change_nothing(shape: str, pool: int | None, seed: int, *, ready: bool, waits: bool) -> None:
    workload = TALK | {"image_pool": pool, "sessions": TALK["sessions"] | {"wait_for_answer": waits}}
    features = {"streaming": True, "prompt_starts": "ready"} if ready and E in SHAPES[shape] else {}
    tables = [run(SHAPES[shape], features, workload, macro_steps=macro, seed=seed).requests for macro in (True, False)]
    assert tables[0].equals(tables[1])
    assert tables[0]["completed"].all()
