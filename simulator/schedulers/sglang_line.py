"""The queue in which SGLang's requests wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.schedulers.queue import ArrivalQueue

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.sglang_memory import Memory

__all__ = ["Line"]


class Line(ArrivalQueue):
    """Requests that wait, in the order in which the last step that looked at them left them."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory

    def would_lead(self, request: Request, /) -> bool:
        """Tell whether a request that came now could be admitted before a running one leaves."""
        del request
        return self._memory.shrunk or not self._memory.full

    def append(self, request: Request, /) -> None:
        """Add a request, who is back among the new ones: everybody joins the end."""
        self._memory.enter(request)
        ArrivalQueue.append(self, request)

    appendleft = append

    def reorder(self, requests: list[Request]) -> None:
        """Let the requests wait in another order."""
        self.clear()
        self.extend(requests)
