"""What a router sees of an instance, whatever runs of steps are under way there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.engine_core import EngineCore
    from simulator.request import Request
    from simulator.server import Server

__all__ = ["Lookout"]


class Lookout:
    """A :class:`simulator.affinity.Holder`: the blocks of an instance as they are now.

    Steps advanced in one event take their blocks at its end; those that have begun take them before anybody looks,
    so that a router sees what it would see of single steps.
    """

    def __init__(self, instance: Server) -> None:
        self._instance = instance

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks of a request are on a rank that has the most, and how many of them nobody uses."""
        return max(_find(core, request) for core in self._instance.cores)

    def load(self) -> tuple[int, int, int]:
        """Return tokens that wait to be computed, blocks in use, and tokens of a block."""
        waiting, used, block_tokens = 0, 0, 1
        for core in self._instance.cores:
            more, others, block_tokens = core.load()
            waiting, used = waiting + more, used + others
        return waiting, used, block_tokens


def _find(core: EngineCore, request: Request) -> tuple[int, int]:
    core.state.catch_up(request, core.take_begun())
    return core.state.find(request)
