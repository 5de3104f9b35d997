"""Who among vLLM's running requests computes what, where tokens or blocks may not be enough for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from simulator.schedulers.preemption import preempt

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.state import EngineState

__all__ = ["Rationing", "share_out"]


class Rationing(Protocol):
    """What a policy says about running requests."""

    @property
    def max_tokens(self) -> int:
        """Token budget of a step."""
        ...

    @property
    def goes_on(self) -> bool:
        """The requests after one that preempted itself are still looked at."""
        ...

    def most_of_one(self, state: EngineState) -> int:
        """Return the tokens of one prompt that a step computes at most."""
        ...

    def victim(self, state: EngineState) -> Request:
        """Return the running request that is preempted next."""
        ...


def share_out(rules: Rationing, state: EngineState, plan: Plan, *, puts_off: bool) -> int:
    """Schedule the running requests, take their blocks, and return what is left of the token budget.

    Parameters
    ----------
    rules
        The policy.
    state
        The instance.
    plan
        Gets the chunks of prompts in progress, the preempted, and who stands still.
    puts_off
        No prompt is computed in this step.
    """
    pool = state.pool
    budget = rules.max_tokens - state.decodes
    wants = _wanted(rules, state, budget) if state.prefilling and not puts_off else ()
    blocks = growth = pool.growth[state.step % pool.block_tokens]
    for request, new in wants:
        blocks += pool.blocks_for(request.computed + new) - pool.blocks_for(request.computed)
        budget -= new
    if budget < 0 or blocks > pool.free:
        return _Walk(rules, state, plan, puts_off=puts_off).run()
    if growth:
        pool.take(growth)
    for request, new in wants:
        _compute(state, plan, request, new)
    return budget


def _wanted(rules: Rationing, state: EngineState, budget: int) -> list[tuple[Request, int]]:
    """Return the chunks that prompts in progress ask for; the last admitted of all requests takes what is left."""
    most, wants = rules.most_of_one(state), []
    for request in state.prefilling.values():
        new = min(request.tokens - request.computed, most)
        if state.media is not None:
            new = state.media.allow(request, request.computed, min(new, max(budget, 0)))
            if not new:
                continue
        wants.append((request, new))
        budget -= new
    if not wants:
        return wants
    request, new = wants[-1]
    if budget < 0 and next(reversed(state.running)) == request.index:
        wants.pop()
        if new + budget > 0:
            wants.append((request, new + budget))
    return wants


def _compute(state: EngineState, plan: Plan, request: Request, new: int) -> None:
    """Let a step compute a chunk of a prompt in progress."""
    pool, end = state.pool, request.computed + new
    state.go_first(request)
    state.take(request, pool.blocks_for(end) - pool.blocks_for(request.computed), end)
    plan.chunks.append((request, new))


class _Walk:
    """One walk over the running requests, in the order of admission."""

    def __init__(self, rules: Rationing, state: EngineState, plan: Plan, *, puts_off: bool) -> None:
        self.rules, self.state, self.plan, self.puts_off = rules, state, plan, puts_off
        self.budget = rules.max_tokens
        self.given: dict[int, int] = {}

    def run(self) -> int:
        """Schedule who can be, preempting where blocks lack; return what is left of the budget."""
        state = self.state
        for request in list(state.running.values()):
            if request.index not in state.running or request.index in state.ending:
                continue
            if self.budget <= 0:
                self._hold(request)
            elif request.index not in state.prefilling:
                self._decode(request)
            elif not self.puts_off:
                self._continue(request)
            if not (self.rules.goes_on or request.index in state.running):
                self._hold_the_rest()
                break
        self._forget_preempted()
        return self.budget

    def _hold_the_rest(self) -> None:
        """Let all stand still that decode and were not looked at."""
        for request in list(self.state.running.values()):
            if request.index not in self.given and request.index not in self.state.ending:
                self._hold(request)

    def _hold(self, request: Request) -> None:
        """Let a decoding request stand still."""
        if request.index not in self.state.prefilling:
            self.state.hold(request)
            self.plan.held = (*self.plan.held, request)

    def _decode(self, request: Request) -> None:
        state, index = self.state, request.index
        blocks = 0 if (request.anchor + state.step) % state.pool.block_tokens else 1
        if self._free(request, blocks):
            state.pool.take(blocks)
            self.given[index] = 1
            self.budget -= 1

    def _continue(self, request: Request) -> None:
        pool = self.state.pool
        new = min(request.tokens - request.computed, self.rules.most_of_one(self.state), self.budget)
        if self.state.media is not None:
            new = self.state.media.allow(request, request.computed, new)
        if new and self._free(request, pool.blocks_for(request.computed + new) - pool.blocks_for(request.computed)):
            _compute(self.state, self.plan, request, new)
            self.given[request.index] = new
            self.budget -= new

    def _free(self, request: Request, blocks: int) -> bool:
        """Preempt until so many blocks are free; tell whether ``request`` still runs."""
        state = self.state
        while blocks > state.pool.free and request.index in state.running:
            self._preempt(self.rules.victim(state))
        return request.index in state.running

    def _preempt(self, victim: Request) -> None:
        """Preempt a request, and take back what this step had given it."""
        state, index = self.state, victim.index
        given = self.given.pop(index, 0)
        self.budget += given
        if index in state.prefilling:
            # Its new blocks go with the others, known by what they would have held.
            victim.computed += given
            state.recomputed -= given
        self.plan.preempted.append(preempt(state, victim, scheduled=given > 0))

    def _forget_preempted(self) -> None:
        """Take those who were preempted later in the walk out of the plan."""
        plan, running = self.plan, self.state.running
        if plan.preempted:
            plan.chunks = [chunk for chunk in plan.chunks if chunk[0].index in running]
            plan.joined = [request for request in plan.joined if request.index in running]
        if plan.held:
            held = self.state.held
            plan.held = [request for request in plan.held if request.index in held]
            plan.joined = [request for request in plan.joined if request.index not in held]
