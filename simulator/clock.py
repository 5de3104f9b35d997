"""The clock of a simulation, and what happens at one instant before anything else."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from simpy.core import Environment
from simpy.events import NORMAL, URGENT, Event, EventPriority

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FIRST", "Call", "Clock", "Urgent", "soon"]

#: Priority of what goes off before all else at its instant.
FIRST: Final = EventPriority(URGENT - 1)


class Call:
    """What an event of SimPy is that nobody fails or gives a value: whom to call at its time.

    Attributes
    ----------
    callbacks
        Those to call; None once its time has come.
    """

    __slots__ = ("callbacks",)

    def __init__(self, callback: Callable[[Any], object]) -> None:
        self.callbacks: list[Callable[[Any], object]] | None = [callback]


class Clock(Environment):
    """The simulation, whose time is integer nanoseconds: float seconds would make ties accidental.

    Attributes
    ----------
    now
        Nanoseconds since the run began.
    """

    __slots__ = ("now",)
    now: int

    def __init__(self) -> None:
        super().__init__()
        self.now = 0

    def call(self, delay_ns: int, callback: Callable[[Any], object], priority: EventPriority = NORMAL) -> Call:
        """Call somebody so long from now."""
        event = Call(callback)
        heappush(self._queue, (self.now + delay_ns, priority, next(self._eid), event))  # type: ignore[misc]
        return event

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        """Put an event of SimPy on the agenda, ``delay`` whole nanoseconds from now; raise what made it fail."""
        if not event._ok:  # noqa: SLF001 - SimPy keeps it nowhere public
            raise event._value  # noqa: SLF001 - the same
        heappush(self._queue, (self.now + delay, priority, next(self._eid), event))

    def run(self, until: float | Event | None = None) -> None:
        """Let everything happen up to an event, to the beginning of a nanosecond, or until nothing is left.

        Raises
        ------
        RuntimeError
            Nothing is left to happen before ``until``.
        """
        end = until if isinstance(until, Event) or until is None else Urgent(self, int(until) - self.now)
        queue = self._queue
        while queue and (end is None or end.callbacks is not None):
            self.now, _, _, event = heappop(queue)  # type: ignore[assignment]
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
        if end is not None and end.callbacks is not None:
            raise RuntimeError("nothing is left to happen")


class Urgent(Event):
    """An event before all engine events of its instant: a plan sees what has happened by its time."""

    def __init__(self, env: Clock, delay_ns: int) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, URGENT, delay_ns)


def soon(env: Clock, delay_ns: int, action: Callable[[], None]) -> None:
    """Do something at least a nanosecond from now, before the engines of that instant.

    An effect is never at the instant of its cause, so that no order of events at one instant, which
    macro-steps may change, decides anything (``docs/decisions/002-order-of-events.md``).
    """
    env.call(delay_ns, lambda _: action(), URGENT)
