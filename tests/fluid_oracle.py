"""Flows through shared links, slowly and exactly: fractions, one instant after the other, from the definition.

It shares nothing with ``simulator.transfer``: no streams, no alarms, no rounding, no update of a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Sent:
    """A flow: when it is sent, over which links, how large; and when it is dropped, if it is."""

    sent_ns: int
    links: tuple[int, ...]
    size_bytes: int
    latency_ns: int = 0
    cap_bytes_per_s: float = inf
    dropped_ns: int | None = None

    @property
    def start_ns(self) -> int:
        return self.sent_ns + self.latency_ns


@dataclass(frozen=True)
class Change:
    """From an instant on a link has another capacity."""

    time_ns: int
    link: int
    bytes_per_s: float


def fill(flows: Sequence[Sent], capacity: Sequence[Fraction]) -> list[Fraction]:
    """Progressive filling: all rates, bytes/s, grow at one pace and stop where a link is full or a cap is met."""
    rates = [Fraction(0)] * len(flows)
    growing = list(range(len(flows)))
    while growing:
        rooms = [room - sum(rates[i] for i, flow in enumerate(flows) if link in flow.links)
                 for link, room in enumerate(capacity)]  # fmt: skip
        growers = [sum(link in flows[i].links for i in growing) for link in range(len(capacity))]
        steps = [room / count for room, count in zip(rooms, growers, strict=True) if count]
        steps += [Fraction(flows[i].cap_bytes_per_s) - rates[i] for i in growing if flows[i].cap_bytes_per_s < inf]
        step = min(steps)
        for i in growing:
            rates[i] += step
        full = {link for link, room in enumerate(rooms) if room == step * growers[link]}
        growing = [i for i in growing if full.isdisjoint(flows[i].links) and rates[i] < flows[i].cap_bytes_per_s]
    return rates


def finish_times(sent: Sequence[Sent], capacity: Sequence[float], changes: Sequence[Change] = ()) -> list[int | None]:
    """Return the first nanosecond by which all bytes of each flow have gone; None if that never comes."""
    room = [Fraction(value) for value in capacity]
    left = [Fraction(flow.size_bytes) for flow in sent]
    ends: list[int | None] = [None] * len(sent)
    gone = [False] * len(sent)
    now = 0
    while True:
        for change in changes:
            if change.time_ns == now:
                room[change.link] = Fraction(change.bytes_per_s)
        for i, flow in enumerate(sent):
            nothing_to_do = left[i] <= 0 or (not flow.links and flow.cap_bytes_per_s == inf)
            if flow.start_ns <= now and not gone[i] and nothing_to_do:
                ends[i], gone[i] = now, True
            gone[i] = gone[i] or flow.dropped_ns == now
        active = [i for i, flow in enumerate(sent) if flow.start_ns <= now and not gone[i]]
        rates = [rate / 10**9 for rate in fill([sent[i] for i in active], room)]
        coming = [flow.start_ns for flow in sent] + [change.time_ns for change in changes]
        coming += [flow.dropped_ns for flow in sent if flow.dropped_ns is not None]
        coming += [now + ceil(left[i] / rate) for i, rate in zip(active, rates, strict=True) if rate]
        later = [time for time in coming if time > now]
        if not later:
            return ends
        for i, rate in zip(active, rates, strict=True):
            left[i] -= rate * (min(later) - now)
        now = min(later)
