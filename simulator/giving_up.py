"""When a run cannot keep its SLO any more, whatever comes: for searches, which ask nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.cluster import Cluster
    from simulator.metrics import Bounds

__all__ = ["Hopeless"]


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Tells whether a run is certain to miss its SLO.

    A request misses a bound once its first token, or its last, is later than the bound allows, come or not. The run
    misses the SLO once the others are too few.

    Attributes
    ----------
    bounds
        Latency bounds of a request.
    attainment
        Share of the measured requests that must meet them.
    warmup_ns
        Requests that arrive earlier are not measured.
    """

    bounds: Bounds
    attainment: float
    warmup_ns: int

    def __call__(self, cluster: Cluster) -> bool:
        """Tell whether too many requests have missed a bound by now."""
        ledger, now_ns = cluster.ledger, cluster.env.now
        if now_ns < self.warmup_ns:
            return False
        arrival = ledger.column("arrival_ns")
        # Who has not come yet will be measured.
        sent = len(arrival) - int(((arrival >= 0) & (arrival < self.warmup_ns)).sum())
        missed = int((self.missed(cluster) & (arrival >= self.warmup_ns)).sum())
        return sent > 0 and (sent - missed) / sent < self.attainment

    def decided(self, cluster: Cluster) -> NDArray[np.bool_]:
        """Tell of which requests it is known whether they meet every bound, shape (requests,)."""
        return (cluster.ledger.column("finish_ns") >= 0) | self.missed(cluster)

    def missed(self, cluster: Cluster) -> NDArray[np.bool_]:
        """Tell which requests have failed or missed a bound, shape (requests,), by the formulas of the metrics."""
        ledger, now_ns = cluster.ledger, cluster.env.now
        arrival, told, finish = (ledger.column(name) for name in ("arrival_ns", "told_ns", "finish_ns"))
        later_tokens = ledger.column("output_tokens") - 1
        ttft_ms = (np.where(told >= 0, told, now_ns) - arrival) / 1e6
        e2e_ms = (np.where(finish >= 0, finish, now_ns) - arrival) / 1e6
        tpot_ms = np.where((told >= 0) & (later_tokens > 0), (e2e_ms - ttft_ms) / np.maximum(later_tokens, 1), 0.0)
        missed = ledger.column("failed") > 0
        for values_ms, bound_ms in (
            (ttft_ms, self.bounds.ttft_ms),
            (tpot_ms, self.bounds.tpot_ms),
            (e2e_ms, self.bounds.e2e_ms),
        ):
            if bound_ms is not None:
                missed |= values_ms > bound_ms
        return missed & (arrival >= 0)
