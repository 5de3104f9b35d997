"""The wake-up call of an engine loop, which what happens meanwhile may move."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpy.events import Event

    from simulator.clock import Clock

__all__ = ["WakeUp"]


class WakeUp:
    """The event that one engine loop waits for.

    Attributes
    ----------
    asleep
        It waits for something to happen, not for a time.
    """

    def __init__(self, env: Clock) -> None:
        self._env = env
        self._event: Event | None = None
        self.asleep = False

    def after(self, duration_ns: int) -> Event:
        """Return the event to wait for while a step runs."""
        self._event = event = self._env.timeout(duration_ns)
        return event

    def when_rung(self) -> Event:
        """Return the event to wait for while there is nothing to do."""
        self.asleep = True
        self._event = event = self._env.event()
        return event

    def move(self, delay_ns: int) -> None:
        """Let the loop wake up so long from now, and not when it would have."""
        moved, old = self._env.timeout(delay_ns), self._event
        if old is not None and old.callbacks is not None:
            moved.callbacks, old.callbacks = old.callbacks, []
        self._event = moved
        self.asleep = False

    def silence(self) -> None:
        """Let the loop never wake up again."""
        if self._event is not None and self._event.callbacks is not None:
            self._event.callbacks = []
