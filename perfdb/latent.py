"""Latent attention, as DeepSeek V2 introduced it: keys and values of all heads come from one short vector per token.

The vector (``kv_rank`` elements, and ``rope`` rotated ones that all heads share) is what the cache holds, on every
tensor-parallel rank. Prompts expand it into keys and values of each head; a decoding token multiplies its queries by
the expansion instead and looks at the vectors themselves, which is as much arithmetic per token. DeepSeek V3.2 and
GLM-5 let an *indexer*, a small attention of its own over all cached tokens, pick the ``top_k`` that are looked at.

Sources: DeepSeek-V2 (arXiv 2405.04434), DeepSeek-V3.2 (arXiv 2512.02556), the models' ``config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perfdb.formats import Matrices, Role

__all__ = ["IndexScan", "Indexer", "Latent", "LatentAttention"]


#: What the projections are to a checkpoint and to tensor parallelism, which leaves those into latents whole.
_ROLES: Mapping[str, Role] = MappingProxyType(
    {"latent_in": "latent", "index_queries": "latent", "index_key": "latent", "attention_out": "mixer_out"}
)


@dataclass(frozen=True, slots=True)
class Indexer:
    """What picks the cached tokens that are looked at; whole on every chip.

    Attributes
    ----------
    heads, head_dim
        Its query heads (``index_n_heads``) and their size; they share one key.
    top_k
        Most tokens it picks.
    """

    heads: int
    head_dim: int
    top_k: int

    @property
    def key_bytes(self) -> int:
        """Bytes of a cached key: 8 bits per element and a 32-bit scale, whatever format the rest of the cache has."""
        return self.head_dim + 4


@dataclass(frozen=True, slots=True)
class Latent:
    """Latent attention of one layer.

    Attributes
    ----------
    heads
        Over all chips.
    q_rank
        Width that queries pass through, 0 where they are projected at once.
    kv_rank, rope
        Elements of a cached vector: latent, and rotated.
    nope, value
        Elements of a head's key that are not rotated, and of its value.
    indexer
        Picks the tokens that are looked at, or None.
    """

    MODULES: ClassVar[Mapping[Role, tuple[str, ...]]] = MappingProxyType(
        {
            "latent": ("self_attn.kv_a_proj_with_mqa",),
            "mixer": ("self_attn.kv_b_proj",),
            "mixer_out": ("self_attn.o_proj",),
        }
    )

    heads: int
    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int
    indexer: Indexer | None = None

    @property
    def key(self) -> int:
        """Elements of a head's query and key."""
        return self.nope + self.rope

    @property
    def cached(self) -> int:
        """Elements of a cached vector."""
        return self.kv_rank + self.rope

    @property
    def top_k(self) -> int:
        """Most tokens that one token looks at, 0 for all."""
        return self.indexer.top_k if self.indexer else 0

    def shapes(self, hidden: int) -> tuple[tuple[str, int, int], ...]:
        """Return the projections: name, columns of the result, columns of the input."""
        into_heads = self.q_rank or hidden
        found = [
            ("latent_in", self.q_rank + self.cached, hidden),
            ("queries", self.heads * self.key, into_heads),
            ("keys_values", self.heads * (self.nope + self.value), self.kv_rank),
            ("attention_out", hidden, self.heads * self.value),
        ]
        if self.indexer:
            width = self.indexer.heads * self.indexer.head_dim
            found.append(("index_queries", width, into_heads))
            found.append(("index_key", self.indexer.head_dim + self.indexer.heads, hidden))
        return tuple(found)

    def matrices(self, hidden: int) -> Matrices:
        """Return the weights of the projections."""
        return tuple((_ROLES.get(name, "mixer"), n * k) for name, n, k in self.shapes(hidden))

    def vector_parameters(self, hidden: int) -> int:
        """Norms of the latents, and of the indexer's key (weight and bias)."""
        del hidden
        return self.q_rank + self.kv_rank + (2 * self.indexer.head_dim if self.indexer else 0)

    def cached_bytes(self, element_bytes: int, chips: int = 1) -> int:
        """Return the bytes that one token leaves in the cache of each of ``chips``: the same on every one.

        Notes
        -----
        Sparse kernels keep 8-bit latents with a 32-bit scale per 128 elements, and the rotated part in 16 bits
        (``fp8_ds_mla`` of vLLM, 656 bytes).
        """
        del chips
        if self.indexer is None:
            return self.cached * element_bytes
        latent = self.kv_rank + 4 * self.kv_rank // 128 + 2 * self.rope if element_bytes == 1 else 2 * self.cached
        return latent + self.indexer.key_bytes

    def state_bytes(self, chips: int = 1) -> int:
        """Return the bytes of a sequence that do not grow with it: none."""
        del chips
        return 0

    def split(self) -> tuple[tuple[int, str], ...]:
        """Return what tensor parallelism must divide: sizes and names."""
        return ((self.heads, "attention heads"),)

    def replicated(self) -> tuple[tuple[int, str], ...]:
        """Return what it must divide or be a multiple of: nothing; the latent is whole on every chip."""
        return ()


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Latent attention of all layers on one chip.

    Attributes
    ----------
    name
        ``context_latent_attention`` or ``generation_latent_attention``.
    latent
        With the heads of one chip.
    hidden, weights
        Width of the model and format of the projections, together with which it is measured.
    kv_cache
        ``bf16`` or ``fp8``.
    count
        Layers.
    """

    name: str
    latent: Latent
    hidden: int
    weights: str
    kv_cache: str
    count: int

    precision: ClassVar[str] = "bf16"
    token_flops: ClassVar[int] = 0
    sequence_bytes: ClassVar[int] = 0

    @property
    def window(self) -> int:
        """Most tokens that one token looks at, 0 for all."""
        return self.latent.top_k

    @property
    def pair_flops(self) -> int:
        """Operations per pair of query and key: heads of their own for prompts, the cached vector for decoding."""
        latent = self.latent
        prompts = self.name.startswith("context")
        width = latent.key + latent.value if prompts else latent.cached + latent.kv_rank
        return 2 * latent.heads * width

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes one layer reads per cached token it looks at."""
        return self.latent.cached * (1 if self.kv_cache == "fp8" else 2)

    @property
    def row_bytes(self) -> int:
        """Bytes of queries and results per new token."""
        return 2 * self.latent.heads * (self.latent.key + self.latent.value)


@dataclass(frozen=True, slots=True)
class IndexScan:
    """The indexer of all layers on one chip: 8-bit scores of all visible tokens, then the best of them.

    Attributes
    ----------
    name
        ``context_index_scan`` or ``generation_index_scan``.
    indexer
        Its shape.
    count
        Layers.
    """

    name: str
    indexer: Indexer
    count: int

    precision: ClassVar[str] = "fp8"
    window: ClassVar[int] = 0
    token_flops: ClassVar[int] = 0
    sequence_bytes: ClassVar[int] = 0

    @property
    def pair_flops(self) -> int:
        """Operations per pair of query and key: a product per head, weighted and summed."""
        return 2 * self.indexer.heads * self.indexer.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes one layer reads per cached token."""
        return self.indexer.key_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of queries and picks per new token."""
        return self.indexer.heads * self.indexer.head_dim + 4 * self.indexer.top_k
