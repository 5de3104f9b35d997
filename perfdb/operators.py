"""The operators one forward pass of a dense transformer runs on one chip.

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

__all__ = [
    "AllReduce",
    "Attention",
    "Collective",
    "Elementwise",
    "Gemm",
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
        The two attention kernels.
    launches
        Operators of all layers of a decode step that the host of an eager engine launches one by one.
    """

    per_token: tuple[RowOperator, ...]
    per_sample: tuple[RowOperator, ...]
    context: Attention
    generation: Attention
    launches: int = 0


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
    return StepOperators(
        per_token=(
            Elementwise("embedding", 4 * model.hidden),
            *_layer_projections(model, layout.tensor),
            *_layer_elementwise(model, layout.tensor),
            *_communication(model, layout),
            Elementwise("final_norm", 4 * model.hidden),
        ),
        per_sample=_sampling(model, layout.tensor),
        context=_attention("context_attention", model, layout.tensor),
        generation=_attention("generation_attention", model, layout.tensor),
        launches=model.layers * _launched_per_layer(model, layout.tensor),
    )


def _launched_per_layer(model: ModelSpec, chips: int) -> int:
    """Return what one layer launches without fusion and graphs, as vLLM 0.2 wrote its models.

    Norms, four projections, the rotation of queries and keys, the KV write, attention, the activation and two
    residual sums; over several chips two all-reduces, after which biases are added on their own.
    """
    family = model.family
    launched = family.norms_per_layer + 4 + family.rotary + 1 + 1 + 1 + 2
    return launched + 2 * family.linear_bias + 2 * (chips > 1)


def _layer_projections(model: ModelSpec, chips: int) -> tuple[RowOperator, ...]:
    heads, kv_heads = _heads(model, chips)
    qkv = (heads + 2 * kv_heads) * model.head_dim
    shapes = (
        ("qkv", qkv, model.hidden),
        ("attention_out", model.hidden, heads * model.head_dim),
        ("mlp_in", model.mlp_inputs // chips, model.hidden),
        ("mlp_out", model.hidden, model.intermediate // chips),
    )
    return tuple(Gemm(name, n, k, model.weights, model.layers) for name, n, k in shapes)


def _layer_elementwise(model: ModelSpec, chips: int) -> tuple[RowOperator, ...]:
    heads, kv_heads = _heads(model, chips)
    norms = model.family.norms_per_layer * model.layers
    # A fused residual add and norm reads two and writes two rows of 16-bit elements.
    fused_norm = Elementwise("norm", 8 * model.hidden, norms)
    # Rotary embedding and KV write: queries and keys read and written, values copied to the cache.
    rotary = Elementwise("rotary", 4 * (heads + 2 * kv_heads) * model.head_dim, model.layers)
    activation = Elementwise("activation", 2 * (model.mlp_inputs + model.intermediate) // chips, model.layers)
    return fused_norm, rotary, activation


def _communication(model: ModelSpec, layout: Layout) -> tuple[RowOperator, ...]:
    found: list[RowOperator] = []
    if layout.tensor > 1:
        found.append(AllReduce("all_reduce", model.hidden, layout.tensor, 2 * model.layers))
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


def _heads(model: ModelSpec, chips: int) -> tuple[int, int]:
    return model.heads // chips, max(1, model.kv_heads // chips)


def _attention(name: str, model: ModelSpec, chips: int) -> Attention:
    heads, kv_heads = _heads(model, chips)
    return Attention(name, heads, kv_heads, model.head_dim, model.kv_cache, model.window, model.layers)
