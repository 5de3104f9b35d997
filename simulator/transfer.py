"""Flows of bytes over a topology whose links are shared, max-min fairly.

A flow that is sent waits for its latency, then moves at the rate :mod:`simulator.fair_share` gives it. Rates
change only when a flow starts or ends or a link's capacity changes, so the end of a flow is known as soon as
they are set: the first nanosecond by which all its bytes have gone. Until that nanosecond it keeps its share.

A flow that finds its links idle has no share to find: its end is known when it is sent. Only if another starts
on one of its links before that, or a capacity there changes, does it join the others, from its own start on.

An alarm waits for whatever comes next. It goes off before everything else at its instant, so that whoever else
acts then knows what has arrived by it.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from operator import attrgetter, index
from typing import TYPE_CHECKING, Final, SupportsIndex

import numpy as np

from hardware.errors import LawError, ScenarioError
from simulator.clock import FIRST
from simulator.fair_share import BYTE, Filling, Link, capacity_of
from simulator.flows import Agenda, Flow, Key, Stream
from simulator.link_history import LinkHistory, LinkSeries, units_served
from simulator.link_use import LinkUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from simulator.clock import Clock

__all__ = ["Network"]

_MOST_KNOWN: Final = 10_000


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
            Link(number, capacity_of(number, rate)) for number, rate in enumerate(capacity_bytes_per_s.tolist())
        ]
        for link in self._links:
            if not link.capacity:
                raise ScenarioError(f"link {link.number} has no capacity; expected more than 0 bytes/s")
        # Up to the last change of each link's capacity: integral of its share in use, and units of its time used.
        self._busy_ns, self._counted = [0.0] * len(self._links), [0] * len(self._links)
        self._streams: dict[tuple[tuple[int, ...], float], Stream] = {}
        self._changed: dict[Stream, None] = {}
        self._starts: list[tuple[int, int, Flow]] = []
        self._ends = Agenda()
        self._lone: list[tuple[int, int, Flow]] = []
        self._alarms: list[int] = []
        self._history = LinkHistory()

    def send(  # noqa: PLR0913 - what a flow is, all named
        self,
        links: Sequence[int],
        size_bytes: SupportsIndex,
        *,
        on_done: Callable[[], None],
        latency_ns: SupportsIndex = 0,
        cap_bytes_per_s: float = inf,
        occupancy: float = 1.0,
        stripes: int = 1,
    ) -> Flow:
        """Send bytes along a path.

        Parameters
        ----------
        links
            Link ids; n times one that is passed n times by what the flow stands for; empty between places on one
            chip, where only the cap limits.
        size_bytes
            Whole bytes. No bytes are there after the latency.
        latency_ns
            Set-up and propagation, before the flow takes its share of the links.
        cap_bytes_per_s
            The most this flow can use, as a protocol's efficiency leaves it.
        occupancy
            Bytes a link could pass in the time it spends on one of these, at least 1: messages so small that
            their rate is the limit keep it as busy as larger ones.
        stripes
            Equal paths the bytes are spread over, of which ``links`` is one and stands for all.
        on_done
            Called once, at the nanosecond by which all of it is there, and never before this returns.

        Returns
        -------
        Flow
            What is under way, for :meth:`drop`.

        Raises
        ------
        LawError
            A size, latency or cap is negative, or a link is unknown: a bug of the caller.
        """
        now_ns, size, delay_ns = self.env.now, index(size_bytes), index(latency_ns)
        if size < 0 or delay_ns < 0:
            raise LawError(f"{size} bytes were sent with a latency of {delay_ns} ns; expected nothing negative")
        if stripes < 1 or not 1 <= occupancy < inf:
            raise LawError(f"bytes were sent in {stripes} stripes with an occupancy of {occupancy}; expected 1 or more")
        path = tuple(links)
        stream = self._streams.get((path, cap_bytes_per_s))
        if stream is None:
            stream = self._stream(path, float(cap_bytes_per_s))
        number = self.flows_sent
        flow = Flow(number, stream, size, stripes, occupancy, now_ns, delay_ns, on_done)
        self.flows_sent = number + 1
        self.bytes_sent += size
        self._book(flow, now_ns + delay_ns)
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
        self._history.catch_up(self.env.now)
        if flow.lone:
            self._join(flow)
        flow.dropped = True
        self.flows_dropped += 1
        self.bytes_dropped += flow.size_bytes
        if flow.began >= 0:
            flow.stream.advance(self.env.now)
            flow.stream.remove(flow)
            self._changed[flow.stream] = None
            self._arm(self.env.now)
        return True

    def uncap(self, flow: Flow) -> None:
        """Let a flow that is under way use whatever it can get from now on."""
        if flow.dropped or flow.finished_ns >= 0 or flow.stream.cap is None or not flow.stream.path:
            return
        old, now_ns = flow.stream, self.env.now
        self._history.catch_up(now_ns)
        if flow.lone:
            self._join(flow)
        free = self._streams.get((old.key.path, inf)) or self._stream(old.key.path, inf)
        if flow.began < 0:
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
        changed, capacity = self._links[link], capacity_of(link, bytes_per_s)
        self._history.catch_up(self.env.now)
        if changed.lone is not None:
            self._join(changed.lone)
        self._busy_ns[link] = self._busy(changed)
        self._counted[link] = units_served(changed, self.env.now)[1]
        self._history.note_capacity(changed, self._counted[link])
        changed.capacity = capacity
        for stream in self._streams.values():
            stream.find_lone_rate()
        self._changed |= changed.bundles
        self._arm(self.env.now)

    def link_use(self) -> LinkUse:
        """Return what every link has carried until now."""
        now_ns = self.env.now
        return LinkUse(
            np.array([units_served(link, now_ns)[0] / BYTE for link in self._links]),
            np.array([self._busy(link) for link in self._links]),
            np.array([self._peak_flows(link) for link in self._links], dtype=np.int64),
        )

    def link_series(self) -> LinkSeries:
        """Return what every link that was used had carried by regular instants, and until now."""
        return self._history.series(self.env.now)

    def _peak_flows(self, link: Link[Stream]) -> int:
        lone = link.lone
        if lone is None or lone.sent_ns + lone.latency_ns >= self.env.now:
            return link.peak_flows
        return max(link.peak_flows, int(dict(lone.stream.path)[link]))

    def _busy(self, link: Link[Stream]) -> float:
        since_change = units_served(link, self.env.now)[1] - self._counted[link.number]
        return self._busy_ns[link.number] + (since_change / link.capacity if link.capacity else 0.0)

    # --- what happens at an instant --------------------------------------------------------------------

    def _book(self, flow: Flow, starts_ns: int) -> None:
        """Let a flow start then; if its links are idle, let it have them, and end at the time that gives."""
        stream = flow.stream
        moving_ns = stream.lone_ns(flow)
        if moving_ns < 0:
            heappush(self._starts, (starts_ns, flow.number, flow))
            self._arm(starts_ns)
        else:
            flow.lone = True
            stream.take_links(flow)
            heappush(self._lone, (starts_ns + moving_ns, flow.number, flow))
            self._arm(starts_ns + moving_ns)

    def _arm(self, time_ns: int) -> None:
        """Have an alarm go off at ``time_ns`` or earlier."""
        alarms = self._alarms
        if not alarms or time_ns < alarms[0]:
            heappush(alarms, time_ns)
            self.env.call(time_ns - self.env.now, self._wake, FIRST)

    def _wake(self, _: object) -> None:
        """Let flows end and start, share anew, and only then tell who waits for them."""
        heappop(self._alarms)
        now_ns, lone, ends, starts = self.env.now, self._lone, self._ends, self._starts
        self._history.catch_up(now_ns)
        there: list[Flow] = []
        if lone:
            self._end_lone(now_ns, there)
        first = ends.first()
        if first is not None and first.ends_ns <= now_ns:
            self._end(now_ns, there)
        if starts and starts[0][0] <= now_ns:
            self._start(now_ns, there)
        if self._changed:
            self._share(now_ns)
            first = ends.first()
        if first is not None:
            self._arm(first.ends_ns)
        if starts:
            self._arm(starts[0][0])
        if lone:
            self._arm(lone[0][0])
        if len(there) > 1:
            there.sort(key=attrgetter("number"))
        for flow in there:
            flow.on_done()

    def _end_lone(self, now_ns: int, there: list[Flow]) -> None:
        """Let lone flows end whose last byte is there now, and forget those that have joined others."""
        lone = self._lone
        while lone and (lone[0][0] <= now_ns or not lone[0][2].lone):
            flow = heappop(lone)[2]
            if flow.lone:
                flow.lone = False
                flow.stream.end_lone(flow)
                self._finish(flow, now_ns)
                there.append(flow)

    def _join(self, flow: Flow) -> None:
        """Let a lone flow share its links from now on; until now it has had them to itself."""
        stream, start_ns = flow.stream, flow.sent_ns + flow.latency_ns
        flow.lone = False
        stream.take_links(None)
        if start_ns > self.env.now:
            heappush(self._starts, (start_ns, flow.number, flow))
            self._arm(start_ns)
            return
        stream.advance(start_ns)
        stream.add(flow)
        if stream.settle_alone():
            stream.foresee()
            self._ends.book(stream)
            self._arm(stream.ends_ns)
        else:
            self._changed[stream] = None
            self._arm(self.env.now)

    def _end(self, now_ns: int, there: list[Flow]) -> None:
        """Let flows end whose last byte is there now."""
        ends = self._ends
        while (stream := ends.first()) is not None and stream.ends_ns <= now_ns:
            stream.advance(now_ns)
            for flow in stream.pop_ended():
                self._finish(flow, now_ns)
                there.append(flow)
            self._changed[stream] = None

    def _start(self, now_ns: int, there: list[Flow]) -> None:
        """Let flows start whose latency is over now; some are there at once."""
        starts = self._starts
        while starts and starts[0][0] <= now_ns:
            flow = heappop(starts)[2]
            if flow.dropped:
                continue
            stream = flow.stream
            if flow.size_bytes and (stream.path or stream.cap is not None):
                for link, _ in stream.path:
                    if link.lone is not None:
                        self._join(link.lone)
                stream.advance(now_ns)
                stream.add(flow)
                self._changed[stream] = None
            else:
                self._finish(flow, now_ns)
                there.append(flow)

    def _finish(self, flow: Flow, now_ns: int) -> None:
        flow.finished_ns = now_ns
        self.flows_finished += 1
        self.bytes_received += flow.size_bytes
        if flow.began >= 0:
            self.queueing_ns += now_ns - flow.sent_ns - flow.latency_ns - flow.alone_ns

    def _share(self, now_ns: int) -> None:
        """Set the rates that what has changed can reach."""
        shared = []
        for stream in self._changed:
            stream.advance(now_ns)
            if stream.settle_alone():
                stream.foresee()
                self._ends.book(stream)
            else:
                shared.append(stream)
        self.rates_set += len(self._changed) - len(shared)
        if shared:
            self._share_among(shared, now_ns)
        self._changed.clear()
        self._ends.tidy()
        self.sharings += 1

    def _share_among(self, changed: list[Stream], now_ns: int) -> None:
        """Set the rates of streams that others may meet on their links, and of those others."""
        filling = Filling(self._links, changed)
        filling.fill()
        for stream in filling.bundles:
            stream.advance(now_ns)
        filling.settle()
        for stream in filling.bundles:
            stream.foresee()
            self._ends.book(stream)
        self.rates_set += len(filling.bundles)

    def _stream(self, path: tuple[int, ...], cap_bytes_per_s: float) -> Stream:
        """Make the stream of a path and cap."""
        if len(self._streams) == _MOST_KNOWN:
            # Flows know their streams, and two streams with one key do no harm.
            self._streams.clear()
        key = Key(path, cap_bytes_per_s)
        stream = self._streams[key] = Stream(key, self._path(key), self.env.now)
        self._history.watch(link for link, _ in stream.path)
        return stream

    def _path(self, key: Key) -> tuple[Link[Stream], ...]:
        (path, cap), most = key, len(self._links)
        if not cap > 0 or not all(0 <= link < most for link in map(index, path)):
            raise LawError(
                f"a flow was sent over links {path} with a cap of {cap} bytes/s; expected links below {most} and a "
                "cap above 0"
            )
        return tuple(self._links[link] for link in map(index, path))
