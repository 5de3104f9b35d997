"""What the links of a network have carried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.channels import Channels

__all__ = ["LinkUse"]


@dataclass(frozen=True, slots=True)
class LinkUse:
    """What every link has carried so far; arrays of shape (links,).

    Attributes
    ----------
    carried_bytes
        Bytes, those of flows under way included.
    busy_ns
        Integral of used over available capacity, ns; a link without capacity is idle.
    peak_flows
        Most flows at once.
    """

    carried_bytes: NDArray[np.float64]
    busy_ns: NDArray[np.float64]
    peak_flows: NDArray[np.int64]

    def of_links(self, channels: Channels) -> LinkUse:
        """Return what each link has carried, where this is what each channel has."""
        used, link = channels.of_link >= 0, np.maximum(channels.of_link, 0)
        if not len(self.carried_bytes):
            nothing = np.zeros(len(link))
            return LinkUse(nothing, nothing, nothing.astype(np.int64))
        return LinkUse(
            np.where(used, self.carried_bytes[link], 0.0),
            np.where(used, self.busy_ns[link] * channels.slack, 0.0),
            np.where(used, self.peak_flows[link], 0),
        )
