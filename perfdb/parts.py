"""The parts a transformer layer is made of: what mixes tokens, and what follows it.

A mixer (attention of some kind) and a feed-forward part each know their parameters and, where they keep any, the
bytes of cache. What they run, and what that costs, is said in :mod:`perfdb.operators`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from perfdb.delta_net import DeltaNet
from perfdb.formats import Formats
from perfdb.latent import Latent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perfdb.formats import Matrices, Role
    from perfdb.layout import Layout

__all__ = ["DeltaNet", "Experts", "FeedForward", "GroupedQuery", "Latent", "Layers", "Mixer", "Mlp"]


@dataclass(frozen=True, slots=True)
class GroupedQuery:
    """Attention whose query heads share key-value heads.

    Attributes
    ----------
    heads, kv_heads, head_dim
        Over all chips.
    window
        Sliding attention window in tokens, 0 for full attention.
    qkv_bias, out_bias
        The projection in, and the one out, have biases.
    qk_norm
        Queries and keys are normalised per head.
    qk_norm_whole
        They are normalised over all heads together, each with a weight per column.
    rotary
        Queries and keys are rotated by their positions.
    sinks
        Each head has a learned logit that belongs to no token.
    output_gate
        A gate as wide as the queries, projected with them, scales the result.
    """

    MODULES: ClassVar[Mapping[Role, tuple[str, ...]]] = MappingProxyType(
        {"mixer": ("self_attn.q_proj", "self_attn.qkv_proj"), "mixer_out": ("self_attn.o_proj",)}
    )

    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    rotary: bool = True
    sinks: bool = False
    output_gate: bool = False

    @property
    def qkv_width(self) -> int:
        """Columns of the fused query, key and value projection, the output gate's among them."""
        return ((1 + self.output_gate) * self.heads + 2 * self.kv_heads) * self.head_dim

    def matrices(self, hidden: int) -> Matrices:
        """Return the weights of the projections."""
        return ("mixer", hidden * self.qkv_width), ("mixer_out", hidden * self.heads * self.head_dim)

    def vector_parameters(self, hidden: int) -> int:
        """Biases, norms and sinks of its own."""
        biases = self.qkv_width * self.qkv_bias + hidden * self.out_bias
        norms = 2 * self.qk_norm + (self.heads + self.kv_heads) * self.qk_norm_whole
        return biases + norms * self.head_dim + self.heads * self.sinks

    def cached_bytes(self, element_bytes: int, chips: int = 1) -> int:
        """Return the bytes one token leaves on each of ``chips``; heads fewer than those are replicated."""
        return 2 * max(1, self.kv_heads // chips) * self.head_dim * element_bytes

    def state_bytes(self, chips: int = 1) -> int:
        """Return the bytes of a sequence that do not grow with it: none."""
        del chips
        return 0

    def split(self) -> tuple[tuple[int, str], ...]:
        """Return what tensor parallelism must divide: sizes and names."""
        return ((self.heads, "attention heads"),)

    def replicated(self) -> tuple[tuple[int, str], ...]:
        """Return what it must divide or be a multiple of: sizes and names."""
        return ((self.kv_heads, "key-value heads"),)


@dataclass(frozen=True, slots=True)
class Mlp:
    """A dense feed-forward part.

    Attributes
    ----------
    intermediate
        Its width.
    gated
        It has a gate beside the projection up.
    bias
        Its projections have biases.
    """

    MODULES: ClassVar[Mapping[Role, tuple[str, ...]]] = MappingProxyType({"feed_forward": ("mlp.down_proj",)})

    intermediate: int
    gated: bool = True
    bias: bool = False

    @property
    def inputs(self) -> int:
        """Columns of the projection(s) into it."""
        return self.intermediate * (2 if self.gated else 1)

    @property
    def activated(self) -> int:
        """Elements between its projections, per token."""
        return self.inputs + self.intermediate

    def matrices(self, hidden: int) -> Matrices:
        """Return the weights of the projections."""
        return (("feed_forward", hidden * self.activated),)

    def vector_parameters(self, hidden: int) -> int:
        """Biases."""
        return (self.inputs + hidden) * self.bias

    def idle_parameters(self, hidden: int) -> int:  # noqa: ARG002 - as of experts
        """Weights that a token does not pass: none."""
        return 0

    def split(self) -> tuple[tuple[int, str], ...]:
        """Return what tensor parallelism must divide: sizes and names."""
        return ((self.intermediate, "columns of the MLP"),)

    def working(self, hidden: int, layout: Layout) -> int:  # noqa: ARG002 - as of experts
        """Return the elements a chip holds per token at the widest."""
        return self.activated // layout.tensor


@dataclass(frozen=True, slots=True)
class Experts:
    """Feed-forward parts of which a router picks a few for each token.

    Attributes
    ----------
    experts, per_token
        How many there are, and how many of them a token passes.
    intermediate
        Width of one.
    shared
        Width of those that every token passes, all together; 0 for none.
    gated
        Each has a gate beside the projection up.
    bias
        The projections and the router have biases.
    balancing_bias
        The router adds a learned constant to each expert's score, which keeps their loads even.
    shared_gate
        A gate of one column scales what the shared experts return.
    """

    MODULES: ClassVar[Mapping[Role, tuple[str, ...]]] = MappingProxyType(
        {
            "feed_forward": ("mlp.experts.0.down_proj", "block_sparse_moe.experts.0.w2", "feed_forward.experts"),
            "shared": (
                "mlp.shared_experts.down_proj",
                "mlp.shared_expert.down_proj",
                "feed_forward.shared_expert.down_proj",
            ),
        }
    )

    experts: int
    per_token: int
    intermediate: int
    shared: int = 0
    gated: bool = True
    bias: bool = False
    balancing_bias: bool = False
    shared_gate: bool = False

    @property
    def expert(self) -> Mlp:
        """One of the experts."""
        return Mlp(self.intermediate, self.gated, self.bias)

    @property
    def shared_expert(self) -> Mlp | None:
        """The experts that every token passes, as one."""
        return Mlp(self.shared, self.gated) if self.shared else None

    def matrices(self, hidden: int) -> Matrices:
        """Return the weights of the experts and of the router."""
        shared = self.shared_expert
        return (
            ("feed_forward", self.experts * hidden * self.expert.activated),
            ("shared", hidden * shared.activated if shared else 0),
            ("router", hidden * (self.experts + self.shared_gate)),
        )

    def vector_parameters(self, hidden: int) -> int:
        """Biases of the experts and of the router."""
        router = self.experts * (self.bias + self.balancing_bias)
        return self.experts * self.expert.vector_parameters(hidden) + router

    def idle_parameters(self, hidden: int) -> int:
        """Weights and biases of the experts that a token does not pass."""
        of_one = hidden * self.expert.activated + self.expert.vector_parameters(hidden)
        return (self.experts - self.per_token) * of_one

    def split(self) -> tuple[tuple[int, str], ...]:
        """Return what tensor parallelism must divide: sizes and names."""
        return ((self.shared, "columns of the shared experts"),) if self.shared else ()

    def working(self, hidden: int, layout: Layout) -> int:
        """Return the elements a chip holds per token of a rank at the widest: rows sorted by expert, in and out.

        Notes
        -----
        As vLLM's fused experts allocate them, for every choice of every token that the ranks bring together: what
        comes out of the first projection, later out of the second, and what lies between.
        """
        chips = layout.expert_tensor
        of_choice = max(self.expert.inputs // chips, hidden) + self.intermediate // chips
        return layout.data * self.per_token * of_choice


Mixer = GroupedQuery | Latent | DeltaNet
FeedForward = Mlp | Experts


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers of one kind.

    Attributes
    ----------
    count
        How many.
    mixer, feed_forward
        What each is made of.
    formats
        In which formats their weights are.
    """

    count: int
    mixer: Mixer
    feed_forward: FeedForward
    formats: Formats = field(default_factory=Formats)

    def matrices(self, hidden: int) -> Matrices:
        """Return the matrices of one layer."""
        return (*self.mixer.matrices(hidden), *self.feed_forward.matrices(hidden))

    def vector_parameters(self, hidden: int) -> int:
        """Biases, and norms inside the parts, of one layer."""
        return self.mixer.vector_parameters(hidden) + self.feed_forward.vector_parameters(hidden)
