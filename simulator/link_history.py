"""What links carried over time: cumulative amounts at regular instants, in memory that a long run does not grow.

Rates are constant from one wake-up of the network to the next, so what a link had carried at an instant in between is
known exactly at the later one. A history therefore adds no event and moves none: whenever something is about to
change, it first takes the samples that have come due since the last time. When it is full, every other sample is
dropped and the interval doubles, so a run of any length costs a few thousand samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - looked up where this is compiled

from simulator.fair_share import BYTE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulator.channels import Channels
    from simulator.fair_share import Link
    from simulator.flows import Stream

__all__ = ["LinkHistory", "LinkSeries", "units_served"]

_FIRST_NS: Final = 20_000_000
_MOST: Final = 512


@dataclass(frozen=True, slots=True)
class LinkSeries:
    """What the links that were used had carried at some instants.

    Attributes
    ----------
    links
        Their numbers, int64 of shape (links,), rising.
    times_ns
        Instants, int64 of shape (samples,), rising from 0 to the end; regular but for the last.
    carried_bytes
        Bytes since the beginning, shape (samples, links).
    busy_ns
        Integral of used over available capacity, ns, shape (samples, links); a link without capacity is idle.
    """

    links: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    carried_bytes: NDArray[np.float64]
    busy_ns: NDArray[np.float64]

    def of_links(self, channels: Channels) -> LinkSeries:
        """Return what each link had carried, where this is what each channel had."""
        position = np.full(len(channels.capacity_bytes_per_s), -1)
        position[self.links] = np.arange(len(self.links))
        links = np.flatnonzero(channels.of_link >= 0)
        columns = position[channels.of_link[links]]
        links, columns = links[columns >= 0], columns[columns >= 0]
        busy_ns = self.busy_ns[:, columns] * channels.slack[links]
        return LinkSeries(links, self.times_ns, self.carried_bytes[:, columns], busy_ns)


class LinkHistory:
    """Samples of links while a simulation goes on.

    Parameters
    ----------
    interval_ns
        First distance of two samples; it doubles whenever there are too many.
    most
        Most samples kept, an even number.

    Attributes
    ----------
    due_ns
        The next instant to be sampled.
    """

    __slots__ = ("_changes", "_interval_ns", "_links", "_most", "_rows", "due_ns")

    def __init__(self, interval_ns: int = _FIRST_NS, most: int = _MOST) -> None:
        self.due_ns = self._interval_ns = interval_ns
        self._most = most
        # Links in the order of their first use: a row of a time when fewer were in use is shorter.
        self._links: dict[Link[Stream], None] = {}
        self._rows: list[list[tuple[int, int]]] = []
        self._changes: dict[Link[Stream], list[tuple[int, int]]] = {}

    def watch(self, links: Iterable[Link[Stream]]) -> None:
        """Sample these links too from now on; they have carried nothing yet, or are sampled already."""
        self._links.update(dict.fromkeys(links))

    def catch_up(self, now_ns: int) -> None:
        """Take the samples due before ``now_ns``; what happens at that instant must not have happened yet."""
        while self.due_ns < now_ns:
            self._rows.append(self._row(self.due_ns))
            if len(self._rows) == self._most:
                del self._rows[::2]
                self._interval_ns *= 2
            self.due_ns = (len(self._rows) + 1) * self._interval_ns

    def note_capacity(self, link: Link[Stream], occupied: int) -> None:
        """Remember the capacity that a link has up to now, when so many units of its time were taken."""
        self._changes.setdefault(link, []).append((occupied, link.capacity))

    def series(self, now_ns: int) -> LinkSeries:
        """Return every sample kept, and one of now."""
        self.catch_up(now_ns)
        rows = [[], *self._rows, *([self._row(now_ns)] if now_ns else [])]
        times_ns = self._interval_ns * np.arange(len(rows))
        times_ns[-1] = now_ns
        carried, occupied = (np.zeros((len(rows), len(self._links))) for _ in range(2))
        for number, row in enumerate(rows):
            carried[number, : len(row)] = [units / BYTE for units, _ in row]
            occupied[number, : len(row)] = [units / BYTE for _, units in row]
        busy_ns = occupied / np.array([(link.capacity or BYTE) / BYTE for link in self._links])
        for position, link in enumerate(self._links):
            if link in self._changes:
                busy_ns[:, position] = self._busy_ns(link, occupied[:, position])
        numbers = np.array([link.number for link in self._links], dtype=np.int64)
        order = np.argsort(numbers)
        return LinkSeries(numbers[order], times_ns, carried[:, order], busy_ns[:, order])

    def _row(self, time_ns: int) -> list[tuple[int, int]]:
        """Return the units that every link has carried by an instant, and those of its time that took."""
        moved: dict[Stream, tuple[int, int]] = {}
        return [_served(link, moved, time_ns) for link in self._links]

    def _busy_ns(self, link: Link[Stream], occupied_bytes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the time for which the amounts carried keep a link busy, each at the capacity of its time."""
        stretches = (*self._changes[link], (-1, link.capacity))
        begins = [0.0, *(units / BYTE for units, _ in stretches[:-1]), np.inf]
        busy = np.zeros(len(occupied_bytes))
        for (begin, end), (_, capacity) in zip(pairwise(begins), stretches, strict=True):
            if capacity:
                busy += (np.clip(occupied_bytes, begin, end) - begin) / (capacity / BYTE)
        return busy


def units_served(link: Link[Stream], time_ns: int) -> tuple[int, int]:
    """Return the units a link has carried by an instant, and those of its time that took.

    The instant is no earlier than the last change on the link and no later than the next.
    """
    return _served(link, {}, time_ns)


def _served(link: Link[Stream], moved: dict[Stream, tuple[int, int]], time_ns: int) -> tuple[int, int]:
    """As :func:`units_served`, for many links: each stream is looked at once."""
    carried, occupied = link.carried, link.occupied
    if link.lone is not None:
        stream = link.lone.stream
        times, part = dict(stream.path)[link], stream.lone_moved(link.lone, time_ns)
        carried, occupied = carried + part[0] * times, occupied + part[1] * times
    for stream in link.bundles:
        if stream not in moved:
            moved[stream] = stream.moved(time_ns)
        times, part = dict(stream.path)[link], moved[stream]
        carried, occupied = carried + part[0] * times, occupied + part[1] * times
    return carried, occupied
