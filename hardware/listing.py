"""The catalogue as a Markdown table: ``python -m hardware.listing``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hardware.catalogue import chip_names, load_chip

if TYPE_CHECKING:
    from hardware.chip import Chip

__all__ = ["chip_table"]

_HEAD = (
    "chip",
    "architecture",
    "memory GB",
    "visible GiB",
    "TB/s",
    "bf16",
    "fp8",
    "fp4",
    "int8",
    "scale-up GB/s",
    "PCIe GB/s",
    "NIC GB/s",
    "W",
    "node",
    "borrows from",
)


def chip_table() -> str:
    """Return one row per chip; rates of arithmetic in dense TFLOP/s, of links in one direction."""
    rows = [_HEAD, ("---",) * len(_HEAD), *(_row(load_chip(name)) for name in chip_names())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(chip: Chip) -> tuple[str, ...]:
    rates = chip.flops_per_s
    return (
        f"`{chip.name}`",
        chip.architecture,
        _scaled(chip.memory_bytes, 1e9),
        f"{chip.visible_memory_bytes / 2**30:.1f}",
        _scaled(chip.memory_bytes_per_s, 1e12),
        *(_scaled(rate, 1e12) for rate in (rates.bf16, rates.fp8, rates.fp4, rates.int8)),
        _scaled(chip.scale_up.bytes_per_s if chip.scale_up else None, 1e9),
        _scaled(chip.pcie.bytes_per_s, 1e9),
        _scaled(chip.nic_bytes_per_s, 1e9),
        _scaled(chip.tdp_w, 1),
        f"`{chip.node}`" if chip.node else "",
        ", ".join(f"`{donor}`" for donor in sorted({donor for _, donor in chip.efficiency.borrowed})),
    )


def _scaled(figure: float | None, unit: float) -> str:
    return "" if figure is None else f"{figure / unit:.6g}"


if __name__ == "__main__":
    sys.stdout.write(chip_table())
