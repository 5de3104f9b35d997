"""Kernels as the engines of 2023 ran them, on top of the prices of today's.

Each difference is one constant that was measured elsewhere than on the engines it is used for:

* projections run at the clock that a chip holds under its power limit, not at that of a short benchmark; those of
  few rows read their weights at a rate that was measured with them in place;
* norms, activations and residual sums are plain kernels;
* attention over prompts is that of xformers and FlashAttention 1; attention over the cache is bound by reading it,
  which the tables, measured with few KV heads, do not tell of models that have one for each query head;
* all-reduces are NCCL's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.operators import AllReduce, Elementwise, Gemm
from perfdb.roofline import ATTENTION_FLOOR_NS, ELEMENTWISE_FLOOR_NS
from perfdb.sources import SourceChain
from perfdb.speed_of_light import attention_bound, compute_format, gemm_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.operators import Kernel, RowOperator

__all__ = ["DISTSERVE_KERNELS", "KERNELS_OF_2023", "KERNELS_OF_2024", "EagerChain", "EagerKernels"]


@dataclass(frozen=True, slots=True)
class EagerKernels:
    """What kernels without today's fusion and libraries reach.

    Attributes
    ----------
    gemm_compute
        Most that a projection in 16 bits sustains of the chip's peak.
    gemm_memory
        Share of the memory rate at which one of few rows reads its weights, or more.
    stream_efficiency
        Share of the memory rate that element-wise kernels reach.
    attention_slowdown
        Attention over prompts takes so many times as long as FlashAttention 2.
    cache_efficiency
        Share of the memory rate at which attention reads the KV cache.
    all_reduce_ns
        Latency of an all-reduce.
    all_reduce_efficiency
        Share of the links' rate that its bus bandwidth reaches.
    """

    gemm_compute: float
    gemm_memory: float
    stream_efficiency: float
    attention_slowdown: float
    cache_efficiency: float
    all_reduce_ns: float
    all_reduce_efficiency: float


#: Vidur's profile of Llama-2-7B on an A100 80 GB: the four projections at 2048 and 4096 tokens run at 210 to 232
#: of 312 TFLOP/s, those of one to 16 rows at 1.5 to 1.55 of 2.04 TB/s; norms, rotation and activation at 0.6 to 1.0
#: TB/s; attention over the cache reads it at 1.74 TB/s. Its all-reduces on a DGX A100 (2, 4
#: and 8 chips, 2 KiB to 64 MiB): medians of 20 to 55 us up to 1 MiB, and about 165 GB/s of bus bandwidth beyond.
#: FlashAttention 2 is about twice as fast as its predecessor (Dao 2023, arXiv 2307.08691), which xformers' equals.
KERNELS_OF_2023 = EagerKernels(
    gemm_compute=0.71,
    gemm_memory=0.76,
    stream_efficiency=0.45,
    attention_slowdown=2.0,
    cache_efficiency=0.85,
    all_reduce_ns=40_000.0,
    all_reduce_efficiency=0.55,
)


#: Sarathi-Serve and what its authors compared with it attend to prompts with FlashAttention 2.
KERNELS_OF_2024 = replace(KERNELS_OF_2023, attention_slowdown=1.0)

#: DistServe's own attention over the cache: its authors' four fits (OPT-13B on 1 and 2 chips, OPT-66B on 2 and 4)
#: put 0.341 to 0.942 us on a cached token, which is 1.2 to 1.31 TB/s. What they put on a new token, 0.1019, 0.0686 and
#: 0.1514 ms (OPT-13B on 1 and 2 chips, OPT-66B on 4), less element-wise kernels and all-reduces as priced here, leaves
#: projections 0.88, 0.69 and 0.95 of the peak: 0.80 keeps the prompts of all three within 10 %.
DISTSERVE_KERNELS = replace(KERNELS_OF_2023, gemm_compute=0.80, cache_efficiency=0.62)


class EagerChain(SourceChain):
    """A chain whose prices are those of an eager engine's kernels.

    Parameters
    ----------
    chip
        The chip that is priced.
    chain
        Prices of today's kernels.
    kernels
        How far the engine's fall short.
    """

    def __init__(self, chip: Chip, chain: SourceChain, kernels: EagerKernels) -> None:
        super().__init__(chain.sources, chain.label)
        self.chip, self.kernels = chip, kernels

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate:
        """Return the price of a projection, element-wise kernel or transfer; see :class:`SourceChain`."""
        if isinstance(operator, Elementwise):
            return self._elementwise(operator, rows)
        if isinstance(operator, AllReduce):
            return self._all_reduce(operator, rows)
        found = super().rows(operator, rows)
        if not isinstance(operator, Gemm) or compute_format(self.chip, operator.weights) != "bf16":
            return found
        return self._gemm(operator, rows, found)

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate:
        """Return the price of one layer's attention; see :class:`SourceChain`."""
        if operator.name.startswith("generation"):
            bound = attention_bound(self.chip, operator, batch, tokens)
            ns = ATTENTION_FLOOR_NS + bound.memory_ns / self.kernels.cache_efficiency
            return Estimate.of(ns, Origin.ROOFLINE)
        found = super().attention(operator, batch, tokens)
        origin = np.maximum(found.origin, Origin.EXTRAPOLATED).astype(np.uint8)
        return Estimate(found.ns * self.kernels.attention_slowdown, origin)

    def _gemm(self, operator: Gemm, rows: NDArray[np.int64], found: Estimate) -> Estimate:
        """Hold a projection between the arithmetic and the memory rate that are sustained."""
        bound = gemm_bound(self.chip, operator, rows)
        least = bound.compute_ns / self.kernels.gemm_compute
        streamed = 1e9 * self.chip.efficiency.gemm_floor_s + bound.memory_ns / self.kernels.gemm_memory
        most = np.where(bound.memory_ns > bound.compute_ns, streamed, np.inf)
        ns = np.maximum(np.minimum(found.ns, most), least)
        origin = np.where(ns != found.ns, np.maximum(found.origin, Origin.EXTRAPOLATED), found.origin)
        return Estimate(ns, origin.astype(np.uint8))

    def _elementwise(self, operator: Elementwise, rows: NDArray[np.int64]) -> Estimate:
        rate = self.kernels.stream_efficiency * self.chip.memory_bytes_per_s
        ns = ELEMENTWISE_FLOOR_NS + 1e9 * rows.astype(np.float64) * operator.bytes_per_row / rate
        return Estimate.of(ns, Origin.ROOFLINE)

    def _all_reduce(self, operator: AllReduce, rows: NDArray[np.int64]) -> Estimate:
        moved = 2.0 * (operator.chips - 1) / operator.chips * rows.astype(np.float64) * operator.width * 2.0
        rate = self.kernels.all_reduce_efficiency * self.chip.group_link_bytes_per_s(operator.chips)
        return Estimate.of(self.kernels.all_reduce_ns + 1e9 * moved / rate, Origin.ROOFLINE)
