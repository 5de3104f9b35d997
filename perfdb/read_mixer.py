"""Read what mixes the tokens in one layer of a Hugging Face configuration."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from hardware.errors import CatalogueError
from perfdb.latent import Indexer
from perfdb.parts import DeltaNet, GroupedQuery, Latent, Mixer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from perfdb.config_fields import ConfigFields
    from perfdb.model import Family

__all__ = ["read_mixer"]


def read_mixer(config: ConfigFields, family: Family, layer: int) -> Mixer:
    """Return the mixer of one layer, counted from 0.

    Raises
    ------
    CatalogueError
        If a shape is missing or impossible.
    """
    return _READERS.get(config.architecture(), _grouped_query)(config, family, layer)


def _grouped_query(config: ConfigFields, family: Family, layer: int) -> GroupedQuery:
    heads = config.size("num_attention_heads")
    kv_heads = _kv_heads(config, heads)
    if heads % kv_heads:
        raise CatalogueError(
            f"{config.name}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    bias = family.linear_bias or config.flag("attention_bias")
    return GroupedQuery(
        heads,
        kv_heads,
        head_dim=config.size("head_dim", config.size("hidden_size") // heads),
        window=_window(config, family, layer),
        qkv_bias=bias or family.qkv_bias,
        out_bias=bias or family.out_bias,
        qk_norm=family.qk_norm,
        qk_norm_whole=config.flag("use_qk_norm") and config.fields.get("qk_norm_type") == "per_layer",
        rotary=family.rotary,
        sinks=family.sinks,
    )


def _kv_heads(config: ConfigFields, heads: int) -> int:
    # The first Falcons share one KV head and still list as many as query heads.
    if config.flag("multi_query") and not config.flag("new_decoder_architecture"):
        return 1
    return config.size("num_key_value_heads", heads)


def _window(config: ConfigFields, family: Family, layer: int) -> int:
    if family.full_every:
        # A chunk is on average half as long as a window that slides, but no kernel of the tables knows chunks.
        return config.number("attention_chunk_size") if (layer + 1) % family.full_every else 0
    if not config.fields.get("sliding_window"):
        return 0
    return config.size("sliding_window") if _slides(config, family, layer) else 0


def _slides(config: ConfigFields, family: Family, layer: int) -> bool:
    kind = config.of_layer("layer_types", layer)
    if kind is not None:
        return str(kind) == "sliding_attention"
    if family.window_every:
        return layer % family.window_every == 0
    if not config.flag("use_sliding_window", default=not family.window_switch):
        return False
    return layer >= config.number("max_window_layers") if family.window_switch else True


def _latent(config: ConfigFields, _family: Family, _layer: int) -> Latent:
    indexer = None
    if config.number("index_topk"):
        indexer = Indexer(config.size("index_n_heads"), config.size("index_head_dim"), config.size("index_topk"))
    return Latent(
        heads=config.size("num_attention_heads"),
        q_rank=config.number("q_lora_rank"),
        kv_rank=config.size("kv_lora_rank"),
        nope=config.size("qk_nope_head_dim"),
        rope=config.size("qk_rope_head_dim"),
        value=config.size("v_head_dim"),
        indexer=indexer,
    )


def _hybrid(config: ConfigFields, family: Family, layer: int) -> Mixer:
    """Return the mixer of a stack in which a few layers keep attention over all tokens."""
    kind = config.of_layer("layer_types", layer)
    every = config.number("full_attention_interval")
    if kind == "full_attention" or (kind is None and every and (layer + 1) % every == 0):
        return replace(_grouped_query(config, family, layer), output_gate=config.flag("attn_output_gate", default=True))
    return DeltaNet(
        key_heads=config.size("linear_num_key_heads"),
        value_heads=config.size("linear_num_value_heads"),
        key_dim=config.size("linear_key_head_dim"),
        value_dim=config.size("linear_value_head_dim"),
        kernel=config.size("linear_conv_kernel_dim", 4),
    )


#: Readers by architecture, where attention is not of the common kind.
_READERS: Mapping[str, Callable[[ConfigFields, Family, int], Mixer]] = MappingProxyType(
    {
        "DeepseekV2ForCausalLM": _latent,
        "DeepseekV3ForCausalLM": _latent,
        "DeepseekV32ForCausalLM": _latent,
        "GlmMoeDsaForCausalLM": _latent,
        "Qwen3_5ForConditionalGeneration": _hybrid,
        "Qwen3_5MoeForConditionalGeneration": _hybrid,
        "Qwen3NextForCausalLM": _hybrid,
    }
)
