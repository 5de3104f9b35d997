"""How busy every link was in each window of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simulator.windows import mean_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.finished import Finished

__all__ = ["LinkWindows", "link_windows"]


@dataclass(frozen=True, slots=True)
class LinkWindows:
    """Links that carried something.

    Attributes
    ----------
    names
        ``source>target`` of each, in the order of the topology.
    utilisation
        Share of its available capacity that a link used, shape (windows, links); 0 without capacity.
    mean
        The same over the whole run, shape (links,).
    """

    names: tuple[str, ...]
    utilisation: NDArray[np.float64]
    mean: NDArray[np.float64]

    def busiest_first(self) -> NDArray[np.int64]:
        """Return the positions of the links, the highest mean first and equal ones in order, shape (links,)."""
        return np.argsort(-self.mean, kind="stable")


def link_windows(run: Finished) -> LinkWindows:
    """Return how busy the links of a finished run were, in its windows; of no links where nothing is handed over."""
    edges, carrier = run.window_edges(), run.cluster.carrier
    if run.fabric is None or carrier is None:
        return LinkWindows((), np.zeros((len(edges) - 1, 0)), np.zeros(0))
    series, links = carrier.link_series(), run.fabric.topology.links
    # The network ends when the run does; a run of under a window is taken to last one.
    times_ns = np.append(series.times_ns, max(int(series.times_ns[-1]), int(edges[-1])) + 1)
    busy_ns = np.vstack([series.busy_ns, series.busy_ns[-1:]])
    used = np.flatnonzero(series.carried_bytes[-1] > 0)
    return LinkWindows(
        tuple(f"{links[number].source}>{links[number].target}" for number in series.links[used]),
        # A full link is rounded to a hair more than all of it.
        np.minimum(mean_rate(times_ns, busy_ns[:, used], edges), 1.0),
        busy_ns[-1, used] / edges[-1],
    )
