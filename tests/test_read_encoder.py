"""Encoders are read from configurations in every dialect they are published in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pricing import SHARED

from hardware.errors import CatalogueError
from perfdb.load_model import load_model, model_from_config, presets
from perfdb.media_rules import PatchGrid, Tiles
from perfdb.read_encoder import ENCODERS
from perfdb.tables import installed_root

CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
INTERN_VIT = CLIP | {"image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True}
QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}


def wrapped(architecture, text, **more):
    return {"architectures": [f"{architecture}ForConditionalGeneration"], "text_config": text} | more


def test_every_reader_has_a_preset():
    read = {table["architectures"][0] for name, table in presets().items() if load_model(name).encoder}
    # Models that serve text as well are shipped without their encoders; the second of two names is tested below.
    beside = {"Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"}
    assert set(ENCODERS) == read | beside | {"InternVLForConditionalGeneration"}


@pytest.mark.parametrize("name", [name for name in presets() if load_model(name).encoder])
def test_an_encoder_has_the_parameters_counted_for_it(name):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    path = SHARED / "reference" / "models.yaml"
    if not path.is_file():
        pytest.skip(f"the shared {path.name} is not beside this checkout")
    known = yaml.safe_load(path.read_text(encoding="utf-8"))["models"].get(presets()[name]["short"])
    if known is None:
        pytest.skip("the list does not have it")
    assert load_model(name).encoder.parameters / 1e9 == pytest.approx(known["computed_vision_params_b"], abs=0.0006)


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("InternVL3-8B", 0.304), ("InternVL2-26B", 5.54), ("LLaVA-1.5-7B", 0.3035), ("MiniCPM-V-2.6", 0.413)],
)
def test_a_tower_has_its_published_size(name, encoder):
    spec = load_model(name).encoder
    tower = replace(spec, around=tuple(one for one in spec.around if one.name == "patch_embedding"))
    # MiniCPM-V's has a longer table of positions.
    assert tower.parameters / 1e9 == pytest.approx(encoder, rel=0.015)


def test_llava_leaves_out_what_its_language_models_class_implies():
    found = model_from_config("m", wrapped("Llava", {"model_type": "llama", "vocab_size": 32064}, vision_config=CLIP))
    assert found.parameters == load_model("LLaVA-1.5-7B").parameters
    mistral = {"model_type": "mistral", "vocab_size": 32064}
    found = model_from_config("m", wrapped("LlavaNext", mistral, vision_config=CLIP))
    assert found.encoder.rule == load_model("LLaVA-NeXT-Mistral-7B").encoder.rule
    assert found.parameters == load_model("LLaVA-NeXT-Mistral-7B").parameters


def test_internvl_is_read_in_both_dialects():
    inside = {"model_type": "qwen2", **presets()["OpenGVLab/InternVL3-8B"]["llm_config"]}
    found = model_from_config("m", wrapped("InternVL", inside, vision_config=INTERN_VIT, downsample_ratio=0.5))
    expected = load_model("InternVL3-8B")
    assert found.encoder == replace(expected.encoder, name="m")
    assert found.stack == expected.stack
    assert found.encoder.rule == Tiles(1024, 256, 448, 12)


def test_a_language_model_that_says_its_type_alone_is_known():
    found = model_from_config("m", wrapped("InternVL", QWEN3, vision_config=INTERN_VIT))
    assert (found.layers, found.stack[0].mixer.qk_norm) == (36, True)
    assert found.encoder.features == 4096


def test_qwen2_vl_calls_its_width_embed_dim():
    table = dict(presets()["Qwen/Qwen2-VL-7B-Instruct"])
    named = {"hidden_size": 1280, "out_hidden_size": 3584, "intermediate_size": 5120, "embed_dim": None}
    alike = model_from_config("m", table | {"vision_config": table["vision_config"] | named})
    assert alike.encoder.parameters == load_model("Qwen2-VL-7B").encoder.parameters
    assert alike.encoder.hidden == 1280


def test_limits_of_pixels_may_be_in_the_file():
    table = dict(presets()["Qwen/Qwen2.5-VL-7B-Instruct"])
    limited = table["vision_config"] | {"max_pixels": 1_003_520}
    rule = model_from_config("m", table | {"vision_config": limited}).encoder.rule
    assert isinstance(rule, PatchGrid)
    assert (rule.min_pixels, rule.max_pixels) == (3136, 1_003_520)


@pytest.mark.parametrize("size", ["2B", "4B", "8B", "32B", "30B-A3B", "235B-A22B"])
def test_configurations_of_qwen3_vl_are_their_presets(size):
    root = installed_root()
    path = root and root.parent / "model_configs" / f"Qwen--Qwen3-VL-{size}-Instruct_config.json"
    if path is None or not path.is_file():
        pytest.skip("aiconfigurator-core is not installed")
    found, expected = load_model(str(path)), load_model(f"Qwen3-VL-{size}")
    assert found.encoder == replace(expected.encoder, name=found.name)
    assert (found.stack, found.tied) == (expected.stack, expected.tied)


def test_models_of_text_that_can_see_have_their_encoder():
    root = installed_root()
    path = root and root.parent / "model_configs" / "Qwen--Qwen3.5-27B_config.json"
    if path is None or not path.is_file():
        pytest.skip("aiconfigurator-core is not installed")
    encoder = load_model(str(path)).encoder
    # No DeepStack: one feature for each token.
    assert (encoder.layers, encoder.features) == (27, 5120)
    assert load_model("Qwen3.5-27B").encoder is None


def test_quantised_language_models_keep_their_encoders_wide():
    table = dict(presets()["Qwen/Qwen3-VL-8B-Instruct"]) | {"quantization_config": {"quant_method": "fp8"}}
    found = model_from_config("m", table)
    assert found.weights == "fp8"
    assert found.encoder.weight_bytes == 2 * found.encoder.parameters


@pytest.mark.parametrize(
    ("architecture", "seeing"), [("Qwen3ForCausalLM", {"vision_config": CLIP}), ("Qwen3VLForConditionalGeneration", {})]
)
def test_without_a_known_encoder_a_model_is_one_of_text(architecture, seeing):
    assert model_from_config("m", QWEN3 | {"architectures": [architecture]} | seeing).encoder is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"depth": None}, "m: vision_config: num_hidden_layers is None, expected a positive integer"),
        ({"num_heads": "16"}, "m: vision_config: num_attention_heads is '16', expected a positive integer"),
        ({"window_size": -1}, "m: vision_config: window_size is -1, expected an integer of at least 0"),
    ],
)
def test_an_impossible_shape_is_named(change, match):
    table = dict(presets()["Qwen/Qwen2.5-VL-7B-Instruct"])
    with pytest.raises(CatalogueError, match=match):
        model_from_config("m", table | {"vision_config": table["vision_config"] | change})


def test_a_preset_in_a_file_has_the_same_encoder(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(presets()["openbmb/MiniCPM-V-2_6"])))
    found = load_model(str(path)).encoder
    assert found == replace(load_model("MiniCPM-V-2.6").encoder, name=str(path))
