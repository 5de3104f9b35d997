"""Flows of bytes over a topology whose links are shared, max-min fairly.

A flow that is sent waits for its latency, then moves at the rate :mod:`simulator.fair_share` gives it. Rates
change only when a flow starts or ends or a link's capacity changes, so the end of a flow is known as soon as
they are set: the first nanosecond by which all its bytes have gone. Until that nanosecond it keeps its share.

One alarm waits for whatever comes next. It goes off before everything else at its instant, so that whoever
else acts then knows what has arrived by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf, isfinite
from operator import attrgetter, index
from typing import TYPE_CHECKING, Final

import numpy as np
from simpy.events import URGENT, Event, EventPriority

from hardware.errors import LawError, ScenarioError
from simulator.fair_share import BYTE, Filling, Link, rate_of
from simulator.flows import NEVER, Agenda, Flow, Key, Stream, units

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from simulator.instance import Clock

__all__ = ["Flow", "LinkUse", "Network"]

_FIRST: Final = EventPriority(URGENT - 1)
_MOST_KNOWN: Final = 10_000
_NOWHERE: Final = Key((), inf)


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


class _Alarm(Event):
    """An event before all others of its instant."""

    def __init__(self, env: Clock, delay_ns: int, ring: Callable[[Event], None]) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self.callbacks.append(ring)
        env.schedule(self, _FIRST, delay_ns)


class Network:
    """Flows over shared links.

    Parameters
    ----------
    env
        The simulation; its clock counts integer nanoseconds.
    capacity_bytes_per_s
        Shape (links,): the capacity of link i at index i, as ``Topology.capacity_bytes_per_s``.

    Attributes
    ----------
    flows_sent, flows_finished, flows_dropped
        Counts; flows that are in neither of the last two are under way.
    bytes_sent, bytes_received, bytes_dropped
        Sums of the sizes of these flows.
    queueing_ns
        Sum over finished flows of the time each took beyond what it takes alone on a healthy network.
    sharings, rates_set
        How often rates were set, and for how many streams (flows of one path and cap) in all.

    Raises
    ------
    ScenarioError
        A capacity is not a finite number above 0.
    """

    def __init__(self, env: Clock, capacity_bytes_per_s: NDArray[np.float64]) -> None:
        self.env = env
        self.flows_sent = self.flows_finished = self.flows_dropped = 0
        self.bytes_sent = self.bytes_received = self.bytes_dropped = 0
        self.queueing_ns = self.sharings = self.rates_set = 0
        self._links: list[Link[Stream]] = [
            Link(number, _capacity(number, rate)) for number, rate in enumerate(capacity_bytes_per_s.tolist())
        ]
        for link in self._links:
            if not link.capacity:
                raise ScenarioError(f"link {link.number} has no capacity; expected more than 0 bytes/s")
        # Up to the last change of each link's capacity: integral of its share in use, and units carried.
        self._busy_ns, self._counted = [0.0] * len(self._links), [0] * len(self._links)
        self._streams: dict[Key, Stream] = {}
        self._changed: dict[Stream, None] = {}
        self._starts: list[tuple[int, int, Flow]] = []
        self._ends = Agenda()
        self._alarm: _Alarm | None = None
        self._alarm_ns = NEVER

    def send(
        self,
        links: Sequence[int],
        size_bytes: int,
        *,
        latency_ns: int = 0,
        cap_bytes_per_s: float = inf,
        on_done: Callable[[], None],
    ) -> Flow:
        """Send bytes along a path.

        Parameters
        ----------
        links
            Link ids, none twice; empty between places on one chip, where only the cap limits.
        size_bytes
            Whole bytes. No bytes are there after the latency.
        latency_ns
            Set-up and propagation, before the flow takes its share of the links.
        cap_bytes_per_s
            The most this flow can use, as a protocol's efficiency leaves it.
        on_done
            Called once, at the nanosecond by which all of it is there, and never before this returns.

        Returns
        -------
        Flow
            What is under way, for :meth:`drop`.

        Raises
        ------
        LawError
            A size, latency or cap is negative, a link is unknown or passed twice: a bug of the caller.
        """
        now_ns, size_bytes, latency_ns = self.env.now, index(size_bytes), index(latency_ns)
        if size_bytes < 0 or latency_ns < 0:
            raise LawError(f"{size_bytes} bytes were sent with a latency of {latency_ns} ns; expected nothing negative")
        flow = Flow(
            self.flows_sent,
            self._stream(Key(tuple(links), float(cap_bytes_per_s))),
            size_bytes=size_bytes,
            sent_ns=now_ns,
            latency_ns=latency_ns,
            on_done=on_done,
        )
        self.flows_sent += 1
        self.bytes_sent += size_bytes
        heappush(self._starts, (now_ns + latency_ns, flow.number, flow))
        self._arm(now_ns + latency_ns)
        return flow

    def drop(self, flow: Flow) -> bool:
        """Give a flow up; its ``on_done`` will not be called.

        Returns
        -------
        bool
            False if it had finished or been dropped before.
        """
        if flow.dropped or flow.finished_ns >= 0:
            return False
        flow.dropped = True
        self.flows_dropped += 1
        self.bytes_dropped += flow.size_bytes
        if flow.began is not None:
            flow.stream.advance(self.env.now)
            flow.stream.remove(flow)
            self._changed[flow.stream] = None
            self._arm(self.env.now)
        return True

    def uncap(self, flow: Flow) -> None:
        """Let a flow that is under way use whatever it can get from now on."""
        old, now_ns = flow.stream, self.env.now
        if flow.dropped or flow.finished_ns >= 0 or old.cap is None or not old.links:
            return
        free = self._stream(Key(old.key.path, inf))
        if flow.began is None:
            flow.stream = free
            return
        old.advance(now_ns)
        free.advance(now_ns)
        old.pass_on(flow, free)
        self._changed[old] = self._changed[free] = None
        self._arm(now_ns)

    def set_capacity(self, link: int, bytes_per_s: float) -> None:
        """Give a link another capacity from now on; 0 stalls the flows on it until it is raised.

        Raises
        ------
        ScenarioError
            There is no such link, or the capacity is not a finite number of at least 0.
        """
        if not 0 <= link < len(self._links):
            raise ScenarioError(f"link {link} does not exist; expected 0 to {len(self._links) - 1}")
        changed, capacity = self._links[link], _capacity(link, bytes_per_s)
        self._busy_ns[link] = self._busy(changed)
        self._counted[link] = self._carried(changed)
        changed.capacity = capacity
        self._changed |= changed.bundles
        self._arm(self.env.now)

    def link_use(self) -> LinkUse:
        """Return what every link has carried until now."""
        return LinkUse(
            np.array([self._carried(link) / BYTE for link in self._links]),
            np.array([self._busy(link) for link in self._links]),
            np.array([link.peak_flows for link in self._links], dtype=np.int64),
        )

    def _carried(self, link: Link[Stream]) -> int:
        """Return the units a link has carried until now."""
        for stream in link.bundles:
            stream.advance(self.env.now)
        return link.carried + sum(stream.moved() for stream in link.bundles)

    def _busy(self, link: Link[Stream]) -> float:
        since_change = self._carried(link) - self._counted[link.number]
        return self._busy_ns[link.number] + (since_change / link.capacity if link.capacity else 0.0)

    # --- what happens at an instant --------------------------------------------------------------------

    def _arm(self, time_ns: int) -> None:
        """Have the alarm go off at ``time_ns`` or earlier."""
        if time_ns < self._alarm_ns:
            self._alarm, self._alarm_ns = _Alarm(self.env, time_ns - self.env.now, self._wake), time_ns

    def _wake(self, alarm: Event) -> None:
        """Let flows end and start, share anew, and only then tell who waits for them."""
        if alarm is not self._alarm:
            return
        self._alarm, self._alarm_ns = None, NEVER
        there = self._end(self.env.now) + self._start(self.env.now)
        if self._changed:
            self._share()
        first = self._ends.first()
        if first is not None:
            self._arm(first.ends_ns)
        if self._starts:
            self._arm(self._starts[0][0])
        for flow in sorted(there, key=attrgetter("number")):
            flow.on_done()

    def _end(self, now_ns: int) -> list[Flow]:
        """Let flows end whose last byte is there now."""
        ended: list[Flow] = []
        while (stream := self._ends.first()) is not None and stream.ends_ns <= now_ns:
            stream.advance(now_ns)
            ended += stream.pop_ended()
            self._changed[stream] = None
        for flow in ended:
            self._finish(flow)
        return ended

    def _start(self, now_ns: int) -> list[Flow]:
        """Let flows start whose latency is over now, and return those that are there at once."""
        there, starts = [], self._starts
        while starts and starts[0][0] <= now_ns:
            flow = heappop(starts)[2]
            if flow.dropped:
                continue
            stream = flow.stream
            if flow.size_bytes and stream.key != _NOWHERE:
                stream.advance(now_ns)
                stream.add(flow)
                self._changed[stream] = None
            else:
                self._finish(flow)
                there.append(flow)
        return there

    def _finish(self, flow: Flow) -> None:
        flow.finished_ns = self.env.now
        self.flows_finished += 1
        self.bytes_received += flow.size_bytes
        moving_ns = flow.finished_ns - flow.sent_ns - flow.latency_ns
        if flow.began is not None:
            self.queueing_ns += moving_ns + -units(flow.size_bytes) // flow.alone

    def _share(self) -> None:
        """Set the rates that what has changed can reach."""
        filling = Filling(self._links, self._changed)
        filling.fill()
        now_ns = self.env.now
        for stream in filling.bundles:
            stream.advance(now_ns)
        filling.settle()
        for stream in filling.bundles:
            stream.foresee()
            self._ends.book(stream)
        self._changed.clear()
        self._ends.tidy()
        self.sharings += 1
        self.rates_set += len(filling.bundles)

    def _stream(self, key: Key) -> Stream:
        """Return the stream of a path and cap."""
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) == _MOST_KNOWN:
                # Flows know their streams, and two streams with one key do no harm.
                self._streams.clear()
            stream = self._streams[key] = Stream(key, self._path(key), self.env.now)
        return stream

    def _path(self, key: Key) -> tuple[Link[Stream], ...]:
        (path, cap), most = key, len(self._links)
        if not cap > 0 or len(set(path)) < len(path) or not all(0 <= link < most for link in path):
            raise LawError(
                f"a flow was sent over links {path} with a cap of {cap} bytes/s; expected links below {most}, none "
                "twice, and a cap above 0"
            )
        return tuple(self._links[link] for link in path)


def _capacity(link: int, bytes_per_s: float) -> int:
    if not (isfinite(bytes_per_s) and bytes_per_s >= 0):
        raise ScenarioError(
            f"link {link} has a capacity of {bytes_per_s} bytes/s; expected a finite number, at least 0"
        )
    return rate_of(bytes_per_s)
