"""What SGLang's policy remembers from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from simulator.radix_cache import RadixCache  # noqa: TC001 - looked up where this is compiled
from simulator.radix_node import Node  # noqa: TC001 - the same
from simulator.request import Request  # noqa: TC001 - the same
from simulator.schedulers.reserve import CLIP_TOKENS, NewTokenRatio, Reserve

if TYPE_CHECKING:
    from simulator.schedulers.sglang_reception import Reception
    from simulator.schedulers.state import EngineState

__all__ = ["Memory", "Seat"]


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
        What the last look at the tree found, to sort the queue.
    found
        Tokens found when it was last looked up for any reason.
    offered
        Its tokens when it was last offered; 0 if it never was.
    """

    request: Request
    prompt: int
    limit: int
    entered: int = 0
    processed: int = 0
    place: int = 0
    matched: int = 0
    node: Node | None = None
    found: int = 0
    offered: int = 0


@dataclass(slots=True)
class Memory:
    """The policy's memory of one instance.

    Attributes
    ----------
    pool
        Pages of the instance.
    ratio, reserve
        What is kept free for answers.
    room
        Tokens of the whole cache.
    most
        The most tokens of a request.
    answers
        Requests decode here; else they are known to leave with their first token.
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
    arrived
        Requests whose KV is here and that decode from the step on that is planned, by index.
    spare
        Requests that decode once more although they have all their tokens.
    deferred_until
        Step counter before which no prompt is computed.
    widest
        The most tokens that a request was ever thought to need, of an instance that only decodes.
    reception
        Of an instance that only decodes.
    looks, processed, entries
        Times the queue was looked at; prompt tokens computed; times a request joined the queue.
    first_place, last_place
        The first place given away, and the first behind all.
    """

    pool: RadixCache
    ratio: NewTokenRatio
    room: int
    most: int
    answers: bool = True
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
    arrived: dict[int, Request] = field(default_factory=dict)
    spare: list[Request] = field(default_factory=list)
    deferred_until: int = 0
    widest: int = 0
    reception: Reception | None = None
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
            prompt, page = request.tokens - request.remote, self.pool.block_tokens
            answer = min(request.longest, self.most - 1) - prompt
            answer = min(answer, self.room - -(-prompt // page) * page - page - 1) if self.answers else 1
            if self.reception is not None:
                self.widest = max(self.widest, prompt + min(answer, CLIP_TOKENS))
            seat = self.seats[request.index] = Seat(request, prompt, prompt + max(0, answer))
        self.entries += 1
        seat.entered, seat.processed = self.entries, self.processed

    def finish(self, state: EngineState, request: Request) -> None:
        """Let a request go that has all its tokens; what it computed stays in the tree."""
        index, pool = request.index, self.pool
        del state.ending[index], state.running[index]
        # A row that decodes once more computes its last token, too.
        computed = request.computed
        if self.spare:
            computed += any(other is request for other in self.spare)
        pool.retire(request, computed, self.seats[index].prompt)
        self.reserve.discard(index)
        del self.seats[index]
        self.shrunk = True

    def admit(self, request: Request, step: int) -> None:
        """Count a request whose KV was fetched, or brought back, among the running ones, behind the others."""
        seat = self.seats[request.index]
        seat.place = self.last_place
        self.last_place += 1
        self.reserve.add(request.index, step + seat.limit - request.tokens, step)
        self.arrived[request.index] = request

    def depart(self, request: Request) -> None:
        """Let a request go whose KV is elsewhere; what it computed stays in the tree."""
        self.pool.retire(request, request.tokens, request.tokens)
        if self.seats[request.index].request is request:
            # Else it is back already, to be computed once more.
            del self.seats[request.index]

    def rows(self, waiting: int) -> int:
        """Return the running requests, or those that hold KV until it has left, but for a prompt in progress."""
        if self.answers:
            return self.reserve.size
        return len(self.seats) - waiting - (self.chunked is not None)

    # --- from step to step ---------------------------------------------------------------------------

    def turn_over(self, state: EngineState, *, knows: bool) -> None:
        """Begin to plan a step; ``knows`` what the step before brought, or not before this one is planned."""
        if self.spare:
            for request in self.spare:
                state.leave_decode(request)
            self.spare = []
        last, kind = self.batch, self.kind
        self.last, self.last_kind, self.kind = last, kind, ""
        if self.fresh:
            self.fresh = {}
        if self.arrived:
            self.arrived = {}
        if knows:
            self.settle(state)
        elif self.reception is None:
            state.unsettled = bool(last)
        if last:
            self.batch = []
            self._merge(state, last, kind)
        if self.shrunk:
            self.full = self.shrunk = False

    def _merge(self, state: EngineState, last: list[Request], kind: str) -> None:
        """Count those among the running whose prompts the last step completed, behind or before the others."""
        if self.chunked is not None and any(request is self.chunked for request in last):
            # The tree gets a chunk when the next step is planned, before its result is known.
            self.pool.checkpoint(self.chunked, self.chunked.computed, self.seats[self.chunked.index].prompt)
        if not self.answers:
            return
        done = [r for r in last if r.index in state.running and r.index not in state.prefilling]
        step, fresh = state.step, self.fresh
        if self.chunked is not None or kind == "mixed" or not self.reserve.size:
            self.full = False
        if kind == "mixed":
            self.first_place -= len(done)
            place = self.first_place
        else:
            place = self.last_place
            self.last_place += len(done)
        for number, request in enumerate(done):
            seat = self.seats[request.index]
            seat.place = place + number
            self.reserve.add(request.index, step + seat.limit - request.tokens - 1, step)
            fresh[request.index] = request

    def settle(self, state: EngineState) -> bool:
        """Take note of what the step before brought: prompts enter the tree, finished requests go; tell if any do."""
        pool, ended = self.pool, bool(state.ending)
        for request in self.last:
            if request.index in state.ending:
                self.finish(state, request)
            elif request.computed == request.tokens:
                pool.checkpoint(request, request.tokens, self.seats[request.index].prompt)
        if state.ending:
            ending = list(state.ending.values())
            for request in ending if len(ending) == 1 else self.in_order(ending):
                self.finish(state, request)
        self.last_kind = ""
        if self.last:
            self.last = []
        return ended

    def wait_for_plan(self, state: EngineState) -> bool:
        """Take note of nothing yet: the next plan, which is made at once, does."""
        return bool(state.ending)

    # --- rows that end -------------------------------------------------------------------------------

    def spare_rows(self, state: EngineState) -> list[Request]:
        """Return the requests that end in the step under way without anybody knowing, as of the others it is known."""
        return [r for r in state.ending.values() if self.reserve.left(r.index, state.step) > 0]

    def decode_once_more(self, state: EngineState, spare: list[Request]) -> None:
        """Let requests have a row of the next step although they have all their tokens."""
        for request in spare:
            state.join_decode(request)
        self.spare = spare

    def decodes(self, state: EngineState, request: Request) -> bool:
        """Tell whether a request that is running produces a token in every step."""
        return request.index in self.reserve and request.index not in state.ending

    # --- what the policy sees ------------------------------------------------------------------------

    def lag(self, request: Request) -> int:
        """Return the tokens of a running request that the policy does not know of yet: 1 if one is under way."""
        if self.last_kind == "prefill":
            return int(request.index in self.fresh)
        return int(self.last_kind != "" and request.index not in self.arrived)

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
        return sorted(requests, key=lambda request: self.seats[request.index].place)

    def reorder(self, requests: list[Request]) -> None:
        """Let the running requests have the order given."""
        self.first_place, self.last_place = 0, len(requests)
        for place, request in enumerate(requests):
            self.seats[request.index].place = place
