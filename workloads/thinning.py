"""Part of a workload: what one of several equal deployments sees of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hardware.errors import ScenarioError
from workloads.streams import stream

if TYPE_CHECKING:
    from workloads.table import Arrivals

__all__ = ["thinned"]


def thinned(arrivals: Arrivals, share: float, seed: int) -> Arrivals:
    """Return the requests that fall to a deployment which gets a share of all, each at random.

    A conversation stays together. What falls to a share falls to every larger one: the number that is drawn for a
    request is the same.

    Parameters
    ----------
    arrivals
        All requests.
    share
        Above 0, at most 1.
    seed
        The scenario's seed.

    Raises
    ------
    ScenarioError
        If no request falls to it.
    """
    if share == 1:
        return arrivals
    random = stream(seed, "share")
    drawn = random.random(len(arrivals))
    session = arrivals.session
    if session is not None and session.max() >= 0:
        drawn = np.where(session < 0, drawn, random.random(int(session.max()) + 1)[session])
    rows = np.flatnonzero(drawn < share)
    if not rows.size:
        raise ScenarioError(
            f"workload.share is {share:g}, to which none of the {len(arrivals)} requests falls; raise it, or send more"
        )
    return arrivals.taken(rows)
