"""Stacks whose layers differ: experts here and there, windows in turn, some matrices left in 16 bits."""

from __future__ import annotations

import pytest

from hardware.errors import CatalogueError
from perfdb.load_model import load_model, model_from_config
from perfdb.parts import Experts, Mlp
from perfdb.quantisation import Quantisation
from perfdb.tables import installed_root

MIXTURE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
}
LISTS = (
    ["dense"] * 2 + ["sparse"] * 10,
    ["dense", "sparse"] * 6,
)


def sparse_layers(**changes):
    """Return how many layers have experts."""
    stack = model_from_config("m", MIXTURE | changes).stack
    assert sum(group.count for group in stack) == 12
    return sum(group.count for group in stack if isinstance(group.feed_forward, Experts))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 12),
        ({"first_k_dense_replace": 3}, 9),
        ({"moe_layer_freq": 2}, 6),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, 5),
        ({"decoder_sparse_step": 3}, 4),
        ({"decoder_sparse_step": 0}, 0),
        ({"mlp_only_layers": [0, 5]}, 10),
        ({"interleave_moe_layer_step": 2}, 6),
        ({"mlp_layer_types": LISTS[0]}, 10),
        ({"mlp_layer_types": LISTS[1], "first_k_dense_replace": 12}, 6),
    ],
)
def test_each_family_says_in_its_own_way_which_layers_have_experts(changes, expected):
    assert sparse_layers(**changes) == expected


def test_layers_of_one_kind_stand_together_in_the_order_they_occur():
    stack = model_from_config("m", MIXTURE | {"mlp_layer_types": LISTS[1]}).stack
    assert [(group.count, type(group.feed_forward)) for group in stack] == [(6, Mlp), (6, Experts)]


def test_a_list_of_kinds_that_is_too_short_is_one_sentence():
    with pytest.raises(CatalogueError, match="m: mlp_layer_types has no entry for layer 3, expected one for each"):
        model_from_config("m", MIXTURE | {"mlp_layer_types": ["sparse"] * 3})


def test_a_token_cannot_pass_more_experts_than_there_are():
    with pytest.raises(CatalogueError, match="num_experts_per_tok is 200, expected at most the 128 experts there are"):
        model_from_config("m", MIXTURE | {"num_experts_per_tok": 200})


@pytest.mark.parametrize(
    ("field", "width"),
    [("n_shared_experts", 2 * 768), ("shared_expert_intermediate_size", 2), ("shared_intermediate_size", 2)],
)
def test_shared_experts_are_counted_or_given_their_width(field, width):
    experts = model_from_config("m", MIXTURE | {field: 2}).stack[0].feed_forward
    alone = model_from_config("m", MIXTURE).stack[0].feed_forward
    assert (experts.shared, alone.shared) == (width, 0)
    hidden, added = 2048, 3 * 2048 * width
    assert sum(n for _, n in experts.matrices(hidden)) - sum(n for _, n in alone.matrices(hidden)) == added
    assert experts.idle_parameters(hidden) == alone.idle_parameters(hidden)


# --- windows -----------------------------------------------------------------------------------------


def windows(**changes):
    stack = model_from_config("m", MIXTURE | {"sliding_window": 128} | changes).stack
    return {group.mixer.window: group.count for group in stack}


def test_layers_may_have_a_window_in_turn():
    assert windows(architectures=["GptOssForCausalLM"]) == {128: 6, 0: 6}
    assert windows(layer_types=["sliding_attention"] * 3 + ["full_attention"] * 9) == {128: 3, 0: 9}


def test_qwen_slides_where_it_is_told_to_from_a_layer_on():
    assert windows() == {0: 12}
    assert windows(use_sliding_window=True, max_window_layers=8) == {0: 8, 128: 4}


def test_a_preset_with_windows_in_turn_keeps_both_kinds():
    assert {g.mixer.window: g.count for g in load_model("gpt-oss-120b").stack} == {128: 18, 0: 18}


