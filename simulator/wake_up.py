"""The wake-up call of an engine loop, which what happens meanwhile may move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simpy.events import NORMAL, URGENT, EventPriority

from simulator.clock import call_off

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from simulator.clock import Call, Clock

__all__ = ["WakeUp"]


class WakeUp:
    """What one loop waits for: it says until when, yields, and goes on then. It never returns.

    Parameters
    ----------
    env
        The simulation.
    priority
        Among what happens at one instant.

    Attributes
    ----------
    asleep
        It waits for something to happen, not for a time.
    """

    __slots__ = ("_call", "_go_on", "_next", "_priority", "asleep")

    def __init__(self, env: Clock, priority: EventPriority = NORMAL) -> None:
        self._call, self._priority = env.call, priority
        self._next: Call | None = None
        self._go_on: Callable[[Any], object] = _never
        self.asleep = False

    def drive(self, loop: Generator[None, Any, None]) -> None:
        """Let a loop begin now, before all else of this instant, and go on whenever it is woken."""
        self._go_on = loop.send
        self._call(0, lambda _: next(loop), URGENT)

    def after(self, duration_ns: int) -> None:
        """Let the loop go on so long from now."""
        self._next = self._call(duration_ns, self._go_on, self._priority)

    def when_rung(self) -> None:
        """Let the loop sleep until somebody moves its wake-up call."""
        self.asleep, self._next = True, None

    def move(self, delay_ns: int) -> None:
        """Let the loop wake up so long from now, and not when it would have."""
        if self._next is not None:
            call_off(self._next)
        self.asleep = False
        self._next = self._call(delay_ns, self._go_on, self._priority)

    def silence(self) -> None:
        """Let the loop never wake up again."""
        self._go_on = _never
        if self._next is not None:
            call_off(self._next)


def _never(_: object) -> None:
    """Wake nobody."""
