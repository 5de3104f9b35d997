"""The operators one forward pass of a transformer runs on one chip.

Decomposition of a layer as the serving engines run it: norm, fused QKV projection, attention, output
projection, all-reduce, norm, fused gate and up projection, activation, down projection, all-reduce;
before and after the layers the embedding, the final norm and the projection to the vocabulary, which runs
only for the sequences that sample a token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from perfdb.delta_net import DeltaNet, DeltaRule
from perfdb.encoder_operators import EncoderAttention
from perfdb.expert_operators import ExpertExchange, RoutedExperts
from perfdb.latent import IndexScan, Latent, LatentAttention
from perfdb.parts import Experts
from perfdb.row_operators import (
    AllReduce,
    Collective,
    Elementwise,
    Gemm,
    LatentProjections,
    Overlapped,
    PointToPoint,
    RowOperator,
    as_collective,
    as_nccl,
    joined,
)

if TYPE_CHECKING:
    from perfdb.layout import Layout
    from perfdb.model import ModelSpec
    from perfdb.parts import GroupedQuery, Layers, Mlp

__all__ = [
    "EXCHANGES",
    "AllReduce",
    "Attention",
    "Collective",
    "Elementwise",
    "Gemm",
    "Kernel",
    "LatentProjections",
    "LayerOperators",
    "Overlapped",
    "PointToPoint",
    "RowOperator",
    "StepOperators",
    "as_collective",
    "as_nccl",
    "draft_operators",
    "layer_operators",
    "step_operators",
]


#: What several chips do together.
EXCHANGES: Final = (AllReduce, Collective, ExpertExchange, PointToPoint)

#: Up to so many tokens, engines run the shared experts on a second stream beside the routed ones: the least of what
#: they say (vLLM's ``VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD``; SGLang 1024; TensorRT-LLM in every graph).
SHARED_EXPERT_ROWS = 256


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of all layers on one chip.

    Attributes
    ----------
    name
        ``context_attention`` (causal, over new prompt tokens) or ``generation_attention`` (one new token
        per sequence against its KV cache).
    heads, kv_heads, head_dim
        On one chip; KV heads are replicated when there are fewer than chips.
    kv_cache
        ``bf16`` or ``fp8``.
    window
        Sliding window in tokens, 0 for none.
    count
        Layers.
    """

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    kv_cache: str
    window: int
    count: int

    precision: ClassVar[str] = "bf16"
    token_flops: ClassVar[int] = 0
    sequence_bytes: ClassVar[int] = 0

    @property
    def pair_flops(self) -> int:
        """Operations per pair of query and key, over all heads: two products of ``head_dim`` elements."""
        return 4 * self.heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """KV bytes one layer reads per cached token."""
        return 2 * self.kv_heads * self.head_dim * (1 if self.kv_cache == "fp8" else 2)

    @property
    def row_bytes(self) -> int:
        """Bytes of queries and results per new token."""
        return 4 * self.heads * self.head_dim


#: What mixes tokens, by sequences and their tokens. Each knows its operations per pair of tokens and per token, the
#: bytes it moves per cached token, per new token and per sequence, and its ``window``.
Kernel = Attention | LatentAttention | IndexScan | DeltaRule | EncoderAttention


