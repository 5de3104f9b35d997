"""Flows of bytes, and when they end at the rates they have.

Flows with the same path and cap have the same rate, so one number, the bytes each of them has been served,
stands for all: a flow ends when that has grown by the flow's size.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from simulator.fair_share import BYTE, Bundle, rate_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from simulator.fair_share import Link

__all__ = ["NEVER", "Agenda", "Flow", "Key", "Stream"]

NEVER: Final = 1 << 80
_FEW: Final = 64


# Rates are rounded down by some 2^-128 bytes/ns. The last 2^-64 of a byte is not waited for, so that this moves no
# end from the nanosecond it falls on to the next.
_NOT_WAITED_FOR: Final = BYTE >> 64

# What streams have served at their beginning: more than any flow can have been served elsewhere before it joins one.
_SERVED_BEFORE: Final = 1 << 200


class Key(NamedTuple):
    """What flows have in common that have the same rate.

    Attributes
    ----------
    path
        Link ids.
    cap_bytes_per_s
        What one flow can use at most; infinity for no limit.
    """

    path: tuple[int, ...]
    cap_bytes_per_s: float


class Flow:
    """Bytes on their way.

    Attributes
    ----------
    number
        Position among all flows sent.
    stream
        The flows it moves with.
    size_bytes, latency_ns
        As sent.
    carried, work
        Units that pass each link of its path, and that each could pass in the time it spends on them.
    sent_ns, finished_ns
        When it was sent, and when all of it was there; -1 until then.
    began
        What its stream had served when it started; -1 before.
    alone
        Its rate when nothing else moves and every link is as at the beginning, units/ns.
    dropped, lone
        Whether it was given up; whether it has all its links to itself until it ends.
    """

    __slots__ = (
        "alone",
        "began",
        "carried",
        "dropped",
        "finished_ns",
        "latency_ns",
        "lone",
        "number",
        "on_done",
        "sent_ns",
        "size_bytes",
        "stream",
        "work",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - what a flow is; made once per transfer, and names would cost
        self,
        number: int,
        stream: Stream,
        size_bytes: int,
        stripes: int,
        occupancy: float,
        sent_ns: int,
        latency_ns: int,
        on_done: Callable[[], None],
    ) -> None:
        self.number, self.stream, self.size_bytes = number, stream, size_bytes
        self.carried = self.work = size_bytes * BYTE // stripes
        if occupancy != 1:
            top, bottom = occupancy.as_integer_ratio()
            self.work = self.carried * top // bottom
        self.sent_ns, self.latency_ns, self.finished_ns = sent_ns, latency_ns, -1
        self.on_done = on_done
        self.began, self.alone = -1, stream.alone
        self.dropped = self.lone = False

    @property
    def alone_ns(self) -> int:
        """How long it moves when nothing else does, and every link is as at the beginning."""
        return -((_NOT_WAITED_FOR - self.work) // self.alone)


class Stream(Bundle):
    """Flows of one path and cap, in the order in which they end.

    Parameters
    ----------
    key
        Path and cap of its flows.
    links
        The links of the path.
    now_ns
        When it begins.

    Attributes
    ----------
    alone
        Rate of a flow when nothing else moves and every link is as at the beginning, units/ns.
    lone_rate
        Rate of a flow that has the links to itself as they are now, units/ns.
    served, since_ns
        Units that a flow there from the beginning would have been served, up to an instant.
    ends_ns
        When the first of its flows ends at the rate it has.
    booked_ns, ticket
        Time and number of its entry in the agenda; those with other numbers are stale.
    """

    __slots__ = (
        "_begun",
        "_ends",
        "alone",
        "booked_ns",
        "ends_ns",
        "key",
        "lone_rate",
        "served",
        "since_ns",
        "ticket",
    )

    def __init__(self, key: Key, links: tuple[Link[Self], ...], now_ns: int) -> None:
        super().__init__(links, None if key.cap_bytes_per_s == inf else rate_of(key.cap_bytes_per_s))
        self.key, self.since_ns = key, now_ns
        self.served, self._begun = _SERVED_BEFORE, 0
        self.alone = min(
            [link.nominal // times for link, times in self.path] + ([] if self.cap is None else [self.cap]), default=0
        )
        self.find_lone_rate()
        self._ends: list[tuple[int, int, Flow]] = []
        self.ends_ns = self.booked_ns = NEVER
        self.ticket = 0

    def find_lone_rate(self) -> None:
        """Find ``lone_rate`` from the capacities that links have now."""
        rates = [link.capacity // times for link, times in self.path]
        self.lone_rate = min(rates if self.cap is None else [*rates, self.cap], default=0)

    def lone_ns(self, flow: Flow) -> int:
        """Return how long a flow moves if it has the links to itself; -1 if another is there, or nothing moves."""
        for link, _ in self.path:
            if link.flows or link.lone is not None:
                return -1
        rate = self.lone_rate
        return -((_NOT_WAITED_FOR - flow.work) // rate) if rate and self.path and flow.work else -1

    def take_links(self, flow: Flow | None) -> None:
        """Let a lone flow have the links to itself, or none any more."""
        for link, _ in self.path:
            link.lone = flow

    def end_lone(self, flow: Flow) -> None:
        """Count a lone flow that ends as :meth:`add` and :meth:`remove` would."""
        carried, occupied = flow.carried, flow.work
        flow.began = 0
        for link, times in self.path:
            link.lone = None
            link.carried += carried * times
            link.occupied += occupied * times
            if times > link.peak_flows:  # noqa: PLR1730 - a call of max costs more
                link.peak_flows = times

    def advance(self, now_ns: int) -> None:
        """Serve until now."""
        self.served += self.rate * (now_ns - self.since_ns)
        self.since_ns = now_ns

    def add(self, flow: Flow, served: int = 0) -> None:
        """Let a flow start at ``since_ns``, or go on that was served some units elsewhere."""
        flow.began = began = self.served - served
        self._begun += began
        heappush(self._ends, (began + flow.work - _NOT_WAITED_FOR, flow.number, flow))
        self.join()

    def pass_on(self, flow: Flow, other: Stream) -> None:
        """Let a flow go on in another stream of the same path from ``since_ns`` of both."""
        served = self.served - flow.began
        self._begun -= flow.began
        self.leave(0, 0)
        flow.stream = other
        other.add(flow, served)

    def remove(self, flow: Flow) -> None:
        """Let a flow leave at ``since_ns``."""
        self._begun -= flow.began
        if flow.dropped:
            served = min(self.served - flow.began, flow.work)
            self.leave(served * flow.carried // flow.work, served)
        else:
            self.leave(flow.carried, flow.work)

    def pop_ended(self) -> list[Flow]:
        """Let the flows leave that have ended by ``since_ns``."""
        ended, ends = [], self._ends
        while ends:
            end, _, flow = ends[0]
            if flow.dropped or flow.stream is not self:
                heappop(ends)
            elif end <= self.served:
                ended.append(flow)
                heappop(ends)
                self.remove(flow)
            else:
                break
        self.foresee()
        return ended

    def foresee(self) -> None:
        """Find ``ends_ns`` from the rate that holds from ``since_ns`` on."""
        ends = self._ends
        while ends and (ends[0][2].dropped or ends[0][2].stream is not self):
            heappop(ends)
        self.ends_ns = NEVER
        if ends and self.rate:
            self.ends_ns = self.since_ns - (self.served - ends[0][0]) // self.rate

    def moved(self, time_ns: int) -> tuple[int, int]:
        """Return the units carried for its present flows up to an instant at which its rate still holds.

        And those of the links' time that took.
        """
        at, carried = self.served + self.rate * (time_ns - self.since_ns), 0
        for _, _, flow in self._ends:
            if not flow.dropped and flow.stream is self:
                carried += (at - flow.began) * flow.carried // flow.work
        return carried, self.flows * at - self._begun

    def lone_moved(self, flow: Flow, time_ns: int) -> tuple[int, int]:
        """Return the same for a lone flow."""
        moving_ns = time_ns - flow.sent_ns - flow.latency_ns
        if moving_ns <= 0:
            return 0, 0
        served = min(self.lone_rate * moving_ns, flow.work)
        return served * flow.carried // flow.work, served


class Agenda:
    """When the first flow of each stream ends, soonest first.

    An end that moves away keeps its entry, which is corrected when its time has come; one that moves closer gets
    a new entry, and the old one is stale.
    """

    __slots__ = ("_entries", "_most", "_tickets")

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, Stream]] = []
        self._tickets, self._most = 0, _FEW

    def book(self, stream: Stream) -> None:
        """Enter when a stream's next flow ends, unless an earlier entry will lead to it."""
        if stream.ends_ns < stream.booked_ns:
            self._tickets += 1
            stream.ticket, stream.booked_ns = self._tickets, stream.ends_ns
            heappush(self._entries, (stream.ends_ns, self._tickets, stream))

    def first(self) -> Stream | None:
        """Return the stream whose flow ends next, if any ever does."""
        entries = self._entries
        while entries:
            time_ns, ticket, stream = entries[0]
            if ticket == stream.ticket and time_ns == stream.ends_ns:
                return stream
            heappop(entries)
            if ticket == stream.ticket:
                stream.booked_ns = NEVER
                self.book(stream)
        return None

    def tidy(self) -> None:
        """Rid the agenda of stale entries once they may be most of it."""
        if len(self._entries) > self._most:
            current = [entry for entry in self._entries if entry[1] == entry[2].ticket]
            self._entries = [entry for entry in current if entry[2].flows]
            for _, _, stream in current:
                if not stream.flows:
                    # No entry will lead to what it carries next.
                    stream.booked_ns = NEVER
            heapify(self._entries)
            self._most = _FEW + 4 * len(self._entries)
