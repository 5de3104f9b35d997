"""The parts a transformer layer is made of: what mixes tokens, and what follows it.

A mixer (attention of some kind) and a feed-forward part each know their parameters and, where they keep any, the
bytes of cache. What they run, and what that costs, is said in :mod:`perfdb.operators`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FeedForward", "GroupedQuery", "Layers", "Mixer", "Mlp"]


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
    rotary
        Queries and keys are rotated by their positions.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    rotary: bool = True

    @property
    def qkv_width(self) -> int:
        """Columns of the fused query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def matrix_parameters(self, hidden: int) -> int:
        """Weights of the projections, the part that is quantised."""
        return hidden * (self.qkv_width + self.heads * self.head_dim)

    def vector_parameters(self, hidden: int) -> int:
        """Biases and norms of its own."""
        biases = self.qkv_width * self.qkv_bias + hidden * self.out_bias
        return biases + 2 * self.head_dim * self.qk_norm

    def cached_elements(self, chips: int = 1) -> int:
        """Elements that one token leaves in the cache of each of ``chips``; heads fewer than chips are replicated."""
        return 2 * max(1, self.kv_heads // chips) * self.head_dim

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

    def matrix_parameters(self, hidden: int) -> int:
        """Weights of the projections, the part that is quantised."""
        return hidden * self.activated

    def vector_parameters(self, hidden: int) -> int:
        """Biases."""
        return (self.inputs + hidden) * self.bias

    def split(self) -> tuple[tuple[int, str], ...]:
        """Return what tensor parallelism must divide: sizes and names."""
        return ((self.intermediate, "columns of the MLP"),)


Mixer = GroupedQuery
FeedForward = Mlp


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers of one kind.

    Attributes
    ----------
    count
        How many.
    mixer, feed_forward
        What each is made of.
    """

    count: int
    mixer: Mixer
    feed_forward: FeedForward