@dataclass(frozen=True, slots=True)
class StepOperators:
    """Everything one step runs, by what its cost depends on.

    Attributes
    ----------
    per_token
        Operators over all tokens of the step.
    per_sample
        Operators over the sequences that sample a token.
    context, generation
        The attention kernels over prompts, and over the cache of sequences that decode: one of each per kind of layer.
    launches
        Operators of all layers of a decode step that the host of an eager engine launches one by one.
    shared
        Those among ``per_token`` that attention ranks run together: priced for a token of each rank.
    """

    per_token: tuple[RowOperator, ...]
    per_sample: tuple[RowOperator, ...]
    context: tuple[Kernel, ...]
    generation: tuple[Kernel, ...]
    launches: int = 0
    shared: tuple[RowOperator, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerOperators:
    """What the layers of one kind run; see :class:`StepOperators`.

    Attributes
    ----------
    launches
        Kernels of one layer that an eager host launches.
    """

    rows: tuple[RowOperator, ...]
    context: tuple[Kernel, ...] = ()
    generation: tuple[Kernel, ...] = ()
    launches: int = 0
    shared: tuple[RowOperator, ...] = ()


def step_operators(model: ModelSpec, layout: Layout) -> StepOperators:
    """Return the operators of one step, on one chip of every pipeline stage in turn.

    Parameters
    ----------
    model
        Shapes and formats.
    layout
        Tensor and pipeline parallelism; each must divide what it cuts (the scenario checks it).

    Notes
    -----
    With pipeline parallelism the latency of a pass is the sum over the stages plus one hand-over of the
    hidden state between neighbours, so the list holds all layers once.
    """
    parts = [part for group in model.stack for part in layer_operators(model, group, layout)]
    return StepOperators(
        per_token=(
            Elementwise("embedding", 4 * model.hidden),
            *joined(row for part in parts for row in part.rows),
            *_outside_layers(model, layout),
            Elementwise("final_norm", 4 * model.hidden),
        ),
        per_sample=_sampling(model, layout.tensor),
        context=tuple(kernel for part in parts for kernel in part.context),
        generation=tuple(kernel for part in parts for kernel in part.generation),
        launches=sum(part.launches for part in parts),
        shared=tuple(row for part in parts for row in part.shared),
    )


def draft_operators(model: ModelSpec, layout: Layout) -> StepOperators:
    """Return what drafting one token runs, as DeepSeek's multi-token prediction does.

    The hidden state of a token and the embedding of the next are joined and projected, and pass one layer more and the
    head (DeepSeek-V3, arXiv 2412.19437, section 2.2).
    """
    found = step_operators(model.drafting_layer, layout)
    joins = Gemm("draft_projection", model.hidden, 2 * model.hidden, "bf16")
    return replace(found, per_token=(joins, *found.per_token))


def layer_operators(model: ModelSpec, group: Layers, layout: Layout) -> tuple[LayerOperators, ...]:
    """Return what the layers of one kind run: mixer, feed-forward part, and what stands between them."""
    family, chips = model.family, layout.tensor
    # A fused residual add and norm reads two and writes two rows of 16-bit elements.
    between: list[RowOperator] = [Elementwise("norm", 8 * model.hidden, family.norms_per_layer * group.count)]
    if chips > 1:
        between.append(AllReduce("all_reduce", model.hidden, chips, 2 * group.count))
    # What one layer launches without fusion and graphs, as vLLM 0.2 wrote its models: norms, two residual sums, and
    # over several chips two all-reduces.
    launched = group.count * (family.norms_per_layer + 2 + 2 * (chips > 1))
    return (
        _mixer(group, model, chips),
        _feed_forward(group, model, layout),
        LayerOperators(tuple(between), launches=launched),
    )


def _mixer(group: Layers, model: ModelSpec, chips: int) -> LayerOperators:
    mixer = group.mixer
    if isinstance(mixer, Latent):
        return _latent(group, mixer, model, chips)
    if isinstance(mixer, DeltaNet):
        return _delta_net(group, mixer, model, chips)
    return _grouped_query(group, mixer, model, chips)


def _latent(group: Layers, mixer: Latent, model: ModelSpec, chips: int) -> LayerOperators:
    own, count = replace(mixer, heads=mixer.heads // chips), group.count
    formats = (group.formats.mixer, group.formats.mixer_out, model.kv_cache)
    shape = (own, model.hidden, group.formats.mixer, model.kv_cache, count)
    context: list[Kernel] = [LatentAttention("context_latent_attention", *shape)]
    generation: list[Kernel] = [LatentAttention("generation_latent_attention", *shape)]
    if mixer.indexer:
        context.append(IndexScan("context_index_scan", mixer.indexer, count))
        generation.append(IndexScan("generation_index_scan", mixer.indexer, count))
    rows = (LatentProjections("latent_projections", own, model.hidden, *formats, count),)
    # Projections, two norms, rotation, cache write and attention.
    launched = count * (len(mixer.shapes(model.hidden)) + 5)
    return LayerOperators(rows, tuple(context), tuple(generation), launched)


def _delta_net(group: Layers, net: DeltaNet, model: ModelSpec, chips: int) -> LayerOperators:
    own = replace(net, key_heads=net.key_heads // chips, value_heads=net.value_heads // chips)
    count, formats = group.count, group.formats
    rows = (
        Gemm("delta_in", own.convolved + own.values, model.hidden, formats.mixer, count),
        Gemm("delta_gates", 2 * own.value_heads, model.hidden, "bf16", count),
        Gemm("delta_out", model.hidden, own.values, formats.mixer_out, count),
        # The norm of the result, gated: two rows read and one written.
        Elementwise("delta_norm", 6 * own.values, count),
    )
    rules = (DeltaRule(f"{phase}_delta_rule", own, model.hidden, count) for phase in ("context", "generation"))
    # Three projections, convolution, rule and norm.
    context, generation = ((rule,) for rule in rules)
    return LayerOperators(rows, context, generation, 6 * count)


def _grouped_query(group: Layers, mixer: GroupedQuery, model: ModelSpec, chips: int) -> LayerOperators:
    count, formats = group.count, group.formats
    heads, kv_heads, dim = mixer.heads // chips, max(1, mixer.kv_heads // chips), mixer.head_dim
    width = (heads + 2 * kv_heads) * dim
    gate = heads * dim * mixer.output_gate
    shape = (heads, kv_heads, dim, model.kv_cache, mixer.window, count)
    rows: list[RowOperator] = [
        Gemm("qkv", width + gate, model.hidden, formats.mixer, count),
        Gemm("attention_out", model.hidden, heads * dim, formats.mixer_out, count),
        # Rotary embedding and KV write: queries and keys read and written, values copied to the cache.
        Elementwise("rotary", 4 * width, count),
    ]
    if gate:
        rows.append(Elementwise("output_gate", 6 * gate, count))
    if mixer.qk_norm_whole and chips > 1:
        # Two sums of squares per token, in 32 bits, before queries and keys can be normalised over all heads.
        rows.append(AllReduce("qk_norm_all_reduce", 4, chips, count))
    # Two projections, the rotation, the KV write, attention, and a bias that is added on its own.
    launched = count * (4 + mixer.rotary + mixer.out_bias + mixer.output_gate)
    return LayerOperators(
        tuple(rows), (Attention("context_attention", *shape),), (Attention("generation_attention", *shape),), launched
    )


def _feed_forward(group: Layers, model: ModelSpec, layout: Layout) -> LayerOperators:
    if isinstance(group.feed_forward, Experts):
        return _experts(group, group.feed_forward, model, layout)
    return _mlp(group, group.feed_forward, model, layout.tensor)


def _experts(group: Layers, part: Experts, model: ModelSpec, layout: Layout) -> LayerOperators:
    """Return what a layer of experts runs."""
    count, hidden = group.count, model.hidden
    router = Gemm("router", part.experts, hidden, group.formats.router, count)
    routed = RoutedExperts(
        "experts",
        hidden,
        part.intermediate,
        part.experts,
        part.per_token,
        group.formats.feed_forward,
        gated=part.gated,
        even=part.balancing_bias,
        tensor_parallel=layout.expert_tensor,
        expert_parallel=layout.expert,
        ranks=layout.data,
        redundant=layout.redundant,
        dispatched=layout.sends_to_experts,
        stage=layout.stage if layout.sends_to_experts else "",
        count=count,
    )
    exchange = _exchange(routed, layout) if layout.data > 1 else ()
    # Router, choice of experts, sorting by expert, two grouped projections with an activation between, weighted sum.
    launches = count * (7 + len(exchange))
    shared = part.shared_expert
    if shared is None:
        return LayerOperators((router, routed, *exchange), launches=launches, shared=exchange and (routed, *exchange))
    beside: list[RowOperator] = [
        Gemm("shared_in", shared.inputs // layout.tensor, hidden, group.formats.shared),
        Elementwise("shared_activation", 2 * shared.activated // layout.tensor),
        Gemm("shared_out", hidden, shared.intermediate // layout.tensor, group.formats.shared),
    ]
    if part.shared_gate:
        beside.append(Elementwise("shared_gate", 2 * hidden))
    both = Overlapped("experts", replace(routed, count=1), tuple(beside), SHARED_EXPERT_ROWS, count)
    launches += count * len(beside)
    return LayerOperators((router, both, *exchange), launches=launches, shared=exchange and (both, *exchange))


def _exchange(routed: RoutedExperts, layout: Layout) -> tuple[RowOperator, ...]:
    """Return how tokens of all ranks come to the experts, and their results back. A row is a token of each rank.

    Notes
    -----
    Gathered, all tokens go to every chip, and sums of what chips made of them to their own, in 16 bits: vLLM's
    ``allgather_reducescatter``, SGLang's attention data parallelism without DeepEP, TensorRT-LLM's where it has no
    all-to-all. An all-to-all sends each token to the chips of its experts alone.
    """
    chips, width, count = layout.sharing, routed.hidden * layout.data, routed.count
    if layout.sends_to_experts:
        shape = routed.hidden, routed.experts, routed.per_token, chips, routed.weights, routed.stage, count
        return ExpertExchange("dispatch", *shape), ExpertExchange("combine", *shape)
    return (
        Collective("experts_gather", "all_gather", width, chips, count),
        Collective("experts_scatter", "reduce_scatter", width, chips, count),
    )


def _mlp(group: Layers, mlp: Mlp, model: ModelSpec, chips: int) -> LayerOperators:
    count, weights = group.count, group.formats.feed_forward
    rows = (
        Gemm("mlp_in", mlp.inputs // chips, model.hidden, weights, count),
        Gemm("mlp_out", model.hidden, mlp.intermediate // chips, weights, count),
        Elementwise("activation", 2 * mlp.activated // chips, count),
    )
    return LayerOperators(rows, launches=count * (3 + mlp.bias))


def _outside_layers(model: ModelSpec, layout: Layout) -> tuple[RowOperator, ...]:
    found: list[RowOperator] = []
    if layout.tensor > 1:
        found.append(AllReduce("embedding_all_reduce", model.hidden, layout.tensor))
    if layout.pipeline > 1:
        found.append(PointToPoint("hand_over", 2 * model.hidden, layout.pipeline - 1, layout.tensor))
    return tuple(found)


def _sampling(model: ModelSpec, chips: int) -> tuple[RowOperator, ...]:
    # The head stays in 16 bits in every format; sampling reads the 32-bit logits about three times
    # (scale, soft-max, draw).
    return (
        Gemm("logits", model.vocab // chips, model.hidden, "bf16"),
        Elementwise("sampling", 3 * 4 * model.vocab),
    )
