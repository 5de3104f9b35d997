"""In which step each decoding request of an engine will have all its tokens: known to the engine, not to its policy."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simulator.request import Request

__all__ = ["Finishes"]

_NEVER: Final = 1 << 60


class Finishes:
    """Requests in the order in which they finish, as long as they decode on.

    Parameters
    ----------
    output_tokens
        Tokens that each request will have produced.

    Attributes
    ----------
    next_step
        No request finishes before the step counter is this.
    """

    __slots__ = ("_heap", "_output_tokens", "next_step")

    def __init__(self, output_tokens: Sequence[int]) -> None:
        self._heap: list[tuple[int, int, int, Request]] = []
        self._output_tokens, self.next_step = output_tokens, _NEVER

    def expect(self, request: Request, step: int, produced: int) -> None:
        """Note that a request which has ``produced`` tokens decodes from step counter ``step`` on."""
        last = step + self._output_tokens[request.index] - produced
        heappush(self._heap, (last, request.index, request.stint, request))
        self.next_step = self._heap[0][0]

    def steps_left(self, step: int, most: int) -> int:
        """Return the steps from step counter ``step`` until the first request finishes, ``most`` of them at most."""
        heap = self._heap
        while heap:
            last, _, stint, request = heap[0]
            if request.stint == stint:
                self.next_step = last
                return min(most, last - step)
            heappop(heap)
        self.next_step = _NEVER
        return most

    def due(self, step: int, running: Iterable[int]) -> Sequence[Request]:
        """Return the requests that have all their tokens at step counter ``step``, in the order of ``running``."""
        heap, found = self._heap, []
        while heap and heap[0][0] <= step:
            _, _, stint, request = heappop(heap)
            if request.stint == stint:
                found.append(request)
        self.next_step = heap[0][0] if heap else _NEVER
        if len(found) > 1:
            places = {index: place for place, index in enumerate(running)}
            found.sort(key=lambda request: places[request.index])
        return found
