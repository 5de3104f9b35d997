"""What a router sees of an instance, whatever runs of steps are under way there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.instance import Instance
    from simulator.request import Request

__all__ = ["Lookout"]


class Lookout:
    """A :class:`simulator.affinity.Holder`: the blocks of an instance as they are now.

    Steps advanced in one event take their blocks at its end; those that have begun take them before anybody looks,
    so that a router sees what it would see of single steps.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks of a request are there, and how many of them nobody uses."""
        state, begun = self._instance.state, self._instance.take_begun()
        state.catch_up(request, begun)
        return state.find(request)

    def load(self) -> tuple[int, int, int]:
        """Return tokens that wait to be computed, blocks in use, and tokens of a block."""
        self._instance.take_begun()
        return self._instance.state.load()
