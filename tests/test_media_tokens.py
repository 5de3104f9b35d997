"""Tokens of images, videos and sounds are those that were published, and every rule keeps the laws of rules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.errors import ScenarioError
from perfdb.load_model import load_model, presets
from perfdb.media_rules import Clips, Medium
from perfdb.media_tokens import MEDIA_RULES, seen, seen_of_tokens

#: EPD-Serve (arXiv 2601.11590), Table 3; the third row is printed as 640x960, and is 23 x 23 tokens.
EPD_SERVE = {
    (280, 280): 100,
    (560, 560): 400,
    (640, 640): 529,
    (1280, 720): 1196,
    (1920, 1080): 2691,
    (4096, 3112): 16206,
}
#: Tokens of 28 x 28 and of 32 x 32 pixels by the families' rules.
BY_SIDE = {
    (448, 448): (256, 196),
    (802, 652): (667, 500),
    (1280, 720): (1196, 880),
    (1920, 1080): (2691, 2040),
    (3840, 2160): (10549, 8160),
    (4032, 3024): (15552, 11844),
}
#: A model for each rule.
EXAMPLES = {
    "patch_grid": "Qwen2.5-VL-7B",
    "tiles": "InternVL3-8B",
    "any_resolution": "LLaVA-NeXT-Mistral-7B",
    "slices": "MiniCPM-V-2.6",
    "clips": "Qwen2-Audio-7B",
}
SIZES = st.integers(28, 5000)


def image(model, width, height):
    return seen(load_model(model).encoder, "image", width=width, height=height)


def video(model, frames, width=640, height=360):
    return seen(load_model(model).encoder, "video", width=width, height=height, frames=frames)


def audio(seconds):
    return seen(load_model("Qwen2-Audio-7B").encoder, "audio", seconds=seconds)


@pytest.mark.parametrize("size", EPD_SERVE)
@pytest.mark.parametrize("model", ["openPangu-VL-7B", "Qwen2.5-VL-7B", "Qwen2-VL-7B"])
def test_feature_rows_of_epd_serve(model, size):
    assert image(model, *size).tokens == EPD_SERVE[size]


@pytest.mark.parametrize("size", BY_SIDE)
def test_tokens_of_qwen_models(size):
    small, large = BY_SIDE[size]
    assert image("Qwen2.5-VL-7B", *size)[:2] == (4 * small, small)
    assert image("Qwen3-VL-8B", *size)[:2] == (4 * large, large)


def test_an_image_of_640_x_640_has_400_tokens_in_qwen3_vl():
    # vLLM's article on encoder disaggregation.
    assert image("Qwen3-VL-4B", 640, 640).tokens == 400


def test_images_beyond_the_limits_are_resized():
    assert image("Qwen2.5-VL-7B", 20, 20).tokens == 4
    assert image("Qwen3-VL-8B", 20, 20).tokens == 64
    assert image("Qwen2.5-VL-7B", 9000, 6000).tokens <= 16384
    assert image("Qwen3-VL-8B", 9000, 6000).tokens <= 16384


def test_tiles_and_slices_of_a_large_photograph():
    # Singh et al. (arXiv 2501.05460), Table 3: 13 tiles and 10 slices of 4032 x 3024.
    assert image("InternVL2-8B", 4032, 3024) == (13 * 1024, 3328, ((1024, 13),), ())
    found = image("MiniCPM-V-2.6", 4032, 3024)
    assert (found.tokens, sum(count for _, count in found.sequences)) == (640, 10)
    assert found.patches == pytest.approx(10 * 1024, rel=0.02)


def test_small_images_are_one_tile_or_slice():
    assert image("InternVL2-8B", 448, 448).tokens == 256
    assert image("MiniCPM-V-2.6", 448, 448).tokens == 64
    assert image("MiniCPM-V-2.6", 224, 224).patches == 1024


def test_tokens_of_llava():
    assert image("LLaVA-1.5-7B", 1280, 720) == (576, 576, ((576, 1),), ())
    # Five tiles are 2,880 tokens; the rows of the joined four end with one each.
    assert image("LLaVA-NeXT-Mistral-7B", 672, 672) == (2880, 2880 + 48, ((576, 5),), ())
    # Padding above and below a wide image is cut off: 28 of 48 rows are left.
    assert image("LLaVA-NeXT-Mistral-7B", 1280, 720).tokens == 28 * 49 + 576
    assert image("LLaVA-NeXT-Mistral-7B", 2000, 500) == (4 * 576, 18 * 73 + 576, ((576, 4),), ())


@pytest.mark.parametrize("frames", [1, 2, 3, 16, 17])
def test_two_frames_share_their_patches(frames):
    one = video("Qwen2.5-VL-7B", 1)
    found = video("Qwen2.5-VL-7B", frames)
    pairs = math.ceil(frames / 2)
    assert found.tokens == pairs * one.tokens
    assert found.sequences == ((one.patches, pairs),)


def test_long_videos_are_thinned_out_and_shrunk():
    assert video("Qwen2.5-VL-7B", 5000) == video("Qwen2.5-VL-7B", 768)
    # 25,165,824 pixels of 32 x 32 over pairs of frames.
    assert video("Qwen3-VL-8B", 700, 1920, 1080).tokens <= 12288
    assert video("Qwen3-VL-8B", 4, 1920, 1080).tokens == 2 * 2040


def test_frames_of_tiled_and_sliced_models():
    assert video("InternVL3-8B", 8).tokens == 8 * 256
    assert video("MiniCPM-V-2.6", 8).tokens == 8 * 64


def test_sound_has_25_tokens_a_second_and_is_computed_in_clips():
    assert audio(30) == (1500, 750, ((1500, 1),), ())
    assert audio(4).tokens == 100
    assert audio(4).patches == 1500
    # Whisper's feature extractor cuts off what is longer than a clip.
    assert audio(70) == audio(30)
    assert Clips(30, 2, most=8).seen(Medium("audio", seconds=70)) == (4500, 1750, ((1500, 3),), ())


def test_every_rule_has_an_example():
    assert set(EXAMPLES) == set(MEDIA_RULES)
    for rule, model in EXAMPLES.items():
        assert type(load_model(model).encoder.rule) is MEDIA_RULES[rule]


@pytest.mark.parametrize(
    "model", [table["short"] for table in presets().values() if load_model(table["short"]).encoder]
)
@given(width=SIZES, height=SIZES, frames=st.integers(1, 900), seconds=st.floats(0.01, 400))
@settings(max_examples=50, deadline=None)
def test_attention_covers_every_patch_once(model, width, height, frames, seconds):
    encoder = load_model(model).encoder
    for kind in encoder.kinds:
        found = seen(encoder, kind, width=width, height=height, frames=frames, seconds=seconds)
        assert found.tokens > 0
        for segments in (found.sequences, *([found.windows] if found.windows else [])):
            assert sum(length * count for length, count in segments) == found.patches
        assert seen(encoder, kind, width=width, height=height, frames=frames, seconds=seconds) == found


@pytest.mark.parametrize("model", EXAMPLES.values())
@given(tokens=st.integers(1, 30000))
@settings(max_examples=50, deadline=None)
def test_what_is_known_by_its_tokens_has_those_tokens(model, tokens):
    encoder = load_model(model).encoder
    found = seen_of_tokens(encoder, tokens)
    assert found.tokens == tokens
    for segments in (found.sequences, *([found.windows] if found.windows else [])):
        assert sum(length * count for length, count in segments) == found.patches


@pytest.mark.parametrize("model", ["Qwen2-VL-7B", "Qwen3-VL-8B", "InternVL3-8B"])
@given(width=SIZES, height=SIZES)
@settings(max_examples=50, deadline=None)
def test_an_image_and_its_tokens_are_as_much_work(model, width, height):
    encoder = load_model(model).encoder
    found = seen(encoder, "image", width=width, height=height)
    assert seen_of_tokens(encoder, found.tokens) == found


@pytest.mark.parametrize(
    ("kind", "sizes", "match"),
    [
        (
            "audio",
            {"seconds": 3.0},
            "Qwen2-VL-7B-Instruct has no encoder for 'audio'; expected one of image, video",
        ),
        ("imag", {"width": 3}, "did you mean 'image'"),
        ("image", {"width": 640}, "image: height is 0, expected more than 0"),
        ("video", {"width": 640, "height": 480, "frames": 0}, "video: frames is 0"),
    ],
)
def test_what_an_encoder_cannot_see_is_one_sentence(kind, sizes, match):
    with pytest.raises(ScenarioError, match=match):
        seen(load_model("Qwen2-VL-7B").encoder, kind, **sizes)


def test_no_tokens_are_no_medium():
    with pytest.raises(ScenarioError, match="tokens are 0, expected more than 0"):
        seen_of_tokens(load_model("Qwen2-VL-7B").encoder, 0)
