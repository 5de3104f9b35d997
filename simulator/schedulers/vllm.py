"""vLLM V1 continuous batching with chunked prefill, and preemption by recomputation.

Order of decisions as in vLLM's ``v1/core/sched/scheduler.py``: running requests first, in the order they were
admitted; if blocks run out, the last admitted one is preempted and will be recomputed; only if nobody was
preempted are waiting requests admitted, first come first served, up to the token budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.schedulers.preemption import preempt
from simulator.schedulers.state import Plan

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["VllmScheduler"]


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
        if self._nothing_to_admit(state) and state.prefilling is None:
            steps = state.pool.lasting(state.step)
            if steps > 1:
                return Plan([], state.decodes, steps, [])
        preempted = self._room_for_decodes(state)
        plan = Plan([], state.decodes, 1, preempted)
        budget = self.max_tokens - state.decodes
        if state.prefilling is not None:
            budget -= self._continue_prompt(state, state.prefilling, budget, plan)
        if not preempted:
            if state.ready:
                budget -= self._admit_ready(state, budget, plan)
            self._admit(state, budget, plan)
        plan.decodes = state.decodes
        return plan

    def _nothing_to_admit(self, state: EngineState) -> bool:
        """Tell whether no waiting request can join before one leaves: then only decode steps remain."""
        budget = self.max_tokens - state.decodes
        full = len(state.running) >= self.max_sequences or budget <= 0
        if state.ready and not full:
            return False
        if not state.waiting or (full and not state.waiting[0].remote):
            return True
        return self._blocks_to_admit(state, state.waiting[0], budget) > state.pool.free

    def _blocks_to_admit(self, state: EngineState, request: Request, budget: int) -> int:
        """Return the free blocks a request asks for before it is admitted; more than all if never now."""
        if request.remote:
            return state.pool.blocks_for(request.tokens)
        if not self.chunked and request.tokens > budget:
            return state.pool.blocks + 1
        new = request.tokens if self.reserve_full_prompt else min(request.tokens, budget)
        return state.pool.blocks_for(new)

    def _room_for_decodes(self, state: EngineState) -> list[Request]:
        """Take one step's blocks for the decoding sequences, preempting from the tail where they lack."""
        pool = state.pool
        needed = pool.needed(state.step, 1)
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
        pool.take(blocks)
        plan.chunks.append((request, new))
        return new

    def _admit_ready(self, state: EngineState, budget: int, plan: Plan) -> int:
        """Admit requests whose KV was fetched, blocks and all; return the tokens they compute."""
        tokens = 0
        while state.ready and tokens < budget and len(state.running) < self.max_sequences:
            request = state.ready.popleft()
            state.running[request.index] = request
            new = request.tokens - request.computed
            plan.chunks.append((request, new))
            tokens += new
        return tokens

    def _admit(self, state: EngineState, budget: int, plan: Plan) -> None:
        while state.waiting:
            request = state.waiting[0]
            full = budget <= 0 or len(state.running) >= self.max_sequences
            if full and not request.remote:
                break
            if self._blocks_to_admit(state, request, budget) > state.pool.free:
                break
            state.waiting.popleft()
            if request.remote:
                # As vLLM does, a request may fetch its KV however many are running.
                state.pool.take(state.pool.blocks_for(request.tokens))
                plan.loads = (*plan.loads, request)
                continue
            state.running[request.index] = request
            new = min(request.tokens, budget)
            state.pool.take(state.pool.blocks_for(new))
            plan.chunks.append((request, new))
            budget -= new


def _preempt_last(state: EngineState) -> Request:
    """Preempt the last admitted request."""
    return preempt(state, state.running[next(reversed(state.running))])
