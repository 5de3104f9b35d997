"""Queues of requests that wait to be admitted."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from simulator.request import Request

__all__ = ["ArrivalQueue", "CountedQueue", "PriorityQueue", "Queue", "TurnQueue"]


class Queue(Protocol):
    """Requests in the order in which they will be admitted."""

    @property
    def tokens(self) -> int:
        """Sum of the requests' tokens."""
        ...

    def would_lead(self, request: Request, /) -> bool:
        """Tell whether a request would be the first one, if it came now."""
        ...

    def append(self, request: Request, /) -> None:
        """Add a request that has come."""
        ...

    def appendleft(self, request: Request, /) -> None:
        """Add a request that is back."""
        ...

    def popleft(self) -> Request:
        """Take the first request out."""
        ...

    def remove(self, request: Request, /) -> None:
        """Take a request out."""
        ...

    def clear(self) -> None:
        """Take all requests out."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...

    def __getitem__(self, place: int, /) -> Request: ...


class ArrivalQueue(deque["Request"]):
    """First come, first served; who is back goes in front."""

    @property
    def tokens(self) -> int:
        """Sum of the requests' tokens."""
        return sum(request.tokens for request in self)

    def would_lead(self, request: Request, /) -> bool:
        """Tell whether a request would be the first one, if it came now."""
        del request
        return not self


class CountedQueue(ArrivalQueue):
    """A queue that knows the sum of its tokens, for those who ask at every arrival."""

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        super().__init__(requests)
        self._tokens = sum(request.tokens for request in self)

    @property
    def tokens(self) -> int:
        """Sum of the requests' tokens."""
        return self._tokens

    def append(self, request: Request, /) -> None:
        """Add a request at the end."""
        self._tokens += request.tokens
        super().append(request)

    def appendleft(self, request: Request, /) -> None:
        """Add a request in front."""
        self._tokens += request.tokens
        super().appendleft(request)

    def popleft(self) -> Request:
        """Take the first request out."""
        request = super().popleft()
        self._tokens -= request.tokens
        return request

    def remove(self, request: Request, /) -> None:
        """Take a request out."""
        super().remove(request)
        self._tokens -= request.tokens

    def clear(self) -> None:
        """Take all requests out."""
        super().clear()
        self._tokens = 0


class PriorityQueue:
    """The lowest ``Request.priority`` first; among equals, the first to have arrived.

    Nobody goes in front of others: who is back takes the place that is due.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Request]] = []

    @property
    def tokens(self) -> int:
        """Sum of the requests' tokens."""
        return sum(request.tokens for *_, request in self._heap)

    def would_lead(self, request: Request, /) -> bool:
        """Tell whether a request would be the first one, if it came now."""
        return not self._heap or (request.priority, request.order) < self._heap[0][:2]

    def append(self, request: Request, /) -> None:
        """Add a request in its place."""
        heappush(self._heap, (request.priority, request.order, request))

    appendleft = append

    def popleft(self) -> Request:
        """Take the first request out."""
        return heappop(self._heap)[-1]

    def remove(self, request: Request, /) -> None:
        """Take a request out."""
        self._heap.remove((request.priority, request.order, request))
        heapify(self._heap)

    def clear(self) -> None:
        """Take all requests out."""
        self._heap.clear()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Request]:
        return (entry[-1] for entry in sorted(self._heap))

    def __getitem__(self, place: int, /) -> Request:
        return (sorted(self._heap) if place else self._heap)[place][-1]


class TurnQueue:
    """Requests that fetch their KV first, then the others, each in the order they came; who is back keeps its turn.

    Attributes
    ----------
    fetches
        Requests whose KV is on another instance.
    prompts
        The others.
    tokens
        Sum of the requests' tokens.
    """

    def __init__(self) -> None:
        self.fetches: deque[Request] = deque()
        self.prompts: deque[Request] = deque()
        self.tokens = self._turns = 0

    def would_lead(self, request: Request, /) -> bool:
        """Tell whether a request would be the first one of its kind, if it came now."""
        return not self._own(request)

    def append(self, request: Request, /) -> None:
        """Add a request that has come."""
        self._turns += 1
        request.turn = self._turns
        self.tokens += request.tokens
        self._own(request).append(request)

    def appendleft(self, request: Request, /) -> None:
        """Add a request that is back, in its turn."""
        self.tokens += request.tokens
        own = self._own(request)
        place = next((place for place, other in enumerate(own) if other.turn > request.turn), len(own))
        own.insert(place, request)

    def popleft(self) -> Request:
        """Take the first request out."""
        request = (self.fetches or self.prompts).popleft()
        self.tokens -= request.tokens
        return request

    def remove(self, request: Request, /) -> None:
        """Take a request out."""
        own = self._own(request)
        if own[0] is request:
            own.popleft()
        else:
            own.remove(request)
        self.tokens -= request.tokens

    def clear(self) -> None:
        """Take all requests out."""
        self.fetches.clear()
        self.prompts.clear()
        self.tokens = 0

    def _own(self, request: Request) -> deque[Request]:
        return self.fetches if request.remote else self.prompts

    def __len__(self) -> int:
        return len(self.fetches) + len(self.prompts)

    def __iter__(self) -> Iterator[Request]:
        return chain(self.fetches, self.prompts)

    def __getitem__(self, place: int, /) -> Request:
        fetches = len(self.fetches)
        return self.fetches[place] if place < fetches else self.prompts[place - fetches]
