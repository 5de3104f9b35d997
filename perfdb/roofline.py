"""Cost source for any chip: the speed of light divided by published efficiencies.

``latency = floor + max(compute / efficiency, memory / efficiency)``, with the efficiencies and the kernel
floor of the chip's catalogue file (measured medians of its generation, sources there).
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perfdb.collectives import MESSAGE_NS, between_nodes_ns, group_of, hand_over_ns, moved_bytes
from perfdb.encoder_operators import EncoderAttention
from perfdb.estimate import Estimate, Origin
from perfdb.expert_operators import ExpertExchange, RoutedExperts
from perfdb.latent import LatentAttention
from perfdb.operators import (
    AllReduce,
    Collective,
    Elementwise,
    Gemm,
    Kernel,
    LatentProjections,
    Overlapped,
    RowOperator,
    as_collective,
)
from perfdb.speed_of_light import Bound, attention_bound, compute_format, experts_bound, gemm_bound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hardware.catalogue import Chip

__all__ = ["RooflineSource"]

#: Share of the memory rate that streaming kernels reach, and the latency of a small memory-bound kernel:
#: constants of aiconfigurator-core 0.12 (``mem_bw_empirical_scaling_factor`` and
#: ``mem_empirical_constant_latency`` in ``systems/*.yaml``, the same for all chips).
STREAM_EFFICIENCY = 0.8
ELEMENTWISE_FLOOR_NS = 3_000.0
#: Latency floor of an attention kernel: the smallest measured context attention is 11 to 12 us on H200
#: (aiconfigurator-core 0.12, batch 1, one token).
ATTENTION_FLOOR_NS = 11_000.0
#: Latency floor of routed experts (sorting, two grouped projections, weighted sum): the fastest of one token are
#: measured at 20 us (same package).
EXPERTS_FLOOR_NS = 20_000.0
#: What the published exchanges of a chip file moved: layers of DeepSeek V3, so many tokens on each rank.
_PUBLISHED_EXCHANGE: Final[Mapping[str, Any]] = MappingProxyType({"hidden": 7168, "per_token": 8})
_PUBLISHED_TOKENS: Final = 128


class RooflineSource:
    """Prices every operator on every chip of the catalogue.

    Parameters
    ----------
    chip
        The chip; its efficiencies may be inherited from a kin of the same architecture.
    """

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate | None:
        """Return the roofline of a projection, experts, element-wise kernel or transfer."""
        if isinstance(operator, Overlapped):
            return None
        ns: NDArray[np.float64]
        count = rows.astype(np.float64)
        if isinstance(operator, Gemm):
            ns = self._gemm(operator, rows)
        elif isinstance(operator, RoutedExperts):
            ns = self._experts(operator, rows)
        elif isinstance(operator, LatentProjections):
            ns = self.streamed_ns(operator.elementwise, count) + sum(self._gemm(gemm, rows) for gemm in operator.gemms)
        elif isinstance(operator, Elementwise):
            ns = self.streamed_ns(operator, count)
        elif isinstance(operator, ExpertExchange):
            measured = self._exchange(operator, count)
            if measured is None:
                return self.rows(as_collective(operator), rows)
            ns = measured
        elif isinstance(operator, AllReduce | Collective):
            ns = self._within_node(operator, count) + between_nodes_ns(self.chip, operator, count)
        else:
            ns = hand_over_ns(self.chip, operator, count)
        return Estimate.of(ns, Origin.ROOFLINE)

    def streamed_ns(self, operator: Elementwise, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the time of a memory-bound kernel, ns."""
        streamed = rows * operator.bytes_per_row
        return ELEMENTWISE_FLOOR_NS + 1e9 * streamed / (STREAM_EFFICIENCY * self.chip.memory_bytes_per_s)

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate:
        """Return the roofline of one layer's attention."""
        efficiency = self.chip.efficiency
        bound = attention_bound(self.chip, operator, batch, tokens)
        points = efficiency.prefill_attention_bf16
        compute: float | NDArray[np.float64] = points[0][1]
        if isinstance(operator, EncoderAttention):
            compute = _power_law(efficiency.vit_attention_bf16, tokens)
        elif operator.name.startswith("context"):
            compute = _power_law(points, tokens)
        elif isinstance(operator, LatentAttention) and efficiency.mla_compute:
            compute = efficiency.mla_compute
        ns = _roofline(bound, compute, efficiency.hbm_decode_attention)
        return Estimate.of(ATTENTION_FLOOR_NS + ns, Origin.ROOFLINE)

    def _exchange(self, exchange: ExpertExchange, rows: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return an exchange from the chip's published one among the nearest number of ranks; None where there is none.

        It starts as a hand-over does, and the rest grows with what leaves a chip.
        """
        efficiency = self.chip.efficiency
        published = efficiency.expert_dispatch if exchange.name == "dispatch" else efficiency.expert_combine
        if not published:
            return None
        nearest = min(published, key=lambda row: (abs(math.log(row.ranks / exchange.chips)), row.ranks))
        there = replace(exchange, **_PUBLISHED_EXCHANGE, chips=nearest.ranks)
        grown = rows * exchange.sent_away / (_PUBLISHED_TOKENS * there.sent_away)
        return MESSAGE_NS + (1e9 * nearest.latency_s - MESSAGE_NS) * grown

    def _gemm(self, gemm: Gemm, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        bound = gemm_bound(self.chip, gemm, rows)
        floor = 1e9 * self.chip.efficiency.gemm_floor_s
        return floor + _roofline(bound, self._gemm_compute(gemm.weights), self.chip.efficiency.hbm_gemm)

    def _experts(self, experts: RoutedExperts, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the time of the busiest chip, for which the others wait."""
        bound = experts_bound(self.chip, experts, rows)
        busy = Bound(bound.compute_ns * experts.busiest_visits(rows) / experts.visits(rows), bound.memory_ns)
        return EXPERTS_FLOOR_NS + _roofline(busy, self._gemm_compute(experts.weights), self.chip.efficiency.hbm_gemm)

    def _gemm_compute(self, weights: str) -> float:
        efficiency = self.chip.efficiency
        narrow = compute_format(self.chip, weights) != "bf16" and efficiency.gemm_fp8 is not None
        return (efficiency.gemm_fp8 if narrow and efficiency.gemm_fp8 else efficiency.gemm_bf16).median

    def _within_node(self, operator: AllReduce | Collective, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the time within the nodes: latency and bus bandwidth are those of an all-reduce."""
        chips = group_of(self.chip, operator.chips).inside
        measured = self.chip.efficiency.all_reduce_among(chips)
        moved = moved_bytes(operator, chips, rows)
        if measured is None:
            steps = 2 * (chips - 1)
            return steps * MESSAGE_NS + 1e9 * moved / self.chip.group_link_bytes_per_s(chips)
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
