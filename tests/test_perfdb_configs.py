"""Hugging Face configurations in every dialect a dense model is published in."""

from __future__ import annotations

import json

import pytest

from hardware.errors import CatalogueError
from perfdb.load_model import load_model, model_from_config, presets

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
FALCON = {
    "architectures": ["FalconForCausalLM"],
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "vocab_size": 65024,
}


def llama(**changes):
    return {key: value for key, value in (LLAMA | changes).items() if value is not None}


def group(**weights):
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


def one_sentence(config, match):
    with pytest.raises(CatalogueError, match=match) as problem:
        model_from_config("m", config)
    text = str(problem.value)
    assert text.startswith("m: ")
    assert "\n" not in text
    assert len(text) < 400


# --- shapes ------------------------------------------------------------------------------------------


def test_a_missing_head_dim_is_hidden_over_heads():
    assert model_from_config("m", LLAMA).stack[0].mixer.head_dim == 128
    assert model_from_config("m", llama(head_dim=64)).stack[0].mixer.head_dim == 64
    assert model_from_config("m", llama(head_dim=64)).stack[0].mixer.qkv_width == (32 + 2 * 8) * 64


def test_without_kv_heads_every_head_has_its_own():
    assert model_from_config("m", llama(num_key_value_heads=None)).stack[0].mixer.kv_heads == 32


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_embed", "hidden_size"),
        ("d_model", "hidden_size"),
        ("num_kv_heads", "num_key_value_heads"),
        ("n_head_kv", "num_key_value_heads"),
        ("ffn_dim", "intermediate_size"),
        ("n_inner", "intermediate_size"),
    ],
)
def test_the_names_of_older_configurations_mean_the_same(old, new):
    assert model_from_config("m", llama(**{new: None, old: LLAMA[new]})) == model_from_config("m", LLAMA)


def test_a_model_without_an_mlp_size_has_four_times_its_width():
    assert model_from_config("m", llama(intermediate_size=None)).stack[0].feed_forward.intermediate == 4 * 4096


def test_the_first_falcons_share_one_kv_head():
    # tiiuae/falcon-7b: 6.92 billion parameters, embeddings tied.
    model = model_from_config("m", FALCON | {"num_kv_heads": 71, "multi_query": True})
    assert model.stack[0].mixer.kv_heads == 1
    assert model.parameters == pytest.approx(6.92e9, rel=0.005)
    newer = FALCON | {"num_attention_heads": 64, "num_kv_heads": 8, "multi_query": True}
    assert model_from_config("m", newer | {"new_decoder_architecture": True}).stack[0].mixer.kv_heads == 8


@pytest.mark.parametrize(("family", "tied"), [("OPT", True), ("Bloom", True), ("Llama", False), ("Qwen2", False)])
def test_embeddings_are_tied_where_the_family_says_so_and_the_file_does_not(family, tied):
    config = llama(architectures=[f"{family}ForCausalLM"])
    assert model_from_config("m", config).tied is tied
    assert model_from_config("m", config | {"tie_word_embeddings": not tied}).tied is not tied


@pytest.mark.parametrize(
    ("architecture", "fields", "window"),
    [
        ("Mistral", {"sliding_window": 4096}, 4096),
        ("Mistral", {"sliding_window": None}, 0),
        ("Qwen2", {"sliding_window": 131072, "use_sliding_window": False}, 0),
        ("Qwen2", {"sliding_window": 131072}, 0),
        ("Qwen3", {"sliding_window": 4096, "use_sliding_window": True}, 4096),
        ("Llama", {}, 0),
    ],
)
def test_a_sliding_window_counts_only_where_it_is_switched_on(architecture, fields, window):
    config = LLAMA | {"architectures": [f"{architecture}ForCausalLM"], **fields}
    assert model_from_config("m", config).stack[0].mixer.window == window


# --- weight formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "weights"),
    [
        (None, "bf16"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "gptq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "auto-round", "bits": 4}, "int4"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_algo": "FP8", "producer": {"name": "modelopt"}}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (group(type="float", num_bits=8, strategy="channel"), "fp8"),
        (group(type="float", num_bits=8, strategy="block"), "fp8_block"),
        (group(type="int", num_bits=4, strategy="group"), "int4"),
    ],
)
def test_the_weight_format_is_what_the_configuration_declares(declared, weights):
    assert model_from_config("m", llama(quantization_config=declared)).weights == weights


@pytest.mark.parametrize(
    "declared",
    [
        {"quant_method": "quip"},
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "awq"},
        {"quant_algo": "W3A3"},
        {"bits": 4},
        "fp8",
        {"quant_method": "compressed-tensors"},
        {"quant_method": "compressed-tensors", "config_groups": {"a": None}},
    ],
)
def test_an_unknown_declaration_is_refused_and_can_be_overridden(declared):
    config = llama(quantization_config=declared)
    one_sentence(config, r"quantization_config .* not recognised; set model\.weights to one of bf16, fp8")
    assert model_from_config("m", config, weights="int4").weights == "int4"


def test_what_the_scenario_says_beats_the_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(llama(quantization_config={"quant_method": "quip"})))
    assert load_model(str(tmp_path), weights="fp8").weights == "fp8"


def test_a_quantisation_in_a_file_of_its_own_is_found(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert load_model(str(tmp_path)).weights == "bf16"
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert load_model(str(tmp_path)).weights == "fp8"


# --- files, and what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "config.json"])
def test_a_folder_and_its_config_json_are_the_same_model(tmp_path, inside):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    model = load_model(str(tmp_path / inside), kv_cache="fp8")
    assert model.name == str(tmp_path / "config.json")
    assert (model.kv_cache, model.parameters) == ("fp8", load_model("Llama-3.1-8B").parameters)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '"fp8"', ""])
def test_a_malformed_file_is_named(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CatalogueError, match=r"config\.json: (not a readable JSON|expected a JSON object)"):
        load_model(str(path))


def test_a_folder_without_a_config_json_is_refused(tmp_path):
    with pytest.raises(CatalogueError, match=r"neither a preset nor a config\.json"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("architectures", [None, [], "BertModel", [None]])
def test_a_missing_or_odd_architecture_is_refused(architectures):
    one_sentence(llama(architectures=architectures), "is not a transformer servesim prices")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", None),
        ("num_hidden_layers", 0),
        ("num_attention_heads", "32"),
        ("vocab_size", 1.5),
        ("num_key_value_heads", True),
        ("head_dim", -1),
        ("sliding_window", "wide"),
    ],
)
def test_a_size_that_is_no_positive_integer_is_named(field, value):
    one_sentence(llama(**{field: value}), rf"{field} is .*, expected a positive integer")


def test_heads_that_do_not_share_evenly_are_refused():
    one_sentence(llama(num_key_value_heads=5), "num_attention_heads 32 is not a multiple of num_key_value_heads 5")


@pytest.mark.parametrize("name", tuple(presets()))
def test_a_preset_is_a_config_json(name, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(presets()[name])))
    assert load_model(str(path)).parameters == load_model(name).parameters
