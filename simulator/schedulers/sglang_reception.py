"""Whose KV an instance of SGLang asks for that only decodes, and who of them decodes next.

Order of decisions as in SGLang 0.5.23 (``disaggregation/decode.py``). Before each step those that were retracted come
back from host memory; if none is left there, pages are allocated for the prompts of others, so that their KV can be
sent; then those whose KV has come take a row of the batch, and decode in this very step, without a prefill. The pages
of a request that comes, and some tokens, must be free beside as many tokens for every other one; and whoever is to be
the longest must have room in the end, if all others that run are retracted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from simulator.schedulers.plan import Plan
from simulator.schedulers.reserve import CLIP_TOKENS
from simulator.schedulers.sglang_line import Line

if TYPE_CHECKING:
    from collections.abc import Collection

    from simulator.request import Request
    from simulator.schedulers.sglang_memory import Memory
    from simulator.schedulers.state import EngineState

__all__ = ["Crowd", "Reception", "ReceptionLine"]


class Rules(Protocol):
    """What the policy says about requests whose KV comes."""

    @property
    def max_sequences(self) -> int:
        """Rows of a step."""
        ...

    @property
    def reserved_tokens(self) -> int:
        """Tokens kept free for each request."""
        ...

    @property
    def extra_rows(self) -> int:
        """Requests there may be beside those that run."""
        ...

    @property
    def ranked(self) -> bool:
        """The most urgent go first."""
        ...


class Crowd(NamedTuple):
    """The rows of the step before.

    Attributes
    ----------
    rows, tokens
        Their number, and the tokens they have.
    longest
        The most tokens that one of them may have in the end; 0 where that cannot matter.
    """

    rows: int
    tokens: int
    longest: int


class ReceptionLine(Line):
    """Requests that were retracted, in front, and those that wait for pages for their KV."""

    def __init__(self, memory: Memory, *, ranked: bool) -> None:
        super().__init__(memory)
        self._ranked, self._unsorted = ranked, False

    @property
    def retracted(self) -> bool:
        """Whether somebody waits who was retracted."""
        return bool(self) and not self[0].remote

    def would_lead(self, request: Request, /) -> bool:
        """Tell whether a request that came now would be the first one that pages are allocated for."""
        if not self or self.retracted or not self._ranked:
            return not self
        first = min(other.priority for other in self) if self._unsorted else self[0].priority
        return request.priority < first

    def append(self, request: Request, /) -> None:
        """Add a request behind its like."""
        if not request.remote:
            self._memory.enter(request)
            self.insert(sum(not other.remote for other in self), request)
            return
        super().append(request)
        self._unsorted = self._ranked

    appendleft = append

    def arrange(self) -> None:
        """Let the most urgent be in front, as they are from the first look at those that wait for pages."""
        if self._unsorted:
            self._unsorted = False
            self.reorder(sorted(self, key=lambda other: other.priority))


class Reception:
    """What one instance remembers of requests whose KV comes.

    Parameters
    ----------
    rules, memory
        The policy, and what it remembers of the instance.

    Attributes
    ----------
    plan
        The last plan, to which loads are added where they are decided once the results before it are known.
    lined
        How many of ``EngineState.ready`` wait for a row; of the others it is not noticed that their KV is here.
    held_up
        Whoever was retracted waits still: nobody else is looked at.
    wavers
        The first of the line may be let in after some more steps though nobody leaves.
    """

    __slots__ = ("_memory", "_rules", "held_up", "lined", "plan", "wavers")

    def __init__(self, rules: Rules, memory: Memory) -> None:
        self._rules, self._memory = rules, memory
        self.plan = Plan([], 0, 1, [])
        self.lined = 0
        self.held_up = self.wavers = False

    def settle(self, state: EngineState) -> bool:
        """Take note of what the step before brought, then look at the line; tell whether somebody comes back."""
        crowd = self.crowd(state, ())
        ended = self._memory.settle(state)
        resumed = self.look(state, self.plan, crowd)
        if self.plan.steps > 1:
            # The pages of the first step are taken; those of the others may not be there any more.
            self.plan.steps = 1 if self.wavers else min(self.plan.steps, 1 + state.pool.lasting(state.step + 1))
        return resumed or ended

    def crowd(self, state: EngineState, ended: Collection[Request]) -> Crowd:
        """Return the rows of the last step: those that decode, and those that ``ended`` in it."""
        memory, rows = self._memory, state.decodes + len(ended)
        tokens = state.context_sum + state.decodes + sum(request.computed + 1 for request in ended)
        if not state.waiting or memory.widest - tokens <= self._rules.reserved_tokens * rows:
            return Crowd(rows, tokens, 0)
        batch = [r for r in state.running.values() if memory.decodes(state, r)] + memory.spare + [*ended]
        return Crowd(rows, tokens, max((self._most(request) for request in batch), default=0))

    def _most(self, request: Request) -> int:
        seat = self._memory.seats[request.index]
        return seat.prompt + min(seat.limit - seat.prompt, CLIP_TOKENS)

    # --- pages ---------------------------------------------------------------------------------------

    def look(self, state: EngineState, plan: Plan, crowd: Crowd) -> bool:
        """Bring back who was retracted, then allocate pages for KV; tell whether somebody came back."""
        line, resumed = state.waiting, 0
        assert isinstance(line, ReceptionLine)  # noqa: S101 - given at the beginning
        self.wavers = False
        while line.retracted and self._comes_back(state, line[0], crowd):
            request = line.popleft()
            state.pool.take(state.pool.blocks_for(request.tokens - 1))
            request.computed = request.tokens - 1
            state.ready.insert(self.lined, request)
            self.lined += 1
            resumed += 1
        # Where nobody runs SGLang would wait for ever.
        self.held_up = line.retracted and (crowd.rows > 0 or self.lined > 0)
        if line and not line.retracted:
            line.arrange()
            plan.loads = self._allocate(state, crowd)
        return resumed > 0

    def _active(self, state: EngineState, crowd: Crowd) -> int:
        return crowd.rows + state.loading + len(state.ready)

    def _comes_back(self, state: EngineState, request: Request, crowd: Crowd) -> bool:
        """Tell whether a request that was retracted has room; one that is alone has."""
        pool, reserved, active = state.pool, self._rules.reserved_tokens, self._active(state, crowd)
        if not active:
            return True
        need = pool.blocks_for(request.tokens - 1) * pool.block_tokens + reserved
        return self._rows_left(state) > 0 and need <= pool.free * pool.block_tokens - reserved * active

    def _rows_left(self, state: EngineState) -> int:
        held = len(state.running) + state.loading + len(state.ready)
        return self._rules.max_sequences + self._rules.extra_rows - held

    def _allocate(self, state: EngineState, crowd: Crowd) -> list[Request]:
        """Take pages for the KV of those who come next, and return them."""
        pool, reserved = state.pool, self._rules.reserved_tokens
        loads: list[Request] = []
        active, rows = self._active(state, crowd), self._rows_left(state)
        # Twice as many transfers as rows have a place for what comes besides KV, until that is noticed.
        rows = min(rows, 2 * self._rules.max_sequences - state.loading - (len(state.ready) - self.lined))
        for request in state.waiting:
            if len(loads) >= rows:
                break
            pages, free = pool.blocks_for(request.tokens - 1), pool.free * pool.block_tokens
            need, kept = pages * pool.block_tokens + reserved, reserved * (active + len(loads))
            alone = self._most(request) - crowd.tokens
            last = crowd.longest - crowd.tokens if crowd.rows else 0
            if max(need, alone) > free - max(kept, last) and (active or loads or pages > pool.free):
                self.wavers = need <= free - kept
                break
            pool.take(pages)
            loads.append(request)
        for _ in loads:
            state.waiting.popleft()
        return loads

    # --- rows ----------------------------------------------------------------------------------------

    def join(self, state: EngineState, plan: Plan, places: int) -> None:
        """Let those decode whose KV is here, as far as there are places in the batch."""
        if not self.held_up:
            self.lined = len(state.ready)
        if not self.lined:
            return
        ready = state.ready
        if self._rules.ranked:
            lined = sorted((ready.popleft() for _ in range(self.lined)), key=lambda request: request.priority)
            ready.extendleft(reversed(lined))
        joined: list[Request] = []
        for _ in range(min(self.lined, max(0, places))):
            request = ready.popleft()
            state.running[request.index] = request
            state.join_decode(request)
            self._memory.admit(request, state.step)
            joined.append(request)
        self.lined -= len(joined)
        plan.joined = joined
