"""The way from host memory to the chips of one instance: one copy after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.clock import soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.clock import Clock
    from simulator.request import Request

__all__ = ["HostLink"]


class HostLink:
    """A queue of copies, each as long as its blocks take.

    Parameters
    ----------
    env
        The simulation.
    block_ns
        Time of one block.
    """

    __slots__ = ("_block_ns", "_env", "_free_ns")

    def __init__(self, env: Clock, block_ns: float) -> None:
        self._env, self._block_ns = env, block_ns
        self._free_ns = 0

    def copy(self, request: Request, blocks: int, then: Callable[[Request], None]) -> None:
        """Copy the blocks of a request once those before it are done, and then say so."""
        start_ns = max(self._env.now, self._free_ns)
        self._free_ns = start_ns + max(1, round(blocks * self._block_ns))
        soon(self._env, self._free_ns - self._env.now, lambda: then(request))
