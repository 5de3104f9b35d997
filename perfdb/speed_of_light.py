"""Lower bounds: the time a kernel would take at the chip's peak arithmetic or memory rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perfdb.encoder_operators import EncoderAttention
from perfdb.expert_operators import RoutedExperts
from perfdb.formats import WEIGHT_BYTES
from perfdb.operators import Gemm, LatentProjections, Overlapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.operators import Kernel, RowOperator

__all__ = [
    "Bound",
    "attention_bound",
    "attention_light",
    "attention_peak",
    "collective_light",
    "encoder_bound",
    "experts_bound",
    "gemm_bound",
    "gemm_bounds",
    "row_bound",
]

#: Number format the multiply units run for each weight format. Weight-only formats (int4, mxfp4 with
#: 16-bit activations) compute in 16 bits.
_COMPUTE = {
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "int4": "bf16",
    "int4_group32": "bf16",
    "nvfp4": "fp4",
    "mxfp4": "bf16",
    "mxfp4_mxfp8": "fp8",
}
_KINDS = ("compute_ns", "memory_ns")
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


def experts_bound(chip: Chip, experts: RoutedExperts, rows: NDArray[np.int64]) -> Bound:
    """Return the bound of the routed experts of one chip that are loaded evenly.

    Each pair of a token and an expert multiplies all its weights; the weights of the experts that are woken, and the
    tokens before and after, are moved once.
    """
    precision = compute_format(chip, experts.weights)
    visits = experts.visits(rows)
    flops = 2.0 * visits * experts.weights_of_one
    weight_bytes = experts.woken(rows) * experts.weights_of_one * WEIGHT_BYTES[experts.weights]
    met = np.minimum(visits, experts.tokens(rows))
    moved = weight_bytes + met * experts.hidden * (_ACTIVATION_BYTES.get(precision, 2.0) + 2.0)
    peak = chip.peak_flops(precision) or 1.0
    return Bound(1e9 * flops / peak, 1e9 * moved / chip.memory_bytes_per_s)


def row_bound(chip: Chip, operator: RowOperator, rows: NDArray[np.int64]) -> Bound | None:
    """Return the bound of one execution of an operator that multiplies weights, None for every other one."""
    if isinstance(operator, Gemm):
        return gemm_bound(chip, operator, rows)
    if isinstance(operator, RoutedExperts):
        return experts_bound(chip, operator, rows)
    if isinstance(operator, LatentProjections | Overlapped):
        parts = operator.gemms if isinstance(operator, LatentProjections) else (operator.experts, *operator.beside)
        bounds = [bound for part in parts if (bound := row_bound(chip, part, rows)) is not None]
        compute, memory = (np.sum([getattr(bound, kind) for bound in bounds], axis=0) for kind in _KINDS)
        return Bound(compute, memory)
    return None


def attention_bound(chip: Chip, attention: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Bound:
    """Return the bound of one layer's attention.

    Context: each token attends to those before it, half as many pairs as the square of the length for the causal
    mask. Generation: one new token attends to ``tokens`` cached ones, whose KV is read once. Encoders: each patch
    attends to all ``tokens`` of its sequence.
    """
    if isinstance(attention, EncoderAttention):
        return encoder_bound(chip, attention, batch * tokens, batch * tokens.astype(np.float64) ** 2)
    sequences, length = batch.astype(np.float64), tokens.astype(np.float64)
    reach = np.minimum(length, attention.window) if attention.window else length
    if attention.name.startswith("context"):
        pairs = reach * (length - reach / 2)
        rows = length
    else:
        pairs, rows = reach + 1, np.ones_like(length)
    each = (reach + 1) * attention.kv_bytes_per_token + rows * attention.row_bytes + attention.sequence_bytes
    flops = sequences * pairs * attention.pair_flops + sequences * rows * attention.token_flops
    moved = sequences * each
    return Bound(1e9 * flops / attention_peak(chip, attention), 1e9 * moved / chip.memory_bytes_per_s)


def encoder_bound(
    chip: Chip, attention: EncoderAttention, patches: NDArray[np.int64], pairs: NDArray[np.float64]
) -> Bound:
    """Return the bound of an encoder's attention in one layer, over patches and pairs of those that see each other."""
    moved = patches.astype(np.float64) * (attention.kv_bytes_per_token + attention.row_bytes)
    compute = 1e9 * attention.pair_flops * pairs / attention_peak(chip, attention)
    return Bound(compute, 1e9 * moved / chip.memory_bytes_per_s)


def attention_peak(chip: Chip, attention: Kernel) -> float:
    """Return the operations per second of a chip in the format that an attention kernel multiplies in."""
    return chip.peak_flops(attention.precision) or chip.peak_flops("bf16") or 1.0


def attention_light(
    chip: Chip, attention: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the least time of one layer's attention, ns: kernels over an 8-bit cache may multiply in 8 bits."""
    bound = attention_bound(chip, attention, batch, tokens)
    narrow = chip.peak_flops("fp8") if getattr(attention, "kv_cache", None) == "fp8" else None
    faster = (narrow or 1.0) / ((narrow and chip.peak_flops("bf16")) or 1.0)
    return np.maximum(bound.compute_ns / faster, bound.memory_ns)


def collective_light(chip: Chip, kind: str, chips: int, message_bytes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the least time of a collective in a node, ns: a switch that sums sends each byte once."""
    share = 1.0 if kind == "all_reduce" else (chips - 1) / chips
    return 1e9 * share * message_bytes.astype(np.float64) / chip.group_link_bytes_per_s(chips)
