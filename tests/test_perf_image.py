"""What ``servesim perf price`` says of an image is what a run of the encoder costs."""

from __future__ import annotations

import pytest
from command import error_sentence, servesim
from pricing import needs_tables
from test_perf_price import scenario

from perfdb.load_model import load_model
from perfdb.media_tokens import seen
from simulator.perf_image import MediaAsked, encoded_runs, parse_media
from simulator.scenario import Model

PRICE = ("perf", "price", "quickstart", "--set", "pool.colocated.cost_sources=['roofline']")
VISION = ("--set", "model.name=Qwen2.5-VL-7B")


def multimodal(model, layout="tensor", **keys):
    return scenario("dense", layout, **keys).model_copy(update={"model": Model(name=model)})


@pytest.mark.parametrize("model", ["Qwen2.5-VL-7B", "Qwen3-VL-8B", "InternVL3-8B", "LLaVA-1.5-7B", "MiniCPM-V-2.6"])
@pytest.mark.parametrize(
    "sources", [["roofline"], pytest.param(["silicon", "borrowed", "roofline"], marks=needs_tables)]
)
def test_operators_add_up_to_the_run(model, sources):
    media = parse_media(("1280x720", "640x480"), (), ())
    (run,) = encoded_runs(multimodal(model, cost_sources=sources), media)
    assert sum(line.ns for line in run.lines) == pytest.approx(run.total_ns)
    assert run.work.patches == sum(
        seen(load_model(model).encoder, "image", width=w, height=h).patches for w, h in ((1280, 720), (640, 480))
    )
    rest = next(line for line in run.lines if line.name == "between_sizes")
    assert abs(rest.ns) < 0.04 * run.total_ns
    names = [line.name for line in run.lines]
    assert len(set(names)) == len(names)
    assert "encoder_all_reduce" in names


def test_an_encoder_that_chips_cannot_share_stands_whole_on_each():
    (run,) = encoded_runs(multimodal("InternVL3-78B"), parse_media(("448x448",), (), ()))
    assert "encoder_all_reduce" not in [line.name for line in run.lines]


def test_pools_that_only_decode_encode_nothing():
    (run,) = encoded_runs(multimodal("Qwen3-VL-8B", "split"), parse_media(("448x448",), (), ()))
    assert run.pool.name == "prefill"


def test_media_are_read():
    asked = parse_media(("1280x720",), ("640x360x32",), ("12.5", "3"))
    assert asked == (
        MediaAsked("image", 1280, 720),
        MediaAsked("video", 640, 360, 32),
        MediaAsked("audio", seconds=12.5),
        MediaAsked("audio", seconds=3.0),
    )


def test_the_table_names_operators_tokens_and_bytes():
    found = servesim(*PRICE, *VISION, "--image", "1280x720", "--video", "640x360x4", "--prefill", "1196")
    assert found.exit_code == 0
    assert "encoder of Qwen/Qwen2.5-VL-7B-Instruct on 2 x h200_sxm" in found.output
    for told in ("encoder_mlp_in", "merger_out", "the run", "One run over 2 of", "MB of", "the step"):
        assert told in found.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*VISION, "--image", "1280"), "--image 1280: expected WIDTHxHEIGHT, as in 1280x720"),
        ((*VISION, "--image", "0x720"), "--image 0x720: expected WIDTHxHEIGHT"),
        ((*VISION, "--video", "640x360"), "--video 640x360: expected WIDTHxHEIGHTxFRAMES, as in 640x360x32"),
        ((*VISION, "--audio", "3m"), "--audio 3m: expected seconds, as in 12.5"),
        ((*VISION, "--audio", "3"), "Qwen/Qwen2.5-VL-7B-Instruct has no encoder for 'audio'; expected one of"),
        (("--image", "1280x720"), "model.name: Qwen/Qwen3-32B has no encoder; expected a multimodal model"),
        ((), "found neither --prefill nor --decode"),
    ],
)
def test_what_cannot_be_encoded_is_one_sentence(arguments, told):
    found = servesim(*PRICE, *arguments)
    assert told in error_sentence(found.exit_code, found.stdout, found.stderr)
