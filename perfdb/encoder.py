"""The encoder of a multimodal model as the simulator sees it: a transformer over patches, and a projector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from perfdb.media_rules import MediaRule
    from perfdb.parts import Layers

__all__ = ["EncoderSpec", "Projection"]


@dataclass(frozen=True, slots=True)
class Projection:
    """A projection before or after the layers.

    Attributes
    ----------
    name
        Which one.
    inputs, outputs
        Its sizes, elements.
    per
        It runs over each patch, or each token that the language model gets.
    count
        How many there are of it.
    bias
        It has one.
    cut
        How tensor parallelism divides it: by columns, by rows (and then sums), or not at all.
    """

    name: str
    inputs: int
    outputs: int
    per: Literal["patch", "token"]
    count: int = 1
    bias: bool = True
    cut: Literal["columns", "rows"] | None = None

    @property
    def parameters(self) -> int:
        """Weights and biases of all of them."""
        return self.count * (self.inputs + self.bias) * self.outputs


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """An encoder: what it takes, its layers, and what the language model gets.

    Attributes
    ----------
    name
        Whose encoder.
    rule
        Patches and tokens of what it takes.
    hidden
        Width of its layers, elements.
    stack
        Its layers, those of one kind together. A ``window`` is the patches of a whole attention window.
    around
        What embeds a patch, and what makes tokens of patches.
    features
        Elements that the language model gets for each token, those for its inner layers (DeepStack) among them.
    vectors
        Parameters beside all these: norms, position tables, layer scales, learned queries.
    """

    name: str
    rule: MediaRule
    hidden: int
    stack: tuple[Layers, ...]
    around: tuple[Projection, ...]
    features: int
    vectors: int = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it takes: some of ``image``, ``video`` and ``audio``."""
        return self.rule.kinds

    @property
    def layers(self) -> int:
        """Layers of all kinds."""
        return sum(group.count for group in self.stack)

    @property
    def parameters(self) -> int:
        """All parameters."""
        layers = sum(group.count * self._of_layer(group) for group in self.stack)
        return layers + sum(projection.parameters for projection in self.around) + self.vectors

    def indivisible(self, chips: int) -> tuple[int, str] | None:
        """Return what of its layers cannot be split over so many chips, its size and its name, or None."""
        sizes = (size for group in self.stack for size in (*group.mixer.split(), *group.feed_forward.split()))
        return next(((size, f"{name} of the encoder") for size, name in sizes if size % chips), None)

    def _of_layer(self, group: Layers) -> int:
        return sum(weights for _, weights in group.matrices(self.hidden)) + group.vector_parameters(self.hidden)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on all chips; checkpoints that quantise the language model leave these in 16 bits."""
        return 2 * self.parameters

    def feature_bytes(self, tokens: int) -> int:
        """Return the bytes that go to the language model for so many tokens, in 16 bits."""
        return 2 * self.features * tokens
