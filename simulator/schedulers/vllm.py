"""vLLM V1 continuous batching with chunked prefill, and preemption by recomputation.

Order of decisions as in vLLM's ``v1/core/sched/scheduler.py``: running requests first, in the order they were
admitted; if blocks run out, the last admitted one is preempted and will be recomputed; only if nobody was
preempted are waiting requests admitted, first come first served, up to the token budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulator.schedulers.preemption import preempt
from simulator.schedulers.state import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["VllmScheduler"]

_IDLE: Final = Plan([], 0, 1, [])


@dataclass(frozen=True, slots=True)
class VllmScheduler:
    """The policy and its limits.

    Attributes
    ----------
    max_tokens
        Token budget of a step (``max_num_batched_tokens``), at least ``max_sequences``.
    max_sequences
        Running requests (``max_num_seqs``).
    chunked
        Prompts may be cut to what is left of the budget (``enable_chunked_prefill``).
    reserve_full_prompt
        Admit a request only if its whole prompt fits in the free blocks (``scheduler_reserve_full_isl``).
    """

    max_tokens: int
    max_sequences: int
    chunked: bool = True
    reserve_full_prompt: bool = True

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan; see :class:`simulator.schedulers.state.Scheduler`."""
        if not (state.running or state.waiting or state.ready):
            return _IDLE
        joined: Sequence[Request] = ()
        if state.prefilling is None:
            if state.ready and state.pool.growth[state.step % state.pool.block_tokens] <= state.pool.free:
                joined = self._join(state, self.max_tokens - state.decodes, gives=True)
            if self._nothing_to_admit(state):
                steps = state.pool.lasting(state.step)
                if steps > 1:
                    return Plan([], state.decodes, steps, [], (), joined)
        preempted = self._room_for_decodes(state)
        plan = Plan([], state.decodes, 1, preempted, (), joined)
        budget = self.max_tokens - state.decodes
        if state.prefilling is not None:
            budget -= self._continue_prompt(state, state.prefilling, budget, plan)
            if state.ready and not preempted:
                plan.joined = self._join(state, budget, gives=False)
                budget -= len(plan.joined)
        if not preempted:
            self._admit(state, budget, plan)
        plan.decodes = state.decodes
        return plan

    def _join(self, state: EngineState, budget: int, *, gives: bool) -> Sequence[Request]:
        """Let requests decode whose KV was fetched, and return them; each computes a token.

        With all of their context in the cache but one token, they are decodes to vLLM's attention like any other.
        The block of that token came with the others: it is given back where all decodes are about to take theirs.
        """
        pool = state.pool
        joined: list[Request] = []
        while state.ready and len(state.running) < self.max_sequences and len(joined) < budget:
            request = state.ready.popleft()
            if gives and request.computed % pool.block_tokens == 0:
                pool.give(1)
            state.running[request.index] = request
            state.join_decode(request)
            joined.append(request)
        return joined

    def _nothing_to_admit(self, state: EngineState) -> bool:
        """Tell whether no waiting request can join before one leaves: then only decode steps remain."""
        budget = self.max_tokens - state.decodes
        full = len(state.running) >= self.max_sequences or budget <= 0
        if not state.waiting or (full and not state.waiting[0].remote):
            return True
        return self._blocks_to_admit(state, state.waiting[0], budget) > state.pool.free

    def _blocks_to_admit(self, state: EngineState, request: Request, budget: int) -> int:
        """Return the free blocks a request asks for before it is admitted; more than all if never now."""
        pool, tokens = state.pool, request.tokens
        here, idle = state.find(request) if state.cache is not None else (0, 0)
        if not request.remote:
            past = here * pool.block_tokens
            if not self.chunked and tokens - past > budget:
                return pool.blocks + 1
            if not self.reserve_full_prompt:
                tokens = min(tokens, past + budget)
        # A block that is here but that nobody uses is a free one less, like a new one.
        return pool.blocks_for(tokens) - here + idle

    def _room_for_decodes(self, state: EngineState) -> list[Request]:
        """Take one step's blocks for the decoding sequences, preempting from the tail where they lack."""
        pool = state.pool
        needed = pool.growth[state.step % pool.block_tokens]
        if needed <= pool.free:
            pool.take(needed)
            return []
        preempted: list[Request] = []
        for request in list(state.running.values()):
            if request.index not in state.running:
                break
            if request is state.prefilling or (request.anchor + state.step) % pool.block_tokens:
                continue
            while not pool.free and request.index in state.running:
                preempted.append(_preempt_last(state))
            if request.index in state.running:
                pool.take(1)
        return preempted

    def _continue_prompt(self, state: EngineState, request: Request, budget: int, plan: Plan) -> int:
        """Schedule the next chunk of the prompt in progress; it preempts itself where blocks lack."""
        pool = state.pool
        new = min(request.tokens - request.computed, budget)
        if new <= 0:
            return 0
        blocks = pool.blocks_for(request.computed + new) - pool.blocks_for(request.computed)
        if blocks > pool.free:
            plan.preempted.append(_preempt_last(state))
            return 0
        state.take(request, blocks, request.computed + new)
        plan.chunks.append((request, new))
        return new

    def _admit(self, state: EngineState, budget: int, plan: Plan) -> None:
        while state.waiting:
            request = state.waiting[0]
            full = budget <= 0 or len(state.running) >= self.max_sequences
            if full and not request.remote:
                break
            if self._blocks_to_admit(state, request, budget) > state.pool.free:
                break
            state.waiting.popleft()
            here = state.claim(request)
            if request.remote:
                # As vLLM does, a request may fetch its KV however many are running.
                state.pool.take(state.pool.blocks_for(request.tokens) - here)
                plan.loads = (*plan.loads, request)
                continue
            state.running[request.index] = request
            new = min(request.tokens - request.computed, budget)
            tokens = request.computed + new
            state.take(request, state.pool.blocks_for(tokens) - here, tokens)
            plan.chunks.append((request, new))
            budget -= new


def _preempt_last(state: EngineState) -> Request:
    """Preempt the last admitted request."""
    return preempt(state, state.running[next(reversed(state.running))])
