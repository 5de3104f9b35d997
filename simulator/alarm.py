"""The event that goes off before all others of its instant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simpy.events import URGENT, Event, EventPriority

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.clock import Clock

__all__ = ["Alarm"]

_FIRST: Final = EventPriority(URGENT - 1)


class Alarm(Event):
    """An event before all others of its instant."""

    def __init__(self, env: Clock, delay_ns: int, ring: Callable[[Event], None]) -> None:
        self.env = env
        self.callbacks = [ring]
        self._ok = True
        self._value = None
        env.schedule(self, _FIRST, delay_ns)
