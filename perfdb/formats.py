"""Formats of weights: their bytes, and which one each matrix of a layer is in."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WEIGHT_BYTES", "Formats", "Matrices", "Role"]

#: Bytes of one weight, quantisation scales included (block of 128x128 for fp8_block, 16 for nvfp4,
#: 32 for mxfp4, 128 for int4: scale bytes divided by the block's elements). mxfp4_mxfp8 is mxfp4 that is always
#: multiplied with 8-bit activations, as a flag of vLLM has it; int4_group32 is int4 with a scale for 32 weights.
WEIGHT_BYTES: Mapping[str, float] = MappingProxyType(
    {
        "bf16": 2.0,
        "fp8": 1.0,
        "fp8_block": 1.0 + 4 / 128**2,
        "int8": 1.0,
        "int4": 0.5 + 2 / 128,
        "int4_group32": 0.5 + 2 / 32,
        "nvfp4": 0.5 + 1 / 16,
        "mxfp4": 0.5 + 1 / 32,
        "mxfp4_mxfp8": 0.5 + 1 / 32,
    }
)

#: What a matrix does in its layer. Checkpoints quantise by role: all of one role in a layer, or none.
Role = Literal["latent", "mixer", "mixer_out", "feed_forward", "shared", "router"]
#: The matrices of a part: their roles, and weights of each.
Matrices = tuple[tuple[Role, int], ...]


@dataclass(frozen=True, slots=True)
class Formats:
    """Format of each role in one layer, keys of :data:`WEIGHT_BYTES`.

    Attributes
    ----------
    latent
        Projections that latent attention shares among its heads.
    mixer
        Other projections into the mixer.
    mixer_out
        The projection out of it.
    feed_forward
        The dense feed-forward part, or the routed experts.
    shared
        The experts that every token passes.
    router
        What picks the experts; engines leave it in 16 bits.
    """

    latent: str = "bf16"
    mixer: str = "bf16"
    mixer_out: str = "bf16"
    feed_forward: str = "bf16"
    shared: str = "bf16"
    router: str = "bf16"

    def of(self, role: Role) -> str:
        """Return the format of a role."""
        found: str = getattr(self, role)
        return found

    def bytes_of(self, matrices: Matrices) -> float:
        """Return the bytes of some matrices."""
        return sum(weights * WEIGHT_BYTES[self.of(role)] for role, weights in matrices)
