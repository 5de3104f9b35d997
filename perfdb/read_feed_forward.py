"""Read the feed-forward part of one layer of a Hugging Face configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware.errors import CatalogueError
from perfdb.parts import Experts, FeedForward, Mlp

if TYPE_CHECKING:
    from perfdb.config_fields import ConfigFields
    from perfdb.model import Family

__all__ = ["read_feed_forward"]


def read_feed_forward(config: ConfigFields, family: Family, layer: int) -> FeedForward:
    """Return the feed-forward part of one layer, counted from 0.

    Raises
    ------
    CatalogueError
        If a shape is missing or impossible.
    """
    if family.sparse and _has_experts(config, layer):
        return _experts(config, family)
    # Llama 4 gives its experts the common name, and its dense layers another.
    default = 4 * config.size("hidden_size")
    width = config.number("intermediate_size_mlp") or config.size("intermediate_size", default)
    return Mlp(width, family.gated_mlp, family.linear_bias)


def _has_experts(config: ConfigFields, layer: int) -> bool:
    """Return whether a layer of a mixture has experts.

    Notes
    -----
    Families say it in their own ways (``configuration_*.py`` in huggingface/transformers): a list of kinds, a number
    of dense layers at the bottom, a period counted from the first layer (``moe_layer_freq``) or ending at it
    (``decoder_sparse_step``, ``interleave_moe_layer_step``), layers left out by number.
    """
    kind = config.of_layer("mlp_layer_types", layer)
    if kind is not None:
        return str(kind) == "sparse"
    period = config.number("decoder_sparse_step", config.number("interleave_moe_layer_step", 1))
    return (
        layer >= config.number("first_k_dense_replace")
        and layer % config.size("moe_layer_freq", 1) == 0
        and period > 0
        and (layer + 1) % period == 0
        and layer not in (config.fields.get("mlp_only_layers") or ())
    )


def _experts(config: ConfigFields, family: Family) -> Experts:
    experts, per_token = config.size("num_experts"), config.size("num_experts_per_tok")
    if per_token > experts:
        raise CatalogueError(
            f"{config.name}: num_experts_per_tok is {per_token}, expected at most the {experts} experts there are"
        )
    width = config.number("moe_intermediate_size") or config.size("intermediate_size")
    alike = config.number("n_shared_experts", family.shared_experts)
    shared = config.number("shared_expert_intermediate_size", config.number("shared_intermediate_size", alike * width))
    return Experts(
        experts,
        per_token,
        width,
        shared=shared,
        bias=family.expert_bias,
        balancing_bias=config.fields.get("topk_method") == "noaux_tc" or config.flag("use_routing_bias"),
        shared_gate=family.shared_gate and shared > 0,
    )
