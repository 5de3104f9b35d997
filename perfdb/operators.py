"""The operators one forward pass of a transformer runs on one chip.

Decomposition of a layer as the serving engines run it: norm, fused QKV projection, attention, output
projection, all-reduce, norm, fused gate and up projection, activation, down projection, all-reduce;
before and after the layers the embedding, the final norm and the projection to the vocabulary, which runs
only for the sequences that sample a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from perfdb.layout import Layout
    from perfdb.model import ModelSpec
    from perfdb.parts import GroupedQuery, Layers, Mlp

__all__ = [
    "AllReduce",
    "Attention",
    "Collective",
    "Elementwise",
    "Gemm",
    "LayerOperators",
    "PointToPoint",
    "RowOperator",
    "StepOperators",
    "step_operators",
]


@dataclass(frozen=True, slots=True)
class Gemm:
    """A projection: (rows, k) times (k, n).

    Attributes
    ----------
    name
        Which projection.
    n, k
        Columns of the result and of the input, on one chip.
    weights
        Format of the weights, a key of :data:`perfdb.model.WEIGHT_BYTES`.
    count
        Times it runs in one step.
    """

    name: str
    n: int
    k: int
    weights: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A memory-bound kernel (norm, activation, embedding): ``bytes_per_row`` read and written per row."""

    name: str
    bytes_per_row: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class AllReduce:
    """A sum over ``chips`` chips of ``width`` 16-bit elements per row, by the engine's own kernel."""

    kind: ClassVar[str] = "all_reduce"
    element_bytes: ClassVar[int] = 2

    name: str
    width: int
    chips: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective of NCCL.

    Attributes
    ----------
    name
        Which one.
    kind
        ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``all_reduce``.
    width
        Elements per row of the whole message: what each chip holds after an all-gather, before a reduce-scatter or
        all-reduce, and sends (its own share included) in an all-to-all.
    chips
        Chips that take part.
    count
        Times it runs in one step.
    element_bytes
        Bytes of an element, 2 or 1.
    """

    name: str
    kind: str
    width: int
    chips: int
    count: int = 1
    element_bytes: int = 2


@dataclass(frozen=True, slots=True)
class PointToPoint:
    """Activations handed to the next pipeline stage: ``bytes_per_row`` per row."""

    name: str
    bytes_per_row: int
    count: int = 1


#: An operator whose cost depends on a number of rows alone.
RowOperator = Gemm | Elementwise | AllReduce | Collective | PointToPoint


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

    @property
    def kv_bytes_per_token(self) -> int:
        """KV bytes one layer reads per cached token."""
        return 2 * self.kv_heads * self.head_dim * (1 if self.kv_cache == "fp8" else 2)


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
    context: tuple[Attention, ...]
    generation: tuple[Attention, ...]
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
    context: tuple[Attention, ...] = ()
    generation: tuple[Attention, ...] = ()
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
    parts = [part for group in model.stack for part in _layer(model, group, layout)]
    return StepOperators(
        per_token=(
            Elementwise("embedding", 4 * model.hidden),
            *(row for part in parts for row in part.rows),
            *_outside_layers(model, layout),
            Elementwise("final_norm", 4 * model.hidden),
        ),
        per_sample=_sampling(model, layout.tensor),
        context=tuple(kernel for part in parts for kernel in part.context),
        generation=tuple(kernel for part in parts for kernel in part.generation),
        launches=sum(part.launches for part in parts),
        shared=tuple(row for part in parts for row in part.shared),
    )


def _layer(model: ModelSpec, group: Layers, layout: Layout) -> tuple[LayerOperators, ...]:
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
        _grouped_query(group.mixer, group.count, model, chips),
        _mlp(group.feed_forward, group.count, model, chips),
        LayerOperators(tuple(between), launches=launched),
    )


def _grouped_query(mixer: GroupedQuery, count: int, model: ModelSpec, chips: int) -> LayerOperators:
    heads, kv_heads, dim = mixer.heads // chips, max(1, mixer.kv_heads // chips), mixer.head_dim
    width = (heads + 2 * kv_heads) * dim
    shape = (heads, kv_heads, dim, model.kv_cache, mixer.window, count)
    rows = (
        Gemm("qkv", width, model.hidden, model.weights, count),
        Gemm("attention_out", model.hidden, heads * dim, model.weights, count),
        # Rotary embedding and KV write: queries and keys read and written, values copied to the cache.
        Elementwise("rotary", 4 * width, count),
    )
    # Two projections, the rotation, the KV write, attention, and a bias that is added on its own.
    launched = count * (4 + mixer.rotary + mixer.out_bias)
    return LayerOperators(
        rows, (Attention("context_attention", *shape),), (Attention("generation_attention", *shape),), launched
    )


def _mlp(mlp: Mlp, count: int, model: ModelSpec, chips: int) -> LayerOperators:
    rows = (
        Gemm("mlp_in", mlp.inputs // chips, model.hidden, model.weights, count),
        Gemm("mlp_out", model.hidden, mlp.intermediate // chips, model.weights, count),
        Elementwise("activation", 2 * mlp.activated // chips, count),
    )
    return LayerOperators(rows, launches=count * (3 + mlp.bias))


def _outside_layers(model: ModelSpec, layout: Layout) -> tuple[RowOperator, ...]:
    found: list[RowOperator] = []
    if layout.tensor > 1:
        found.append(AllReduce("embedding_all_reduce", model.hidden, layout.tensor))
    if layout.pipeline > 1:
        found.append(PointToPoint("hand_over", 2 * model.hidden, layout.pipeline - 1))
    return tuple(found)


def _sampling(model: ModelSpec, chips: int) -> tuple[RowOperator, ...]:
    # The head stays in 16 bits in every format; sampling reads the 32-bit logits about three times
    # (scale, soft-max, draw).
    return (
        Gemm("logits", model.vocab // chips, model.hidden, "bf16"),
        Elementwise("sampling", 3 * 4 * model.vocab),
    )
