"""Read what mixes the tokens in one layer of a Hugging Face configuration."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from hardware.errors import CatalogueError
from perfdb.parts import GroupedQuery, Mixer

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
        out_bias=bias,
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


#: Readers by architecture, where attention is not of the common kind.
_READERS: Mapping[str, Callable[[ConfigFields, Family, int], Mixer]] = MappingProxyType({})
