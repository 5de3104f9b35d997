"""A run that is over, before anything is computed from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from simulator.server import cores_of, step_logs_of
from simulator.token_gaps import token_gaps
from simulator.windows import window_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.built_pool import AnyPool
    from simulator.cluster import Cluster
    from simulator.fabric import Fabric
    from simulator.metrics import RequestTimes
    from simulator.operations import Operations
    from simulator.requests import Requests
    from simulator.scenario import Scenario
    from simulator.token_gaps import TokenGaps

__all__ = ["Finished"]


@dataclass(frozen=True)
class Finished:
    """A run that is over.

    Attributes
    ----------
    scenario, requests, pools, fabric, cluster, operations
        What was run, and what happened meanwhile; no fabric where nothing is handed over.
    times
        What came of it.
    incidents
        What happened to instances and links on the way: (time in ns, words), in order of time.
    given_up
        Whether it ended before all of its requests did.
    """

    scenario: Scenario
    requests: Requests
    pools: tuple[AnyPool, ...]
    fabric: Fabric | None
    cluster: Cluster
    operations: Operations
    times: RequestTimes
    incidents: tuple[tuple[int, str], ...] = ()
    given_up: bool = False

    @cached_property
    def gaps(self) -> TokenGaps:
        """The gaps between tokens, computed when somebody first looks at them."""
        cores, paces = cores_of(self.cluster.instances), step_logs_of(self.cluster.instances)
        logs, prices = [core.log for core in cores], [core.prices for core in cores]
        return token_gaps(logs, prices, self.cluster.ledger, paces=paces, after_ns=self.warmup_ns)

    @property
    def warmup_ns(self) -> int:
        """End of the warm-up, ns."""
        return self.scenario.workload.warmup_ns

    def instance_pools(self) -> NDArray[np.int64]:
        """Return the pool number of every instance, shape (instances,)."""
        return np.array(self.cluster.owners, np.int64)

    def end_ns(self) -> int:
        """Return when the last request finished or was lost, ns; one refused as it comes lengthens no run."""
        return self.cluster.ended_ns

    def served_ns(self, instance: int) -> int:
        """Return how long an instance was there to serve, ns: to its own end or that of the run."""
        found = self.cluster.instances[instance]
        end_ns = found.ended_ns if found.ended_ns >= 0 else self.end_ns()
        return max(0, min(end_ns, self.end_ns()) - found.started_ns)

    def window_edges(self) -> NDArray[np.int64]:
        """Return the edges of the windows that the run is shown in, ns, shape (windows + 1,)."""
        return window_edges(self.cluster.env.now)
