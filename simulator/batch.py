"""Effects of one instant, in an order of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.clock import soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.clock import Clock

__all__ = ["Batch"]


class Batch:
    """What instances cause at one instant happens a nanosecond later, lowest key first.

    Instances whose steps end together come in an order that macro-steps may change; their effects do not.
    """

    def __init__(self, env: Clock) -> None:
        self._env = env
        self._due: list[tuple[int, Callable[[], None]]] = []

    def add(self, key: int, action: Callable[[], None]) -> None:
        """Do something a nanosecond from now."""
        if not self._due:
            soon(self._env, 1, self._act)
        self._due.append((key, action))

    def _act(self) -> None:
        due, self._due = self._due, []
        for _, action in sorted(due, key=lambda pair: pair[0]):
            action()