# --- wrappers ----------------------------------------------------------------------------------------


def test_a_multimodal_wrapper_is_looked_through():
    inner = {key: value for key, value in MIXTURE.items() if key != "architectures"}
    alone = model_from_config("m", MIXTURE | {"tie_word_embeddings": True})
    wrapped = {"architectures": MIXTURE["architectures"], "tie_word_embeddings": True, "text_config": inner}
    assert model_from_config("m", wrapped) == alone
    named = {"architectures": ["WrapperForConditionalGeneration"], "text_config": MIXTURE}
    assert model_from_config("m", named) == model_from_config("m", MIXTURE)


def test_a_wrapper_may_declare_the_quantisation():
    declared = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    named = {"architectures": ["Wrapper"], "text_config": MIXTURE, "quantization_config": declared}
    assert model_from_config("m", named) == model_from_config("m", MIXTURE | {"quantization_config": declared})


# --- which matrices are quantised --------------------------------------------------------------------


def formats(weights=None, **declared):
    config = MIXTURE | ({"quantization_config": declared} if declared else {})
    return [group.formats for group in model_from_config("m", config, weights=weights).stack]


@pytest.mark.parametrize(
    "kept",
    [
        ["self_attn"],
        ["re:.*self_attn.*"],
        ["model.layers.*.self_attn"],
        [f"language_model.model.layers.{layer}.self_attn*" for layer in range(12)],
        [f"model.layers.{layer}.self_attn.{name}" for layer in range(12) for name in ("q_proj", "o_proj")],
    ],
)
def test_modules_left_alone_are_named_in_many_dialects(kept):
    (found,) = formats(quant_method="fp8", modules_to_not_convert=kept)
    assert (found.mixer, found.mixer_out, found.feed_forward, found.router) == ("bf16", "bf16", "fp8", "bf16")


def test_a_name_is_matched_by_whole_parts():
    quantised = Quantisation("fp8", ("gate", "model.layers.1", "lm_head"))
    modules = {"mixer": ("self_attn.gate_proj",), "feed_forward": ("mlp.down_proj",), "shared": ("mlp.gate",)}
    first, second, eleventh = (quantised.of_layer(layer, modules, sparse=True) for layer in (0, 1, 11))
    assert (first.mixer, first.feed_forward, first.shared) == ("fp8", "fp8", "bf16")
    assert (second.mixer, second.feed_forward) == ("bf16", "bf16")
    assert eleventh == first


def test_layers_in_different_formats_are_of_different_kinds():
    found = formats(quant_algo="NVFP4", exclude_modules=["model.layers.0*"])
    assert [one.feed_forward for one in found] == ["bf16", "nvfp4"]


@pytest.mark.parametrize(
    ("weights", "mixer", "experts"),
    [("fp8", "fp8", "fp8"), ("nvfp4", "bf16", "nvfp4"), ("mxfp4", "bf16", "mxfp4"), ("int4", "bf16", "int4")],
)
def test_a_mixture_in_a_format_it_was_not_published_in_is_quantised_as_others_are(weights, mixer, experts):
    (found,) = formats(weights)
    assert (found.mixer, found.feed_forward) == (mixer, experts)
    assert formats(weights, quant_method="fp8", ignore=["mlp.experts"]) == formats(weights) or weights == "fp8"


def test_the_same_format_keeps_what_the_checkpoint_leaves_alone():
    declared = {"quant_method": "fp8", "modules_to_not_convert": ["self_attn"]}
    assert formats("fp8", **declared) == formats(**declared) != formats("fp8")


def test_weight_bytes_are_those_of_each_matrix_in_its_format():
    model = load_model("gpt-oss-120b")
    experts = 36 * 128 * 3 * 2880 * 2880
    assert model.weight_bytes == experts * 17 // 32 + 2 * (model.parameters - experts)
    assert load_model("gpt-oss-120b", weights="bf16").weight_bytes == 2 * model.parameters


