"""Gated delta net, the linear attention of Qwen3-Next and Qwen3.5: a state of fixed size in place of a KV cache.

Each value head keeps a matrix of ``key_dim`` times ``value_dim`` that every token decays, corrects and reads; before
that a short causal convolution runs over queries, keys and values, whose last inputs are kept as well. The cost of a
prompt is linear in its tokens, that of a decoding token constant.

Source: Gated Delta Networks (arXiv 2412.06464); ``modeling_qwen3_next.py`` in huggingface/transformers for the shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perfdb.formats import Matrices, Role

__all__ = ["DeltaNet", "DeltaRule"]

#: Bytes of one element of the state (``mamba_ssm_dtype`` float32) and of the convolution's inputs.
_STATE_BYTES, _CONVOLVED_BYTES = 4, 2


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """Gated delta net of one layer.

    Attributes
    ----------
    key_heads, value_heads
        Over all chips.
    key_dim, value_dim
        Elements of a head's key and value.
    kernel
        Tokens the convolution spans.
    """

    MODULES: ClassVar[Mapping[Role, tuple[str, ...]]] = MappingProxyType(
        {"mixer": ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv"), "mixer_out": ("linear_attn.out_proj",)}
    )

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def convolved(self) -> int:
        """Columns of queries, keys and values."""
        return 2 * self.key_heads * self.key_dim + self.values

    @property
    def values(self) -> int:
        """Columns of the values."""
        return self.value_heads * self.value_dim

    def matrices(self, hidden: int) -> Matrices:
        """Return the weights of the projections: queries, keys, values and output gate; two gates per head; out."""
        return (
            ("mixer", hidden * (self.convolved + self.values + 2 * self.value_heads)),
            ("mixer_out", hidden * self.values),
        )

    def vector_parameters(self, hidden: int) -> int:
        """Convolution, decay and step bias per value head, and the norm of a value."""
        del hidden
        return self.convolved * self.kernel + 2 * self.value_heads + self.value_dim

    def cached_bytes(self, element_bytes: int, chips: int = 1) -> int:
        """Return the bytes that one token leaves in the cache: none."""
        del element_bytes, chips
        return 0

    def state_bytes(self, chips: int = 1) -> int:
        """Return the bytes of a sequence that do not grow with it, on each of ``chips``: state and last inputs."""
        state = self.value_heads * self.key_dim * self.value_dim * _STATE_BYTES
        return (state + (self.kernel - 1) * self.convolved * _CONVOLVED_BYTES) // chips

    def split(self) -> tuple[tuple[int, str], ...]:
        """Return what tensor parallelism must divide: sizes and names."""
        return ((self.value_heads, "value heads"), (self.key_heads, "key heads"))

    def replicated(self) -> tuple[tuple[int, str], ...]:
        """Return what it must divide or be a multiple of: nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class DeltaRule:
    """Convolution and delta rule of all layers on one chip.

    Attributes
    ----------
    name
        ``context_delta_rule`` or ``generation_delta_rule``.
    net
        With the heads of one chip.
    hidden
        Width of the model, by which the tables name it.
    count
        Layers.
    """

    name: str
    net: DeltaNet
    hidden: int
    count: int

    precision: ClassVar[str] = "bf16"
    #: The past is one state: a token looks no further, and a prompt's cost is linear in its tokens.
    window: ClassVar[int] = 1
    pair_flops: ClassVar[int] = 0
    kv_bytes_per_token: ClassVar[int] = 0

    @property
    def token_flops(self) -> int:
        """Operations per token: the state is read by the key, corrected, and read by the query; the convolution."""
        net = self.net
        return 6 * net.value_heads * net.key_dim * net.value_dim + 2 * net.kernel * net.convolved

    @property
    def row_bytes(self) -> int:
        """Bytes per token: the convolution's input and output, which the rule reads, and the rule's result."""
        return _CONVOLVED_BYTES * (3 * self.net.convolved + self.net.values)

    @property
    def sequence_bytes(self) -> int:
        """Bytes per sequence and step: its state is read and written."""
        return 2 * self.net.state_bytes()
