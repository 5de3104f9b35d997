"""Cost source for any chip: the speed of light divided by published efficiencies.

``latency = floor + max(compute / efficiency, memory / efficiency)``, with the efficiencies and the kernel
floor of the chip's catalogue file (measured medians of its generation, sources there).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfdb.collectives import between_nodes_ns, group_of, moved_bytes
from perfdb.estimate import Estimate, Origin
from perfdb.operators import AllReduce, Attention, Collective, Elementwise, Gemm, RowOperator
from perfdb.speed_of_light import Bound, attention_bound, compute_format, gemm_bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hardware.catalogue import Chip

__all__ = ["RooflineSource"]

#: Share of the memory rate that streaming kernels reach, and the latency of a small memory-bound kernel:
#: constants of aiconfigurator-core 0.12 (``mem_bw_empirical_scaling_factor`` and
#: ``mem_empirical_constant_latency`` in ``systems/*.yaml``, the same for all chips).
STREAM_EFFICIENCY = 0.8
ELEMENTWISE_FLOOR_NS = 3_000.0
#: Latency of one hand-over between chips (``p2p_latency``, same files).
POINT_TO_POINT_NS = 10_000.0
#: Latency floor of an attention kernel: the smallest measured context attention is 11 to 12 us on H200
#: (aiconfigurator-core 0.12, batch 1, one token).
ATTENTION_FLOOR_NS = 11_000.0


class RooflineSource:
    """Prices every operator on every chip of the catalogue.

    Parameters
    ----------
    chip
        The chip; its efficiencies may be inherited from a kin of the same architecture.
    """

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate:
        """Return the roofline of a projection, element-wise kernel or transfer."""
        ns: NDArray[np.float64]
        count = rows.astype(np.float64)
        if isinstance(operator, Gemm):
            ns = self._gemm(operator, rows)
        elif isinstance(operator, Elementwise):
            streamed = count * operator.bytes_per_row
            ns = ELEMENTWISE_FLOOR_NS + 1e9 * streamed / (STREAM_EFFICIENCY * self.chip.memory_bytes_per_s)
        elif isinstance(operator, AllReduce | Collective):
            ns = self._within_node(operator, count) + between_nodes_ns(self.chip, operator, count)
        else:
            ns = POINT_TO_POINT_NS + 1e9 * count * operator.bytes_per_row / self.chip.link_bytes_per_s
        return Estimate.of(ns, Origin.ROOFLINE)

    def attention(self, operator: Attention, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate:
        """Return the roofline of one layer's attention."""
        efficiency = self.chip.efficiency
        bound = attention_bound(self.chip, operator, batch, tokens)
        points = efficiency.prefill_attention_bf16
        compute = _power_law(points, tokens) if operator.name == "context_attention" else points[0][1]
        ns = _roofline(bound, compute, efficiency.hbm_decode_attention)
        return Estimate.of(ATTENTION_FLOOR_NS + ns, Origin.ROOFLINE)

    def _gemm(self, gemm: Gemm, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        efficiency = self.chip.efficiency
        narrow = compute_format(self.chip, gemm.weights) != "bf16" and efficiency.gemm_fp8 is not None
        compute = efficiency.gemm_fp8 if narrow and efficiency.gemm_fp8 else efficiency.gemm_bf16
        bound = gemm_bound(self.chip, gemm, rows)
        return 1e9 * efficiency.gemm_floor_s + _roofline(bound, compute.median, STREAM_EFFICIENCY)

    def _within_node(self, operator: AllReduce | Collective, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the time within the nodes: latency and bus bandwidth are those of an all-reduce."""
        chips = group_of(self.chip, operator.chips).inside
        measured = self.chip.efficiency.all_reduce_among(chips)
        moved = moved_bytes(operator, chips, rows)
        if measured is None:
            steps = 2 * (chips - 1)
            return steps * POINT_TO_POINT_NS + 1e9 * moved / self.chip.group_link_bytes_per_s(chips)
        return 1e9 * (measured.alpha_s + moved / measured.bus_bytes_per_s)


def _roofline(bound: Bound, compute: float | NDArray[np.float64], memory: float) -> NDArray[np.float64]:
    return np.maximum(bound.compute_ns / compute, bound.memory_ns / memory)


def _power_law(points: Sequence[tuple[float, float]], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Interpolate efficiency on log axes; below the first point follow its slope, above hold the last."""
    x = np.log([p[0] for p in points])
    y = np.log([p[1] for p in points])
    wanted = np.log(np.maximum(at, 1).astype(np.float64))
    slope = (y[1] - y[0]) / (x[1] - x[0]) if len(x) > 1 else 0.0
    below = y[0] + slope * np.minimum(wanted - x[0], 0.0)
    return np.exp(np.where(wanted < x[0], below, np.interp(wanted, x, y)))
