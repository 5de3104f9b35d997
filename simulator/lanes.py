"""The lanes of a KV transfer: which chip sends what to which, over which links.

Every receiving chip stores its own layers and heads, and what it stores is what is sent to it: KV heads fewer than
tensor ranks are stored, and sent, more than once (12.62 GB instead of 6.31 GB for four heads on eight ranks in
Mooncake's SGLang benchmark). Each part comes from the chip that holds the same layers and heads; where several
hold copies of it, they share the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import accumulate
from math import inf, lcm
from typing import TYPE_CHECKING, Final

from hardware.errors import LawError
from simulator.channels import Channels, Lane, merge_lanes, separate_channels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hardware.topology import Path, Topology
    from simulator.connectors import Rails

__all__ = ["Endpoint", "Lanes", "Route"]

_MOST_MERGED: Final = 200_000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an instance is on the network.

    Attributes
    ----------
    chips
        Names of its chips in the topology: one pipeline stage after the other, each by tensor rank.
    kv_bytes_per_token
        KV bytes of one token on all of them, copies of replicated heads included.
    layers
        Layers of each pipeline stage.
    piece_bytes_per_token, block_tokens
        KV bytes of one token that lie in one piece on a chip (of one layer, K or V), and tokens of a block.
    """

    chips: tuple[str, ...]
    kv_bytes_per_token: int
    layers: tuple[int, ...] = (1,)
    piece_bytes_per_token: float = inf
    block_tokens: int = 16

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Chips of each pipeline stage."""
        size = len(self.chips) // len(self.layers)
        return tuple(self.chips[start : start + size] for start in range(0, len(self.chips), size))


class Route:
    """The lanes from one instance to another.

    Parameters
    ----------
    lanes
        Lanes whose shares add up to one.
    piece_bytes_per_token, most_tokens
        What is sent at once: bytes of a token, and of at most how many tokens.
    """

    __slots__ = ("_marks", "_whole", "lanes", "most_tokens", "piece_bytes_per_token")

    def __init__(self, lanes: Sequence[Lane], piece_bytes_per_token: float = inf, most_tokens: float = inf) -> None:
        self.lanes = tuple(lanes)
        self.piece_bytes_per_token, self.most_tokens = piece_bytes_per_token, most_tokens
        self._whole = lcm(*(lane.share.denominator for lane in lanes))
        self._marks = [int(mark * self._whole) for mark in accumulate(lane.share for lane in lanes)]

    def parcels(self, tokens: int, size_bytes: int) -> list[tuple[Lane, int, float]]:
        """Return what each lane takes of so many tokens' bytes: lane, bytes, and occupancy of its links.

        A NIC takes as long for a message as for one of ``least_message_bytes``; see
        :meth:`simulator.transfer.Network.send` for the occupancy.
        """
        if len(self.lanes) == 1 and not self.lanes[0].least_message_bytes:
            return [(self.lanes[0], size_bytes, 1.0)]
        message = self.piece_bytes_per_token * min(max(tokens, 1), self.most_tokens)
        return [
            (lane, part, max(1.0, lane.least_message_bytes / message))
            for lane, part in zip(self.lanes, self.parts(size_bytes), strict=True)
        ]

    def parts(self, size_bytes: int) -> list[int]:
        """Return the whole bytes each lane takes of a size: every byte once, none off by a byte from its share."""
        if len(self.lanes) == 1:
            return [size_bytes]
        ends = [size_bytes * mark // self._whole for mark in self._marks]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]


class Lanes:
    """Every route of a deployment, over the fewest links and lanes that give the same times.

    Parameters
    ----------
    topology
        Paths between chips.
    endpoints
        Every instance, by number.
    routes
        (source, target) numbers of the instances between which KV may move. Default: any two.
    capacity_bytes_per_s
        Shape (links,): what each link gives to KV. Default: all it has.
    rails
        NICs that a chip uses; see :data:`simulator.connectors.Rails`.
    messages_per_s
        Most messages a NIC handles; None for no limit.
    whole_runs
        A message is all of a transfer that lies in one piece, else a block of it.
    apart
        Links whose capacity may change: never merged with others.
    merged
        Merge what is alike (:mod:`simulator.channels`); off, a channel is a link and a lane has one path. Beyond
        200,000 lanes nothing is merged, and routes are found when they are first used.

    Attributes
    ----------
    channels
        What flows are sent over, and which links each stands for.
    """

    def __init__(  # noqa: PLR0913 - what a network of instances is, all named
        self,
        topology: Topology,
        endpoints: Sequence[Endpoint],
        routes: Iterable[tuple[int, int]] | None = None,
        *,
        capacity_bytes_per_s: NDArray[np.float64] | None = None,
        rails: Rails = "own",
        messages_per_s: float | None = None,
        whole_runs: bool = True,
        apart: Iterable[int] = (),
        merged: bool = True,
    ) -> None:
        self.topology, self.endpoints, self.rails = topology, endpoints, rails
        self.messages_per_s, self.whole_runs = messages_per_s, whole_runs
        self.apart = frozenset(apart)
        numbers = range(len(endpoints))
        pairs = list(dict.fromkeys((a, b) for a in numbers for b in numbers if a != b) if routes is None else routes)
        lanes = sum(max(len(endpoints[a].chips), len(endpoints[b].chips)) for a, b in pairs)
        self._routes: dict[tuple[int, int], Route] = {}
        self._is_known = merged and lanes <= _MOST_MERGED
        capacity = topology.capacity_bytes_per_s if capacity_bytes_per_s is None else capacity_bytes_per_s
        self.capacity_bytes_per_s = capacity
        self.channels: Channels = separate_channels(capacity)
        if self._is_known:
            found = [list(self._find(*pair)) for pair in pairs]
            self.channels, kept = merge_lanes(found, capacity, self.apart)
            self._routes = {pair: self._route(pair, lanes) for pair, lanes in zip(pairs, kept, strict=True)}

    def between(self, source: int, target: int) -> Route:
        """Return the lanes from one instance to another, by their numbers.

        Raises
        ------
        LawError
            The route was not among those the lanes were made for: a bug of the caller.
        """
        route = self._routes.get((source, target))
        if route is None:
            if self._is_known:
                raise LawError(f"KV was sent from instance {source} to {target}, between which no lanes were laid")
            found = list(self._find(source, target))
            route = self._routes[source, target] = self._route((source, target), found)
        return route

    def own_channel(self, link: int) -> int:
        """Return the channel of a link whose capacity may change; -1 if no lane uses it.

        Raises
        ------
        LawError
            The link was not kept apart, so that others are in its channel: a bug of the caller.
        """
        if self._is_known and link not in self.apart:
            raise LawError(f"the capacity of link {link} changes, but it was not kept apart when lanes were laid")
        return int(self.channels.of_link[link])

    def _route(self, pair: tuple[int, int], lanes: Sequence[Lane]) -> Route:
        """Return a route whose messages are the pieces that both ends hold: the smaller of theirs."""
        ends = [self.endpoints[number] for number in pair]
        piece = min(end.piece_bytes_per_token for end in ends)
        return Route(lanes, piece, inf if self.whole_runs else min(end.block_tokens for end in ends))

    def _find(self, source: int, target: int) -> Iterator[Lane]:
        """Yield one lane per path between two instances, over links."""
        senders, receivers = self.endpoints[source], self.endpoints[target]
        for sending, receiving, part in _overlaps(senders.layers, receivers.layers):
            chips, others = senders.stages[sending], receivers.stages[receiving]
            for rank, other, piece in _overlaps((1,) * len(chips), (1,) * len(others)):
                paths = self._paths(chips[rank], others[other])
                for path in paths:
                    share = part * piece / len(paths)
                    yield Lane(path.links, path.latency_ns, share, least_message_bytes=self._least(path))

    def _least(self, path: Path) -> float:
        """Return the bytes the narrowest NIC of a path could pass in the time of a message; 0 for no limit."""
        if self.messages_per_s is None:
            return 0.0
        ports = [self.capacity_bytes_per_s[link] for link in path.links if self.topology.links[link].kind == "leaf"]
        return float(min(ports, default=0.0)) / self.messages_per_s

    def _paths(self, source: str, target: str) -> list[Path]:
        """Return the paths that the bytes between two chips are striped over."""
        direct = self.topology.path(source, target)
        if self.rails == "own" or not any(self.topology.links[link].kind == "leaf" for link in direct.links):
            return [direct]
        near, far = self.topology.nics(source), self.topology.nics(target)
        stripes = max(len(near), len(far))
        return [
            self.topology.path_by(source, target, (near[i * len(near) // stripes], far[i * len(far) // stripes]))
            for i in range(stripes)
        ]


@cache
def _overlaps(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[tuple[int, int, Fraction], ...]:
    """Return which parts of two ways to cut one whole have something in common, and its share of the whole.

    Examples
    --------
    >>> [(i, j, float(share)) for i, j, share in _overlaps((1,), (1, 1))]
    [(0, 0, 0.5), (0, 1, 0.5)]
    """
    ends, others = ([Fraction(mark, sum(parts)) for mark in accumulate(parts, initial=0)] for parts in (first, second))
    found = []
    for i in range(len(first)):
        for j in range(len(second)):
            share = min(ends[i + 1], others[j + 1]) - max(ends[i], others[j])
            if share > 0:
                found.append((i, j, share))
    return tuple(found)
