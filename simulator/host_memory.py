"""How much KV the host keeps for an instance, and how fast it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hardware.catalogue import Chip
    from hardware.node import Node

__all__ = ["copy_bytes_per_s", "host_blocks"]

#: What copies between pinned host memory and a chip reach of the link's nominal rate: nvbandwidth shows about 55 of
#: 64 GB/s on H100 and 26 of 32 GB/s on A100, recalled.
_COPY_EFFICIENCY: Final = 0.85


def host_blocks(gib: float, block_bytes: int) -> int:
    """Return the KV blocks that fit in so much host memory, a block counted over all chips of an instance."""
    return int(gib * 2**30 // block_bytes)


def copy_bytes_per_s(chip: Chip, node: Node | None) -> float:
    """Return the rate at which one chip reads host memory: over its own PCIe port, or the link that Grace has."""
    c2c = None if node is None else node.c2c_bytes_per_s
    return _COPY_EFFICIENCY * (c2c or chip.pcie.bytes_per_s)
