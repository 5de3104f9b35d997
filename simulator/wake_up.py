"""The wake-up call of an engine loop, which what happens meanwhile may move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simpy.events import URGENT

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from simpy.events import Event

    from simulator.clock import Clock

__all__ = ["WakeUp"]


class WakeUp:
    """The event that one engine loop waits for: the loop says until when, yields, and goes on then.

    Attributes
    ----------
    asleep
        It waits for something to happen, not for a time.
    """

    __slots__ = ("_call", "_env", "_event", "_go_on", "asleep")

    def __init__(self, env: Clock) -> None:
        self._env, self._call = env, env.call
        self._event: Event | None = None
        self._go_on: Callable[[Event], object] = _never
        self.asleep = False

    def drive(self, loop: Generator[None, Event, None]) -> None:
        """Let a loop begin now, before all else of this instant, and go on whenever it is woken."""
        self._go_on = loop.send
        self._call(0, lambda _: next(loop), URGENT)

    def after(self, duration_ns: int) -> None:
        """Let the loop go on once a step is over."""
        self._event = self._call(duration_ns, self._go_on)

    def when_rung(self) -> None:
        """Let the loop sleep until somebody moves its wake-up call."""
        self.asleep, self._event = True, None

    def move(self, delay_ns: int) -> None:
        """Let the loop wake up so long from now, and not when it would have."""
        if self._event is not None:
            self._event.callbacks = []
        self.asleep = False
        self._event = self._call(delay_ns, self._go_on)

    def silence(self) -> None:
        """Let the loop never wake up again."""
        self._go_on = _never
        if self._event is not None:
            self._event.callbacks = []


def _never(_: Event) -> None:
    """Wake nobody."""
