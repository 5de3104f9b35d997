"""The clock of a simulation, and what happens at one instant before anything else."""

from __future__ import annotations

from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from simpy.events import NORMAL, URGENT, Event, EventPriority, Process, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from simpy.core import Environment

__all__ = ["FIRST", "Call", "Clock", "Urgent", "call_off", "soon"]

#: Priority of what goes off before all else at its instant.
FIRST: Final = EventPriority(URGENT - 1)


#: What happens at a time that is known before: nanosecond, priority, number, and what is done then, given this.
Call: TypeAlias = list[Any]


def call_off(call: Call) -> None:
    """Let nothing happen."""
    call[3] = _nothing


def _nothing(_: Call) -> None:
    pass


class Clock:
    """The simulation, whose time is integer nanoseconds: float seconds would make ties accidental.

    It is what SimPy's events and processes take for their environment, without being derived from SimPy's own: so its
    time, which everything looks at, is a number in its place where this is compiled.

    Attributes
    ----------
    now
        Nanoseconds since the run began.
    calls
        How often something was asked for.
    """

    __slots__ = ("_active_proc", "_queue", "calls", "now")

    def __init__(self) -> None:
        self.now = self.calls = 0
        self._queue: list[Call] = []
        # SimPy's processes note here which of them runs.
        self._active_proc: Any = None

    def call(self, delay_ns: int, act: Callable[[Any], object], priority: int = NORMAL) -> Call:
        """Do something so long from now: what SimPy's timeouts do for more than twice the time."""
        call = [self.now + delay_ns, priority, self.calls, act]
        self.calls += 1
        heappush(self._queue, call)
        return call

    @property
    def active_process(self) -> Any:  # noqa: ANN401 - a process of SimPy
        """The process that runs now, if one does."""
        return self._active_proc

    def event(self) -> Event:
        """Return an event that somebody will let happen."""
        return Event(self.environment())

    def timeout(self, delay_ns: int, value: object = None) -> Timeout:
        """Return an event that happens so long from now."""
        return Timeout(self.environment(), delay_ns, value)

    def process(self, generator: Generator[Event, Any, Any]) -> Process:
        """Let a process of SimPy run."""
        return Process(self.environment(), generator)

    def environment(self) -> Environment:
        """Return the clock as SimPy's events see it."""
        return cast("Environment", self)

    def is_over(self) -> bool:
        """Tell whether nothing is left to happen."""
        return not self._queue

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        """Put an event of SimPy on the agenda, ``delay`` whole nanoseconds from now; raise what made it fail."""
        if not event._ok:  # noqa: SLF001 - SimPy keeps it nowhere public
            raise event._value  # noqa: SLF001 - the same
        self.call(int(delay), partial(_handle, event), priority)

    def run(self, until: float | Event | None = None) -> None:
        """Let everything happen up to an event, to the beginning of a nanosecond, or until nothing is left.

        Raises
        ------
        RuntimeError
            Nothing is left to happen before ``until``.
        """
        done: list[Event] = []
        if until is not None:
            end = until if isinstance(until, Event) else Urgent(self, int(until) - self.now)
            end.callbacks.append(done.append)
        queue = self._queue
        while queue and not done:
            call = heappop(queue)
            self.now = call[0]
            call[3](call)
        if until is not None and not done:
            raise RuntimeError("nothing is left to happen")


def _handle(event: Event, _: Call) -> None:
    """Let an event of SimPy happen."""
    callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
    for callback in callbacks:
        callback(event)


class Urgent(Event):
    """An event before all engine events of its instant: a plan sees what has happened by its time."""

    def __init__(self, env: Clock, delay_ns: int) -> None:
        super().__init__(env.environment())
        self._ok = True
        self._value = None
        env.schedule(self, URGENT, delay_ns)


def soon(env: Clock, delay_ns: int, action: Callable[[], None]) -> None:
    """Do something at least a nanosecond from now, before the engines of that instant.

    An effect is never at the instant of its cause, so that no order of events at one instant, which
    macro-steps may change, decides anything (``docs/decisions/002-order-of-events.md``).
    """
    env.call(delay_ns, lambda _: action(), URGENT)
