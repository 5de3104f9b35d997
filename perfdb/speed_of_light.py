"""Lower bounds: the time a kernel would take at the chip's peak arithmetic or memory rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perfdb.model import WEIGHT_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.operators import Attention, Gemm

__all__ = ["Bound", "attention_bound", "attention_light", "collective_light", "gemm_bound", "gemm_bounds"]

#: Number format the multiply units run for each weight format. Weight-only formats (int4, mxfp4 with
#: 16-bit activations) compute in 16 bits.
_COMPUTE = {
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "int4": "bf16",
    "nvfp4": "fp4",
    "mxfp4": "bf16",
}
_ACTIVATION_BYTES = {"fp8": 1.0, "int8": 1.0, "fp4": 0.5625}


@dataclass(frozen=True, slots=True)
class Bound:
    """Compute and memory time of one execution, nanoseconds, each of shape (points,)."""

    compute_ns: NDArray[np.float64]
    memory_ns: NDArray[np.float64]

    @property
    def ns(self) -> NDArray[np.float64]:
        """The larger of the two: the speed of light."""
        return np.maximum(self.compute_ns, self.memory_ns)


def compute_format(chip: Chip, weights: str) -> str:
    """Return the number format a chip multiplies such weights in: 16 bits where it has nothing narrower."""
    wanted = _COMPUTE[weights]
    return wanted if chip.peak_flops(wanted) else "bf16"


def gemm_bound(chip: Chip, gemm: Gemm, rows: NDArray[np.int64]) -> Bound:
    """Return the bound of a projection: 2*rows*n*k operations; weights, input and output moved once."""
    return gemm_bounds(chip, gemm.weights, np.int64(gemm.n), np.int64(gemm.k), rows)


def gemm_bounds(
    chip: Chip, weights: str, n: NDArray[np.int64] | np.int64, k: NDArray[np.int64] | np.int64, rows: NDArray[np.int64]
) -> Bound:
    """Return the bounds of projections of one weight format, of shape (n, k) or of a shape each."""
    precision = compute_format(chip, weights)
    count = rows.astype(np.float64)
    flops = 2.0 * count * n * k
    weight_bytes = n * k * WEIGHT_BYTES[weights]
    moved = weight_bytes + count * (k * _ACTIVATION_BYTES.get(precision, 2.0) + n * 2.0)
    peak = chip.peak_flops(precision) or 1.0
    return Bound(1e9 * flops / peak, 1e9 * moved / chip.memory_bytes_per_s)


def attention_bound(chip: Chip, attention: Attention, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Bound:
    """Return the bound of one layer's attention.

    Context: each token attends to those before it, 4*head_dim operations per head and pair, halved by the
    causal mask. Generation: one new token attends to ``tokens`` cached ones, whose KV is read once.
    """
    sequences, length = batch.astype(np.float64), tokens.astype(np.float64)
    reach = np.minimum(length, attention.window) if attention.window else length
    width = attention.heads * attention.head_dim
    if attention.name == "context_attention":
        pairs = reach * (length - reach / 2)
        rows = length
    else:
        pairs, rows = reach + 1, np.ones_like(length)
    moved = sequences * ((reach + 1) * attention.kv_bytes_per_token + rows * 4.0 * width)
    flops = 4.0 * sequences * pairs * width
    peak = chip.peak_flops("bf16") or 1.0
    return Bound(1e9 * flops / peak, 1e9 * moved / chip.memory_bytes_per_s)


def attention_light(
    chip: Chip, attention: Attention, batch: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the least time of one layer's attention, ns: kernels over an 8-bit cache may multiply in 8 bits."""
    bound = attention_bound(chip, attention, batch, tokens)
    narrow = chip.peak_flops("fp8") if attention.kv_cache == "fp8" else None
    faster = (narrow or 1.0) / ((narrow and chip.peak_flops("bf16")) or 1.0)
    return np.maximum(bound.compute_ns / faster, bound.memory_ns)


def collective_light(chip: Chip, kind: str, chips: int, message_bytes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the least time of a collective in a node, ns: a switch that sums sends each byte once."""
    share = 1.0 if kind == "all_reduce" else (chips - 1) / chips
    return 1e9 * share * message_bytes.astype(np.float64) / chip.group_link_bytes_per_s(chips)
