"""The operators that one run of an encoder takes on one chip: over patches, over tokens, and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from perfdb.parts import GroupedQuery, Mlp
from perfdb.row_operators import AllReduce, Collective, Elementwise, Gemm, RowOperator, joined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perfdb.encoder import EncoderSpec, Projection
    from perfdb.parts import Layers

__all__ = ["EncoderAttention", "EncoderOperators", "encoder_operators"]


@dataclass(frozen=True, slots=True)
class EncoderAttention:
    """Attention of all patches of a sequence to each other, in all layers of one kind on one chip.

    Attributes
    ----------
    name
        ``encoder_attention``, or ``encoder_window_attention`` where sequences are windows.
    heads, head_dim
        On one chip.
    count
        Layers.
    multiple
        Kernels compute each head as if it were as wide as the next multiple of this.
    """

    precision: ClassVar[str] = "bf16"
    token_flops: ClassVar[int] = 0
    sequence_bytes: ClassVar[int] = 0
    window: ClassVar[int] = 0

    name: str
    heads: int
    head_dim: int
    count: int
    multiple: int = 1

    @property
    def pair_flops(self) -> int:
        """Operations per pair of patches, over all heads: two products of ``head_dim`` elements, padded."""
        return 4 * self.heads * -(-self.head_dim // self.multiple) * self.multiple

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values per patch."""
        return 4 * self.heads * self.head_dim

    @property
    def row_bytes(self) -> int:
        """Bytes of queries and results per patch."""
        return 4 * self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class EncoderOperators:
    """Everything one run of an encoder takes, by what its cost depends on.

    Attributes
    ----------
    per_patch, per_token
        Operators over all patches, and over all tokens that the language model gets.
    full, windowed
        Attention within whole sequences, and within windows; None where no layer has it.
    launches
        Kernels that the host launches; encoders run without graphs.
    ranks
        Chips that encode items side by side, each all of an item.
    features
        Elements of the features of one token.
    """

    per_patch: tuple[RowOperator, ...]
    per_token: tuple[RowOperator, ...]
    full: EncoderAttention | None
    windowed: EncoderAttention | None
    launches: int
    ranks: int
    features: int


def encoder_operators(spec: EncoderSpec, tensor: int = 1, ranks: int = 1, head_multiple: int = 1) -> EncoderOperators:
    """Return the operators of one run, on one chip.

    Parameters
    ----------
    spec
        The encoder.
    tensor
        Chips that share every layer; must divide its heads and the width of its MLP.
    ranks
        Chips that each hold the whole encoder and encode some of the images, whose tokens they then gather.
    head_multiple
        Attention pads each head to a multiple of so many elements: vLLM's plugin for Ascend to 128.
    """
    layers = [operator for group in spec.stack for operator in _layer(spec.hidden, group, tensor)]
    around = {
        per: [operator for one in spec.around if one.per == per for operator in _around(one, tensor)]
        for per in ("patch", "token")
    }
    if ranks > 1:
        around["token"].append(Collective("features_gather", "all_gather", ranks * spec.features, ranks))
    kinds = {
        bool(group.mixer.window): _attention(group, group.mixer, tensor, head_multiple)
        for group in spec.stack
        if isinstance(group.mixer, GroupedQuery)
    }
    rows = (*around["patch"], *joined(layers))
    # Beside what is priced alone, each layer launches attention and, unfused, two residual sums.
    launched = sum(row.count for row in (*rows, *around["token"])) + 3 * spec.layers
    return EncoderOperators(
        rows, tuple(around["token"]), kinds.get(False), kinds.get(True), launched, ranks, spec.features
    )


def _layer(hidden: int, group: Layers, chips: int) -> Iterator[RowOperator]:
    """Yield what layers of one kind run over the patches."""
    mixer, mlp, count = group.mixer, group.feed_forward, group.count
    if not (isinstance(mixer, GroupedQuery) and isinstance(mlp, Mlp)):
        return
    yield Gemm("encoder_qkv", mixer.qkv_width // chips, hidden, "bf16", count)
    yield Gemm("encoder_attention_out", hidden, mixer.heads * mixer.head_dim // chips, "bf16", count)
    yield Gemm("encoder_mlp_in", mlp.inputs // chips, hidden, "bf16", count)
    yield Gemm("encoder_mlp_out", hidden, mlp.intermediate // chips, "bf16", count)
    # As in a language model: a residual sum and a norm read two rows and write two; activations are read and written.
    yield Elementwise("encoder_norm", 8 * hidden, 2 * count)
    yield Elementwise("encoder_activation", 2 * mlp.activated // chips, count)
    if mixer.rotary:
        yield Elementwise("encoder_rotary", 8 * mixer.heads * mixer.head_dim // chips, count)
    if chips > 1:
        yield AllReduce("encoder_all_reduce", hidden, chips, 2 * count)


def _around(projection: Projection, chips: int) -> Iterator[RowOperator]:
    """Yield a projection outside the layers."""
    outputs = projection.outputs // (chips if projection.cut == "columns" else 1)
    inputs = projection.inputs // (chips if projection.cut == "rows" else 1)
    yield Gemm(projection.name, outputs, inputs, "bf16", projection.count)
    if projection.cut == "rows" and chips > 1:
        yield AllReduce(f"{projection.name}_all_reduce", outputs, chips, projection.count)


def _attention(group: Layers, mixer: GroupedQuery, chips: int, multiple: int) -> EncoderAttention:
    name = "encoder_window_attention" if mixer.window else "encoder_attention"
    return EncoderAttention(name, mixer.heads // chips, mixer.head_dim, group.count, multiple)
