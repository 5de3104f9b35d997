"""Max-min fair shares of links, brought up to date only where a change reaches.

Flows with the same path and the same cap always have the same rate, so they are one :class:`Bundle`. Shares
are max-min fair when every bundle either has its cap or passes a *bottleneck*: a full link on which no bundle
is faster (Bertsekas and Gallager, Data Networks, 2nd edition, section 6.5.2). Water-filling finds them: all
rates rise together, and whoever meets a full link or its cap stays there.

A change need not start that from nothing. It reaches the bundles whose bottleneck is on a changed path, those
whose bottleneck is on a path of these, and so on; the others keep their rates, and their bottlenecks vouch
for them. One thing pulls others in: the water stops at a link that a faster bundle passes, held back
elsewhere. That bundle joins, at a level below its own rate, where it would have been rising with the rest.

Amounts are integers, so that sums never drift, no link is ever over its capacity, and the same flows give
the same nanoseconds on any machine: bytes in units of 2^-128, rates in such units per nanosecond.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from hardware.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BYTE", "Bundle", "Filling", "Link", "capacity_of", "rate_of"]

BYTE: Final = 1 << 128

B = TypeVar("B", bound="Bundle")


def rate_of(bytes_per_s: float) -> int:
    """Return a finite rate, bytes/s and at least 0, in units/ns, rounded down."""
    top, bottom = float(bytes_per_s).as_integer_ratio()
    return top * BYTE // (bottom * 1_000_000_000)


class Link(Generic[B]):
    """One direction of a cable.

    Parameters
    ----------
    number
        Position among all links.
    capacity
        What it can carry, units/ns.

    Attributes
    ----------
    nominal
        Capacity at the beginning, units/ns.
    used
        Sum of the rates on it, units/ns.
    bundles
        Those that pass it, in the order they came.
    held
        Those whose bottleneck it is.
    lone
        The flow that has it to itself and is not among the bundles, if any.
    carried, occupied
        Units of the flows that have left it: bytes that passed, and bytes that could have passed in their time.
    flows, peak_flows
        Flows on it, now and at most.
    taken, room, rising, members
        While shares are filled: whether this link is concerned; its capacity not given away, units/ns; flows
        whose rate still rises; bundles whose rate is sought.
    """

    __slots__ = (
        "bundles",
        "capacity",
        "carried",
        "flows",
        "held",
        "lone",
        "members",
        "nominal",
        "number",
        "occupied",
        "peak_flows",
        "rising",
        "room",
        "taken",
        "used",
    )

    def __init__(self, number: int, capacity: int) -> None:
        self.number, self.capacity, self.nominal = number, capacity, capacity
        self.used = self.carried = self.occupied = self.flows = self.peak_flows = 0
        self.bundles: dict[B, None] = {}
        self.held: dict[B, None] = {}
        self.lone: Any = None
        self.taken = False
        self.room = self.rising = 0
        self.members: list[B] = []


class Bundle:
    """Flows with the same path and the same cap.

    Parameters
    ----------
    links
        The path. A link that is there twice is passed twice: by each half of a flow that stands for two.
    cap
        What one flow can use at most, units/ns; None for no limit.

    Attributes
    ----------
    path
        Its links, each once, and how many times they are passed.
    flows
        How many there are now.
    rate
        What each of them gets, units/ns.
    load
        What all of them took of a link passed once when rates were last set, units/ns.
    bottleneck
        The full link that limits them; None where the cap does, or nothing.
    taken, next_rate, next_bottleneck
        While shares are filled: whether a new rate is sought; that rate, -1 while it rises; what limits it.
    """

    __slots__ = ("bottleneck", "cap", "flows", "load", "next_bottleneck", "next_rate", "path", "rate", "taken")

    def __init__(self, links: tuple[Link[Self], ...], cap: int | None) -> None:
        self.path, self.cap = tuple((link, links.count(link)) for link in dict.fromkeys(links)), cap
        self.flows = self.rate = self.load = 0
        self.bottleneck: Link[Self] | None = None
        self.taken = False
        self.next_rate = -1
        self.next_bottleneck: Link[Self] | None = None

    def join(self: Self) -> None:
        """Count a flow that starts."""
        self.flows += 1
        for link, times in self.path:
            link.bundles[self] = None
            link.flows = flows = link.flows + times
            if flows > link.peak_flows:  # noqa: PLR1730 - a call of max costs more than the rest of the loop
                link.peak_flows = flows

    def leave(self, carried: int, occupied: int) -> None:
        """Count a flow that ends, of which so many units were carried in the time of so many."""
        self.flows -= 1
        for link, times in self.path:
            link.flows -= times
            link.carried += carried * times
            link.occupied += occupied * times

    def settle_alone(self: Self) -> bool:
        """Set the rate as :class:`Filling` would, if no other bundle is on any of its links; else tell so."""
        for link, _ in self.path:
            if len(link.bundles) != 1:
                return False
        flows, bottleneck = self.flows, None
        if flows:
            rate, number = (1 << 256, 0) if self.cap is None else (self.cap, -1)
            for link, times in self.path:
                share = link.capacity // (flows * times)
                if share < rate or (share == rate and link.number < number):
                    rate, number, bottleneck = share, link.number, link
            self.rate, self.load = rate, rate * flows
        else:
            self.rate = self.load = 0
        for link, times in self.path:
            link.used = self.load * times
            if not flows:
                del link.bundles[self]
        if bottleneck is not self.bottleneck:
            _hold(self, bottleneck)
        return True


class Filling(Generic[B]):
    """One update of the shares: make it with what changed, then :meth:`fill`, then :meth:`settle`.

    Parameters
    ----------
    all_links
        Every link, by number.
    changed
        Bundles with more or fewer flows than before, and all those on a link whose capacity changed.

    Attributes
    ----------
    bundles
        Those whose rate is sought.
    links
        Links on their paths.
    """

    __slots__ = ("_all_links", "_levels", "_rising", "bundles", "links")

    def __init__(self, all_links: Sequence[Link[B]], changed: Iterable[B]) -> None:
        self._all_links = all_links
        self._rising = 0
        self._levels: list[tuple[int, int]] = []
        self.bundles: list[B] = []
        self.links: list[Link[B]] = []
        self._take(changed)
        self._levels += [(link.room // link.rising, link.number) for link in self.links if link.rising]
        heapify(self._levels)

    def fill(self) -> None:
        """Find ``next_rate`` and ``next_bottleneck`` of every bundle the change reaches."""
        levels, bundles, all_links = self._levels, self.bundles, self._all_links
        while self._rising:
            level, number = levels[0]
            if number < 0:
                heappop(levels)
                self._stop([bundles[~number]], level, None)
                continue
            link = all_links[number]
            # The level at which a link is full rises when flows on it stop below; -1: none is left to rise.
            share = link.room // link.rising if link.rising else -1
            if share == level:
                if not self._pull_in(link, level):
                    heappop(levels)
                    self._stop(link.members, level, link)
            elif share < 0:
                heappop(levels)
            else:
                heapreplace(levels, (share, number))

    def settle(self) -> None:
        """Let the rates found be the rates; links forget bundles without flows."""
        for bundle in self.bundles:
            bundle.rate, bundle.load = bundle.next_rate, bundle.next_rate * bundle.flows
            if bundle.next_bottleneck is not bundle.bottleneck:
                _hold(bundle, bundle.next_bottleneck)
            if not bundle.flows:
                _forget(bundle)
            bundle.next_rate, bundle.next_bottleneck, bundle.taken = -1, None, False
        for link in self.links:
            link.used = link.capacity - link.room
            link.taken = False

    def _take(self, changed: Iterable[B]) -> None:
        """Take bundles, and every other one that a change of their rates reaches, out of the shares."""
        bundles, links, reached = self.bundles, self.links, list(changed)
        for bundle in reached:
            if bundle.taken:
                continue
            bundle.taken = True
            flows, load = bundle.flows, bundle.load
            for link, times in bundle.path:
                if not link.taken:
                    link.taken, link.rising, link.room, link.members = True, 0, link.capacity - link.used, []
                    links.append(link)
                    reached += link.held
                link.room += load * times
                link.rising += flows * times
                link.members.append(bundle)
            self._raise(bundle)
            bundles.append(bundle)

    def _raise(self, bundle: B) -> None:
        """Let the rate of a bundle rise from 0, if it has flows."""
        if not bundle.flows:
            bundle.next_rate = 0
            return
        self._rising += 1
        if bundle.cap is not None:
            heappush(self._levels, (bundle.cap, ~len(self.bundles)))

    def _pull_in(self, full: Link[B], level: int) -> bool:
        """Take bundles that pass a full link faster than its level, and tell whether there are any."""
        if len(full.members) == len(full.bundles):
            return False
        faster = [bundle for bundle in full.bundles if bundle.rate > level and not bundle.taken]
        known = len(self.bundles)
        self._take(faster)
        for bundle in self.bundles[known:]:
            for link, _ in bundle.path:
                # A faster one lets a link be full at a higher level, but one held by it at a lower.
                heappush(self._levels, (link.room // link.rising, link.number))
        return bool(faster)

    def _stop(self, bundles: Iterable[B], level: int, bottleneck: Link[B] | None) -> None:
        """Let those of these bundles whose rates still rise stay at a level."""
        for bundle in bundles:
            if bundle.next_rate < 0:
                flows = bundle.flows
                load = level * flows
                bundle.next_rate, bundle.next_bottleneck = level, bottleneck
                for link, times in bundle.path:
                    link.room -= load * times
                    link.rising -= flows * times
                self._rising -= 1


def _hold(bundle: B, bottleneck: Link[B] | None) -> None:
    """Move a bundle to the link that is now its bottleneck."""
    if bundle.bottleneck is not None:
        del bundle.bottleneck.held[bundle]
    if bottleneck is not None:
        bottleneck.held[bundle] = None
    bundle.bottleneck = bottleneck


def _forget(bundle: B) -> None:
    """Let the links know a bundle no more."""
    for link, _ in bundle.path:
        del link.bundles[bundle]


def capacity_of(link: int, bytes_per_s: float) -> int:
    """Return what a link can carry, units/ns.

    Raises
    ------
    ScenarioError
        It is not a finite number of at least 0 bytes/s.
    """
    if not (isfinite(bytes_per_s) and bytes_per_s >= 0):
        raise ScenarioError(
            f"link {link} has a capacity of {bytes_per_s} bytes/s; expected a finite number, at least 0"
        )
    return rate_of(bytes_per_s)
