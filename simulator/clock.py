"""The clock of a simulation, and what happens at one instant before anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simpy.core import Environment
from simpy.events import URGENT, Event

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Clock", "Urgent", "soon"]


class Clock(Environment):
    """The simulation, whose time is integer nanoseconds: float seconds would make ties accidental."""

    @property
    def now(self) -> int:
        """Nanoseconds since the run began."""
        return self._now  # type: ignore[return-value]


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
    Urgent(env, delay_ns).callbacks.append(lambda _: action())
