"""Images, videos and sounds: read, drawn, written and read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hardware.errors import TraceError
from perfdb.load_model import load_model
from simulator.request_media import media_seen
from simulator.trace_file import write_trace
from workloads.media import Item, Media, media_of, written_items
from workloads.readers.media_field import parse_items
from workloads.readers.protocol import BadRowError
from workloads.statistics import describe
from workloads.synthetic import Synthetic, synthesize
from workloads.traces import read_trace

if TYPE_CHECKING:
    from pathlib import Path

SIZES = st.integers(1, 9999)
ITEMS = st.one_of(
    st.builds(Item, st.just("image"), SIZES, SIZES, content=st.integers(0, 3)),
    st.builds(Item, st.just("image"), tokens=SIZES, content=st.integers(0, 3)),
    st.builds(Item, st.just("video"), SIZES, SIZES, SIZES),
    st.builds(Item, st.just("audio"), duration_ms=SIZES),
)


def spec(**keys: Any) -> Synthetic:
    base: dict[str, Any] = {
        "requests": 400,
        "arrivals": {"kind": "constant", "rate_per_s": 2},
        "prompt_tokens": {"kind": "fixed", "value": 10},
        "output_tokens": {"kind": "fixed", "value": 4},
        "images": {"kind": "fixed", "value": 2},
    }
    return Synthetic.model_validate(base | keys)


def known(media: Media) -> list[tuple[Any, ...]]:
    """Return what is known of each item, contents numbered as they first appear."""
    numbers: dict[int, int] = {}
    contents = [numbers.setdefault(content, len(numbers)) for content in media.content.tolist()]
    return list(zip(media.contents(), contents, strict=True))


@given(st.lists(st.lists(ITEMS, max_size=4), min_size=1, max_size=6))
def test_what_is_written_is_read_again(rows: list[list[Item]]) -> None:
    # Equal names are equal inputs, so that their sizes are equal too.
    rows = [[item._replace(content=None if item.content is None else (*item,)) for item in row] for row in rows]
    rows = [[item._replace(place=3 * place * place) for place, item in enumerate(row)] for row in rows]
    media = media_of(rows)
    again = media_of(parse_items(text) for text in written_items(media))
    assert known(again) == known(media)
    assert again.place.tolist() == media.place.tolist() == [item.place for row in rows for item in row]
    assert again.counts.tolist() == media.counts.tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("text", ["picture:1x1", "image:1280", "image;;image", "audio:-1s", "image:540t#x", "image#-1"])
def test_what_is_not_media_is_refused(text: str) -> None:
    with pytest.raises(BadRowError, match="expected items such as image:1280x720"):
        parse_items(text)


@pytest.mark.parametrize(
    ("text", "fitting"),
    [
        ("image:1x1@9;image:1x1@8", "image:1x1@8;image:1x1@8"),
        ("image:1x1@21", "image:1x1@20"),
        ("image:5t@15;image:1x1@16", "image:5t@15;image:1x1@15"),
    ],
)
def test_places_rise_and_lie_within_the_text(text: str, fitting: str) -> None:
    parse_items(fitting, 20)
    with pytest.raises(BadRowError, match=r"expected places that rise and lie within the (20|15) tokens of text"):
        parse_items(text, 20)


def test_an_image_stands_where_the_trace_says(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens,media\n0.5,100,4,image:448x448@60;image:448x448@100\n")
    arrivals = read_trace(trace)
    assert arrivals.media is not None
    encoder = load_model("Qwen2.5-VL-7B").encoder
    assert encoder is not None
    found, added = media_seen(encoder, arrivals.media, 0, None)
    assert [(item.start, item.end) for item in found.of(0)] == [(60, 60 + 256), (100 + 256, 100 + 512)]
    assert added == [512]


def test_servegen_says_the_tokens_of_each_image(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("timestamp,text_tokens,image_tokens,output_tokens\n0.5,100,300;200,10\n1.5,30,,20\n")
    found = read_trace(trace)
    assert found.media is not None
    assert found.media.tokens.tolist() == [300, 200]
    assert found.media.counts.tolist() == [2, 0]
    assert found.prompt_tokens.tolist() == [600, 30]


def test_azure_counts_images_of_unknown_size(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    rows = "2024-10-15 00:00:00.1,2,500,10\n2024-10-15 00:00:01.1,0,30,20\n"
    trace.write_text(f"TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n{rows}")
    found = read_trace(trace)
    assert found.media is not None
    assert found.media.counts.tolist() == [2, 0]
    assert not any(item.known for item in found.media.contents())


def test_tokens_of_drawn_images_are_in_the_prompt() -> None:
    found = synthesize(spec(image_tokens={"kind": "uniform", "low": 50, "high": 90}), 3)
    assert found.media is not None
    sums = [found.media.tokens[i : i + 2].sum() for i in range(0, 800, 2)]
    assert found.prompt_tokens.tolist() == [10 + tokens for tokens in sums]


def test_sizes_vary_around_their_mean() -> None:
    media = synthesize(spec(image_size="802x652", image_size_sigma=0.4, requests=20_000), 1).media
    assert media is not None
    assert media.width.mean() == pytest.approx(802, rel=0.01)
    assert media.width.std() == pytest.approx(802 * np.sqrt(np.exp(0.16) - 1), rel=0.05)
    assert np.abs(media.width / media.height - 802 / 652).max() < 0.05


def test_an_image_that_comes_again_is_the_same() -> None:
    drawn = synthesize(spec(image_size=["640x480", "1280x720"], image_pool=5), 1)
    media = drawn.media
    assert media is not None
    assert np.unique(media.content).size == 5
    assert len({(content, width) for content, width in zip(media.content, media.width, strict=True)}) == 5
    assert describe(drawn)["repeated_images_share"] == 1 - 5 / 800


def test_a_share_of_the_requests_is_text_alone() -> None:
    found = synthesize(spec(image_size="64x64", text_only_share=0.25, requests=10_000), 1)
    assert describe(found)["text_only_share"] == pytest.approx(0.25, abs=0.02)


def test_images_leave_other_draws_alone() -> None:
    lengths = {"kind": "uniform", "low": 1, "high": 99}
    with_images = synthesize(spec(image_size="64x64", prompt_tokens=lengths), 7)
    without = synthesize(spec(images=None, prompt_tokens=lengths), 7)
    assert with_images.prompt_tokens.tolist() == without.prompt_tokens.tolist()
    assert without.media is None


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "expected one of image_size"),
        ({"image_size": "1280"}, "expected width x height"),
        ({"image_size": "64x64", "image_tokens": {"kind": "fixed", "value": 9}}, "expected one of image_size"),
        ({"image_tokens": {"kind": "fixed", "value": 9}, "video_frames": 8}, "need image_size"),
        ({"images": None, "image_pool": 3}, "has no meaning without images"),
    ],
)
def test_impossible_images_are_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        spec(**keys)


def test_csv_carries_media(tmp_path: Path) -> None:
    drawn = synthesize(spec(image_size="640x480", video_frames=16, image_pool=7, text_only_share=0.3), 5)
    write_trace(drawn, tmp_path / "t.csv")
    again = read_trace(tmp_path / "t.csv")
    assert again.media is not None
    assert drawn.media is not None
    assert known(again.media) == known(drawn.media)
    assert again.prompt_tokens.tolist() == drawn.prompt_tokens.tolist()


def test_offsets_must_cut_the_columns() -> None:
    columns = [np.zeros(2, np.int64)] * 7
    with pytest.raises(TraceError, match="media offsets"):
        Media(np.array([0, 1]), *columns)
