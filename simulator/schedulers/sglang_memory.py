"""What SGLang's policy remembers from step to step, and the queue its requests wait in."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from simulator.schedulers.queue import ArrivalQueue
from simulator.schedulers.reserve import CLIP_TOKENS, NewTokenRatio, Reserve

if TYPE_CHECKING:
    from simulator.radix_cache import RadixCache
    from simulator.radix_node import Node
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["Line", "Memory", "Seat"]


@dataclass(slots=True)
class Seat:
    """A request as the policy knows it, from its coming to its end.

    Attributes
    ----------
    request
        The request.
    prompt
        Length of its prompt as it came.
    limit
        The most tokens it may have in the end.
    entered
        When it last joined the queue, as a number that grows.
    processed
        Prompt tokens computed by then.
    place
        Its place among the running requests: lower is further in front.
    matched, node
        What the last look at the tree found.
    """

    request: Request
    prompt: int
    limit: int
    entered: int = 0
    processed: int = 0
    place: int = 0
    matched: int = 0
    node: Node | None = None


class Line(ArrivalQueue):
    """Requests that wait, in the order in which the last step that looked at them left them.

    Attributes
    ----------
    closed
        Whoever joins changes nothing before a running request leaves (``batch_is_full``).
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.closed = False
        self._memory = memory

    def would_lead(self, request: Request, /) -> bool:
        """Tell whether a request that came now could be admitted before a running one leaves."""
        del request
        return not self.closed

    def append(self, request: Request, /) -> None:
        """Add a request, who is back among the new ones: everybody joins the end."""
        self._memory.enter(request)
        super().append(request)

    appendleft = append


@dataclass(slots=True)
class Memory:
    """The policy's memory of one instance.

    Attributes
    ----------
    ratio, reserve
        What is kept free for answers.
    room
        Tokens of the whole cache.
    most
        The most tokens of a request.
    page
        Tokens of a page.
    full
        Nobody is admitted before a running request leaves (``batch_is_full``).
    shrunk
        One has left since the last step was planned.
    chunked
        The request whose prompt is partly computed.
    batch, kind
        Whose prompts the step computes that was planned last, and what it is: decode, prefill, mixed or nothing.
    last, last_kind
        The same for the step before, until what it brought is known.
    fresh
        Requests whose prompts were completed by the step before, by index.
    spare
        Requests that decode once more although they have all their tokens.
    deferred_until
        Step counter before which no prompt is computed.
    looks, processed, entries
        Times the queue was looked at; prompt tokens computed; times a request joined the queue.
    first_place, last_place
        The outermost places given away.
    """

    ratio: NewTokenRatio
    room: int
    most: int
    page: int
    reserve: Reserve = field(default_factory=Reserve)
    seats: dict[int, Seat] = field(default_factory=dict)
    full: bool = False
    shrunk: bool = False
    chunked: Request | None = None
    batch: list[Request] = field(default_factory=list)
    kind: str = ""
    last: list[Request] = field(default_factory=list)
    last_kind: str = ""
    fresh: dict[int, Request] = field(default_factory=dict)
    spare: list[Request] = field(default_factory=list)
    deferred_until: int = 0
    looks: int = 0
    processed: int = 0
    entries: int = 0
    first_place: int = 0
    last_place: int = 0
    random: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - no secret

    # --- requests ------------------------------------------------------------------------------------

    def enter(self, request: Request) -> None:
        """Note that a request joins the queue."""
        seat = self.seats.get(request.index)
        if seat is None or seat.request is not request:
            prompt = request.tokens - request.remote
            answer = min(request.longest, self.most - 1) - prompt
            answer = min(answer, self.room - -(-prompt // self.page) * self.page - self.page - 1)
            seat = self.seats[request.index] = Seat(request, prompt, prompt + max(0, answer))
        self.entries += 1
        seat.entered, seat.processed = self.entries, self.processed

    def join(self, request: Request, step: int, *, in_front: bool = False) -> None:
        """Count a request among the running ones whose first token, or next one after a stop, has come."""
        seat = self.seats[request.index]
        self.reserve.add(request.index, step + seat.limit - request.tokens - 1)
        if in_front:
            seat.place = self.first_place
            self.first_place += 1
        else:
            self.last_place += 1
            seat.place = self.last_place

    def leave(self, request: Request) -> None:
        """Take a request out of the running ones."""
        self.reserve.remove(request.index)

    def finish(self, state: EngineState, request: Request) -> None:
        """Let a request go that has all its tokens; what it computed stays in the tree."""
        index, pool = request.index, state.pool
        del state.ending[index], state.running[index]
        # A row that decoded once more has computed its last token, too.
        computed = request.computed + any(other is request for other in self.spare)
        _radix(pool).checkpoint(request, computed, self.seats[index].prompt)
        request.computed = computed
        _radix(pool).release(request)
        if index in self.reserve:
            self.leave(request)
        del self.seats[index]
        self.shrunk = True

    # --- what a step brought -------------------------------------------------------------------------

    def settle(self, state: EngineState) -> None:
        """Take note of what the step before brought: prompts enter the tree, finished requests go."""
        pool = _radix(state.pool)
        for request in self.last:
            if request.index in state.ending:
                self.finish(state, request)
            elif request.computed == request.tokens and pool.holds(request):
                pool.checkpoint(request, request.tokens, self.seats[request.index].prompt)
        if state.ending:
            for request in sorted(state.ending.values(), key=self._place):
                self.finish(state, request)
        self.last, self.last_kind = [], ""
        self.note_closed(state)

    def note_closed(self, state: EngineState) -> None:
        """Let the queue know whether anybody can be admitted."""
        line = state.waiting
        assert isinstance(line, Line)  # noqa: S101 - given by the policy
        line.closed = self.full and not self.shrunk

    def _place(self, request: Request) -> int:
        return self.seats[request.index].place

    # --- what the policy sees ------------------------------------------------------------------------

    def lag(self, request: Request) -> int:
        """Return the tokens of a running request that the policy does not know of yet: 1 if one is under way."""
        if self.last_kind == "prefill":
            return int(request.index in self.fresh)
        return int(self.last_kind != "")

    def left(self, request: Request, step: int) -> int:
        """Return what a running request may still produce, as the policy knows."""
        return self.reserve.left(request.index, step) + self.lag(request)

    def total_left(self, step: int) -> int:
        """Return the sum over running requests of what each may still produce, none more than is thought likely."""
        if self.last_kind in {"decode", "mixed"}:
            return self.reserve.total(step - 1)
        total = self.reserve.total(step)
        if self.last_kind == "prefill":
            total += sum(self.reserve.left(index, step) < CLIP_TOKENS for index in self.fresh if index in self.reserve)
        return total

    def in_order(self, requests: list[Request]) -> list[Request]:
        """Return requests in the order of the running batch."""
        return sorted(requests, key=self._place)

    def reorder(self, requests: list[Request]) -> None:
        """Let the running requests have the order given."""
        self.first_place = self.last_place = 0
        for request in requests:
            self.last_place += 1
            self.seats[request.index].place = self.last_place


def _radix(pool: object) -> RadixCache:
    return pool  # type: ignore[return-value]
