"""When a run cannot keep its SLO any more, whatever comes: for searches, which ask little else of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        return cluster.env.now >= self.warmup_ns and self.at_most(cluster) < self.attainment

    def at_most(self, cluster: Cluster) -> float:
        """Return the share of the measured requests that may yet meet every bound, now that the warm-up is over."""
        arrival = cluster.ledger.column("arrival_ns")
        # Who has not come yet will be measured.
        sent = len(arrival) - int(((arrival >= 0) & (arrival < self.warmup_ns)).sum())
        missed = cluster.ledger.column("failed") > 0
        for _, late in self._due(cluster).values():
            missed |= late
        missed &= arrival >= self.warmup_ns
        return (sent - int(missed.sum())) / sent if sent else 1.0

    def so_far(self, cluster: Cluster) -> dict[str, Any]:
        """Return what has become of the measured requests by now, in a run that is given up.

        Returns
        -------
        dict
            ``missed_ttft, missed_tpot`` and ``missed_e2e``: the share that missed a bound, of the requests for which it
            has fallen due. ``slo_attainment``: the share that meets all of them if misses of one have nothing to do
            with those of another, or what may be met at most where that is less.
        """
        measured = cluster.ledger.column("arrival_ns") >= self.warmup_ns
        shares = {name: _share(late, due & measured) for name, (due, late) in self._due(cluster).items()}
        found = {f"missed_{name}": shares.get(name, 0.0) for name in ("ttft", "tpot", "e2e")}
        kept = prod(1 - share for share in shares.values())
        return found | {"slo_attainment": min(kept, self.at_most(cluster))}

    def _due(self, cluster: Cluster) -> Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Return for which requests each bound has fallen due by now, and who of them missed it; as metrics have it."""
        ledger, bounds = cluster.ledger, self.bounds
        arrival, told, finish = (ledger.column(name) for name in ("arrival_ns", "told_ns", "finish_ns"))
        now_ns, came, later_tokens = cluster.env.now, arrival >= 0, ledger.column("output_tokens") - 1
        first_ms, last_ms = ((np.where(at >= 0, at, now_ns) - arrival) / 1e6 for at in (told, finish))
        since_ms, found = (now_ns - arrival) / 1e6, {}
        if bounds.ttft_ms is not None:
            found["ttft"] = came & (since_ms > bounds.ttft_ms), came & (first_ms > bounds.ttft_ms)
        if bounds.tpot_ms is not None:
            decodes, tokens = (told >= 0) & (later_tokens > 0), np.maximum(later_tokens, 1)
            due = (since_ms - first_ms) / tokens > bounds.tpot_ms
            found["tpot"] = decodes & due, decodes & ((last_ms - first_ms) / tokens > bounds.tpot_ms)
        if bounds.e2e_ms is not None:
            found["e2e"] = came & (since_ms > bounds.e2e_ms), came & (last_ms > bounds.e2e_ms)
        return found


def _share(late: NDArray[np.bool_], due: NDArray[np.bool_]) -> float:
    return float((late & due).sum() / due.sum()) if due.any() else 0.0
