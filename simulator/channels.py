"""Links that always carry the same are one channel, and lanes that always move alike are one lane.

The ranks of a tensor-parallel instance send equal parts at the same instants over links of their own. As long as
nothing tells these stripes apart, they move at one rate, so it is enough to follow one of them. Nor does it
matter how many links in a row carry exactly the same lanes: the narrowest alone can limit them.

When is that exact? Lanes and links are put into classes such that

* the lanes of a class belong to one route, take equal shares of it, with the same latency and messages: they start
  together, and with the same rates they end together;
* every lane of a class passes equally many links of each class of links;
* the links of a class have equal capacities, and each of them is passed by equally many lanes of each class.

This is an equitable partition. Whatever transfers are under way, all links of a class are then loaded alike and
progressive filling stops all lanes of a class at the same level, by induction over its steps. Such classes are found
by refinement: begin with all that looks alike, and split a class as long as its members see different classes.
Where n lanes of a class pass each link of a class, the lane that is followed passes it n times. A link whose capacity
may change on its own is a class of its own, which splits the lanes that it tells apart; a deployment without
symmetry ends with a lane for every path.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from fractions import Fraction

    from numpy.typing import NDArray

__all__ = ["Channels", "Lane", "merge_lanes", "separate_channels"]


@dataclass(frozen=True, slots=True)
class Lane:
    """One way that a part of every transfer of a route takes.

    Attributes
    ----------
    links
        Links; once merged, channels, each as many times as one of its links is passed by the paths it stands for.
    latency_ns
        Of its path.
    share
        Its part of the bytes.
    width
        Equal paths it stands for: each carries ``share / width``.
    least_message_bytes
        A shorter message takes its NICs as long as one of this size.
    """

    links: tuple[int, ...]
    latency_ns: int
    share: Fraction
    width: int = 1
    least_message_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Channels:
    """What flows share, in place of single links.

    Attributes
    ----------
    of_link
        Shape (links,), int64: the channel of a link, -1 where no lane uses it.
    capacity_bytes_per_s
        Shape (channels,): that of the narrowest of its links.
    slack
        Shape (links,): capacity of its channel over its own, at most 1.
    """

    of_link: NDArray[np.int64]
    capacity_bytes_per_s: NDArray[np.float64]
    slack: NDArray[np.float64]


def separate_channels(capacity_bytes_per_s: NDArray[np.float64]) -> Channels:
    """Return channels that are single links."""
    links = len(capacity_bytes_per_s)
    return Channels(np.arange(links, dtype=np.int64), capacity_bytes_per_s, np.ones(links))


def merge_lanes(
    routes: Sequence[Sequence[Lane]], capacity_bytes_per_s: NDArray[np.float64], apart: Iterable[int] = ()
) -> tuple[Channels, list[list[Lane]]]:
    """Merge lanes that always move alike, and links that always carry the same.

    Parameters
    ----------
    routes
        Lanes of each route over links; all lanes of a route start together.
    capacity_bytes_per_s
        Shape (links,): capacities.
    apart
        Links whose capacity may change; each stays a channel of its own.

    Returns
    -------
    tuple of Channels and list
        The channels, and the lanes of each route over them.
    """
    lanes = [lane for route in routes for lane in route]
    of_route = [number for number, route in enumerate(routes) for _ in route]
    partition = _Partition(lanes, of_route, capacity_bytes_per_s.tolist(), frozenset(apart))
    partition.refine()
    channels = _channels(partition, capacity_bytes_per_s)
    members: dict[int, list[int]] = defaultdict(list)
    for number, colour in enumerate(partition.lane_colour):
        members[colour].append(number)
    passed = {link: Counter(map(partition.lane_colour.__getitem__, on_it)) for link, on_it in partition.on_link.items()}
    kept: list[list[Lane]] = [[] for _ in routes]
    for alike in members.values():
        lane, width = lanes[alike[0]], len(alike)
        colour = partition.lane_colour[alike[0]]
        path = [
            channel
            for channel, link in dict(zip(channels.of_link[list(lane.links)].tolist(), lane.links, strict=True)).items()
            for _ in range(passed[link][colour])
        ]
        kept[of_route[alike[0]]].append(
            Lane(tuple(path), lane.latency_ns, lane.share * width, width, lane.least_message_bytes)
        )
    return channels, kept


class _Partition:
    """Classes of lanes and links, as colours: whole numbers from 0."""

    def __init__(
        self, lanes: Sequence[Lane], of_route: Sequence[int], capacity: Sequence[float], apart: frozenset[int]
    ) -> None:
        self.lanes, self.apart = lanes, apart
        self.on_link: dict[int, list[int]] = defaultdict(list)
        for number, lane in enumerate(lanes):
            for link in lane.links:
                self.on_link[link].append(number)
        self.lane_colour = _coloured(
            (r, x.share, x.latency_ns, x.least_message_bytes) for r, x in zip(of_route, lanes, strict=True)
        )
        self.link_colour = dict(
            zip(
                self.on_link,
                _coloured((capacity[link], link if link in apart else -1) for link in self.on_link),
                strict=True,
            )
        )

    def refine(self) -> None:
        """Split classes until the members of each see the same classes."""
        known = 0
        while known < (known := self._count()):
            lane_colour, link_colour = self.lane_colour, self.link_colour
            self.link_colour = dict(
                zip(
                    self.on_link,
                    _coloured(
                        (link_colour[link], *sorted([lane_colour[lane] for lane in lanes]))
                        for link, lanes in self.on_link.items()
                    ),
                    strict=True,
                )
            )
            self.lane_colour = _coloured(
                (lane_colour[number], *[self.link_colour[link] for link in lane.links])
                for number, lane in enumerate(self.lanes)
            )

    def _count(self) -> int:
        return len(set(self.lane_colour)) + len(set(self.link_colour.values()))


def _channels(partition: _Partition, capacity: NDArray[np.float64]) -> Channels:
    """Return a channel for all links that equally many lanes of the same classes pass."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for link, lanes in partition.on_link.items():
        passed: Hashable = tuple(sorted([partition.lane_colour[lane] for lane in lanes]))
        alike[link if link in partition.apart else passed].append(link)
    of_link, slack = np.full(len(capacity), -1, np.int64), np.ones(len(capacity))
    narrowest = np.array([capacity[links].min() for links in alike.values()], dtype=np.float64)
    for number, links in enumerate(alike.values()):
        of_link[links] = number
        slack[links] = narrowest[number] / capacity[links]
    return Channels(of_link, narrowest, slack)


def _coloured(signatures: Iterable[Hashable]) -> list[int]:
    """Return a number for each, equal for what is equal, in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(signature, len(numbers)) for signature in signatures]
