"""What tests of flows are made of: a network that checks itself, and a way to send a list of flows."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from fluid_oracle import Sent
from hypothesis import strategies as st

from simulator.clock import Clock, Urgent
from simulator.fair_share import BYTE
from simulator.transfer import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fluid_oracle import Change

    from simulator.flows import Flow

# Rates are rounded down to units of 2^-128 bytes/ns.
ROUNDING = BYTE >> 90


def any_flow(links: int, caps_bytes_per_s: Sequence[float], least: int = 1, **others: st.SearchStrategy):
    """Flows over ``least`` or more of so many links."""
    return st.builds(
        Sent,
        sent_ns=st.integers(0, 500),
        links=st.lists(st.integers(0, links - 1), min_size=least, max_size=links, unique=True).map(tuple),
        size_bytes=st.integers(1, 5000),
        latency_ns=st.integers(0, 50),
        cap_bytes_per_s=st.sampled_from(caps_bytes_per_s),
        **others,
    )


class Checked(Network):
    """A network that proves its shares max-min fair whenever they are set."""

    def _share(self, now_ns: int) -> None:
        super()._share(now_ns)
        streams = [stream for stream in self._streams.values() if stream.flows]
        for link in self._links:
            on_it = [stream for stream in streams if link in dict(stream.path)]
            assert sum(stream.rate * stream.flows for stream in on_it) <= link.capacity
            assert list(link.bundles) == [stream for stream in link.bundles if stream in on_it]
            assert len(link.bundles) == len(on_it)
            assert sum(stream.flows for stream in on_it) == link.flows
        for stream in streams:
            assert stream.rate == stream.cap or any(is_bottleneck(link, stream) for link, _ in stream.path)


def is_bottleneck(link, stream):
    """Tell whether a link is full and no flow on it is faster."""
    left = link.capacity - sum(other.rate * other.flows for other in link.bundles)
    return left <= ROUNDING and all(other.rate <= stream.rate + ROUNDING for other in link.bundles)


class Run:
    """Flows sent over links, to the end of all that ends."""

    def __init__(
        self,
        sent: Sequence[Sent],
        capacity: Sequence[float],
        changes: Sequence[Change] = (),
        kind: type[Network] = Checked,
    ) -> None:
        self.env = Clock()
        self.network = kind(self.env, np.array(capacity, dtype=float))
        self.finished_ns: list[int | None] = [None] * len(sent)
        self.order: list[int] = []
        self.flows: dict[int, Flow] = {}
        for change in changes:
            self._at(change.time_ns, lambda change=change: self.network.set_capacity(change.link, change.bytes_per_s))
        for i, flow in enumerate(sent):
            self._at(flow.sent_ns, lambda i=i, flow=flow: self._send(i, flow))
        for i, flow in enumerate(sent):
            if flow.dropped_ns is not None:
                self._at(flow.dropped_ns, lambda i=i: self.network.drop(self.flows[i]))
        self.env.run()
        self.events = self.env.calls

    def _at(self, time_ns: int, action: Callable[[], object]) -> None:
        Urgent(self.env, time_ns).callbacks.append(lambda _: action())

    def _send(self, i: int, flow: Sent) -> None:
        def done() -> None:
            assert self.finished_ns[i] is None
            assert self.flows[i].finished_ns == self.env.now
            self.finished_ns[i] = self.env.now
            self.order.append(i)

        self.flows[i] = self.network.send(
            flow.links,
            flow.size_bytes,
            latency_ns=flow.latency_ns,
            cap_bytes_per_s=flow.cap_bytes_per_s,
            on_done=done,
        )


def closed_loop(paths, flows, at_once, rng, kind=Network, capacity=None):
    """Keep so many flows under way over paths taken at random, until as many as asked for have been sent."""
    env = Clock()
    network = kind(env, capacity)
    chosen, sizes = rng.integers(0, len(paths), flows).tolist(), rng.lognormal(19, 0.6, flows).astype(int).tolist()
    numbers = count()

    def send() -> None:
        number = next(numbers)
        if number < flows:
            path = paths[chosen[number]]
            network.send(path.links, sizes[number], latency_ns=path.latency_ns + 50_000, on_done=send)

    for _ in range(at_once):
        send()
    env.run()
    return network, env.calls