CHECKPOINTS = [
    ("openai--gpt-oss-120b", {"bf16/bf16/mxfp4/-"}),
    ("MiniMaxAI--MiniMax-M2.5", {"fp8_block/fp8_block/fp8_block/-"}),
    ("nvidia--MiniMax-M2.5-NVFP4", {"bf16/bf16/nvfp4/-"}),
    ("Qwen--Qwen3-235B-A22B-FP8", {"fp8_block/fp8_block/fp8_block/-"}),
    ("nvidia--Qwen3-235B-A22B-NVFP4", {"nvfp4/nvfp4/nvfp4/-"}),
    ("deepseek-ai--DeepSeek-V3", {"fp8_block/fp8_block/fp8_block/-", "fp8_block/fp8_block/fp8_block/fp8_block"}),
    ("nvidia--DeepSeek-V3.1-NVFP4", {"bf16/nvfp4/nvfp4/-", "bf16/nvfp4/nvfp4/nvfp4"}),
    ("nvidia--GLM-5-NVFP4", {"bf16/bf16/nvfp4/-", "bf16/bf16/nvfp4/nvfp4"}),
    ("nvidia--GLM-5.1-NVFP4", {"bf16/bf16/bf16/-", "bf16/bf16/nvfp4/bf16"}),
    ("moonshotai--Kimi-K2.5", {"bf16/bf16/bf16/-", "bf16/bf16/int4_group32/bf16"}),
    ("nvidia--Kimi-K2.5-NVFP4", {"bf16/bf16/nvfp4/-", "bf16/bf16/nvfp4/nvfp4"}),
    ("nvidia--Qwen3.5-397B-A17B-NVFP4", {"bf16/bf16/nvfp4/bf16"}),
]


@pytest.fixture
def published(tmp_path):
    """Return a function that puts a published configuration into a folder."""
    configs = installed_root()
    if configs is None:
        pytest.skip("aiconfigurator-core is not installed")

    def put(checkpoint):
        for file in ("config", "hf_quant_config"):
            source = configs.parent / "model_configs" / f"{checkpoint}_{file}.json"
            if source.is_file():
                (tmp_path / f"{file}.json").write_text(source.read_text())
        return str(tmp_path)

    return put


@pytest.mark.parametrize(("checkpoint", "expected"), CHECKPOINTS)
def test_published_checkpoints_are_read(checkpoint, expected, published):
    found = set()
    for group in load_model(published(checkpoint)).stack:
        shared = group.formats.shared if getattr(group.feed_forward, "shared", 0) else "-"
        found.add(f"{group.formats.mixer}/{group.formats.mixer_out}/{group.formats.feed_forward}/{shared}")
    assert found == expected


@pytest.mark.parametrize(
    ("checkpoint", "billions", "active"),
    [("Llama-4-Scout-17B-16E-Instruct", 107.77, 17.17), ("Llama-4-Maverick-17B-128E-Instruct", 400.7, 17.17)],
)
def test_llama_4_has_experts_and_chunks_in_turn(checkpoint, billions, active, published):
    """Its makers count 109 and 400 billion, the vision tower included, of which a token passes 17."""
    model = load_model(published(f"meta-llama--{checkpoint}"))
    assert model.parameters == pytest.approx(1e9 * billions, rel=0.005)
    assert model.active_parameters == pytest.approx(1e9 * active, rel=0.005)
    chunks = {}
    for group in model.stack:
        chunks[group.mixer.window] = chunks.get(group.mixer.window, 0) + group.count
    assert chunks == {8192: 36, 0: 12}


def test_four_bits_with_a_scale_for_32_weights_are_larger():
    model, coarse = load_model("Kimi-K2.5"), load_model("Kimi-K2-Instruct", weights="int4")
    experts = 60 * 384 * 3 * 7168 * 2048
    assert model.weight_bytes - coarse.weight_bytes == pytest.approx(experts * (2 / 32 - 2 / 128))
    assert load_model("Kimi-K2.5", weights="int4") == model
