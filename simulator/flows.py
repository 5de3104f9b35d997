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

__all__ = ["NEVER", "Agenda", "Flow", "Key", "Stream", "units"]

NEVER: Final = 1 << 80
_FEW: Final = 64


def units(size_bytes: int) -> int:
    """Return what must be served, in units of 2^-128 bytes, until a flow of more than no bytes is over.

    Rates are rounded down by some 2^-128 bytes/ns. The last 2^-64 of a byte is not waited for, so that this
    moves no end from the nanosecond it falls on to the next.
    """
    return size_bytes * BYTE - (BYTE >> 64)


class Key(NamedTuple):
    """Path and cap: flows with the same have the same rate.

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
    sent_ns, finished_ns
        When it was sent, and when all of it was there; -1 until then.
    began
        What its stream had served when it started; None before.
    alone
        Rate when nothing else moves and every link is as at the beginning, units/ns.
    dropped
        Whether it was given up.
    """

    __slots__ = (
        "alone",
        "began",
        "dropped",
        "finished_ns",
        "latency_ns",
        "number",
        "on_done",
        "sent_ns",
        "size_bytes",
        "stream",
    )

    def __init__(  # noqa: PLR0913 - what a flow is, all named
        self,
        number: int,
        stream: Stream,
        *,
        size_bytes: int,
        sent_ns: int,
        latency_ns: int,
        on_done: Callable[[], None],
    ) -> None:
        self.number, self.stream, self.size_bytes = number, stream, size_bytes
        self.sent_ns, self.latency_ns, self.finished_ns = sent_ns, latency_ns, -1
        self.on_done = on_done
        self.began: int | None = None
        self.alone = stream.alone
        self.dropped = False


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
    served, since_ns
        Units that a flow there from the beginning would have been served, up to an instant.
    ends_ns
        When the first of its flows ends at the rate it has.
    booked_ns, ticket
        Time and number of its entry in the agenda; those with other numbers are stale.
    """

    __slots__ = ("_begun", "_ends", "alone", "booked_ns", "ends_ns", "key", "served", "since_ns", "ticket")

    def __init__(self, key: Key, links: tuple[Link[Self], ...], now_ns: int) -> None:
        super().__init__(links, None if key.cap_bytes_per_s == inf else rate_of(key.cap_bytes_per_s))
        self.key, self.since_ns = key, now_ns
        self.served = self._begun = 0
        self.alone = min([link.nominal for link in links] + ([] if self.cap is None else [self.cap]), default=0)
        self._ends: list[tuple[int, int, Flow]] = []
        self.ends_ns = self.booked_ns = NEVER
        self.ticket = 0

    def advance(self, now_ns: int) -> None:
        """Serve until now."""
        self.served += self.rate * (now_ns - self.since_ns)
        self.since_ns = now_ns

    def add(self, flow: Flow, moved: int = 0) -> None:
        """Let a flow start at ``since_ns``, or go on that has moved some units."""
        flow.began = self.served - moved
        self._begun += flow.began
        heappush(self._ends, (flow.began + units(flow.size_bytes), flow.number, flow))
        self.join()

    def remove(self, flow: Flow) -> None:
        """Let a flow leave at ``since_ns``."""
        moved = self._take_out(flow)
        self.leave(min(moved, flow.size_bytes * BYTE) if flow.dropped else flow.size_bytes * BYTE)

    def pass_on(self, flow: Flow, other: Stream) -> None:
        """Let a flow go on in another stream of the same path from ``since_ns`` of both."""
        moved = self._take_out(flow)
        self.leave(0)
        flow.stream = other
        other.add(flow, moved)

    def _take_out(self, flow: Flow) -> int:
        """Forget a flow and return the units it was served."""
        began = flow.began or 0
        self._begun -= began
        return self.served - began

    def pop_ended(self) -> list[Flow]:
        """Let the flows leave that have ended by ``since_ns``."""
        ended = []
        while (first := self._first()) is not None and first[0] <= self.served:
            ended.append(heappop(self._ends)[2])
            self.remove(ended[-1])
        self.foresee()
        return ended

    def foresee(self) -> None:
        """Find ``ends_ns`` from the rate that holds from ``since_ns`` on."""
        first = self._first()
        self.ends_ns = NEVER
        if first is not None and self.rate:
            self.ends_ns = self.since_ns - (self.served - first[0]) // self.rate

    def moved(self) -> int:
        """Return the units its present flows have been served up to ``since_ns``."""
        return self.flows * self.served - self._begun

    def _first(self) -> tuple[int, int, Flow] | None:
        ends = self._ends
        while ends and (ends[0][2].dropped or ends[0][2].stream is not self):
            heappop(ends)
        return ends[0] if ends else None


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
            self._entries = [entry for entry in self._entries if entry[1] == entry[2].ticket and entry[2].flows]
            heapify(self._entries)
            self._most = _FEW + 4 * len(self._entries)
