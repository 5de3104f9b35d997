"""Sarathi-Serve: prompts in chunks beside every decoding sequence, and a step never longer than one chunk.

Order of decisions as in ``sarathi/core/scheduler/sarathi_scheduler.py`` of github.com/microsoft/sarathi-serve (Agrawal
et al., OSDI 2024), and as in Vidur's copy of it: every decoding sequence computes a token; then the prompt that was
cut before gets what the chunk has left; then waiting requests join, first come first served, up to the chunk. A
request joins when all of its prompt fits the free blocks less 1 % of all, and holds them from then on. Each sequence's
step needs a free block, whether or not it takes one; where there is none, the last to have arrived goes back to the
head of the queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.schedulers.fcfs_room import blocks_of_rests, blocks_to_admit, join_ready, room_for_decodes, steps_alike
from simulator.schedulers.plan import Plan

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["SarathiScheduler"]


@dataclass(frozen=True, slots=True)
class SarathiScheduler:
    """The policy and its limits.

    Attributes
    ----------
    chunk_size
        Tokens of a step that computes prompts; sequences that decode beyond it do so all the same.
    max_sequences
        Requests that hold blocks (``max_num_seqs``).
    watermark
        Share of the blocks that stays free when a request joins, unless it has the instance to itself.
    """

    chunk_size: int
    max_sequences: int
    watermark: float = 0.01

    def begin(self, state: EngineState) -> None:
        """Remember nothing; requests wait in the order of their arrival."""

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan; see :class:`simulator.schedulers.plan.Scheduler`."""
        pool, plan = state.pool, Plan([], 0, 1, [])
        if not state.decodes or pool.needed(state.step, 1) + 1 + blocks_of_rests(state) <= pool.free:
            plan.joined = join_ready(state, self.max_sequences)
        if not state.prefilling and not self._admits_head(state, self.chunk_size - state.decodes, 0):
            plan.steps = steps_alike(state, 1)
        if plan.steps == 1:
            self._compute(state, plan)
        plan.decodes = state.decodes
        return plan

    def _compute(self, state: EngineState, plan: Plan) -> None:
        """Fill in a plan of one step."""
        plan.preempted = room_for_decodes(state, free_block_each=True)
        plan.joined = [request for request in plan.joined if request.index in state.running]
        rests, budget = 0, self.chunk_size - state.decodes
        for request in state.prefilling.values():
            new = self._compute_chunk(state, plan, request, budget)
            rests += state.pool.blocks_for(request.tokens) - state.pool.blocks_for(request.computed + new)
            budget -= new
        self._admit(state, plan, budget, rests)

    def _compute_chunk(self, state: EngineState, plan: Plan, request: Request, budget: int) -> int:
        """Let a prompt compute as much as the chunk has left, and return how much that is."""
        new = min(request.tokens - request.computed, budget)
        if new <= 0:
            return 0
        pool, end = state.pool, request.computed + new
        state.take(request, pool.blocks_for(end) - pool.blocks_for(request.computed), end)
        plan.chunks.append((request, new))
        return new

    def _admits_head(self, state: EngineState, budget: int, rests: int) -> bool:
        """Tell whether the head of the queue gets its blocks now, where ``rests`` free ones are spoken for."""
        if not state.waiting:
            return False
        request, pool = state.waiting[0], state.pool
        spare = 0 if pool.free == pool.blocks else int(self.watermark * pool.blocks)
        if pool.free - rests - blocks_to_admit(state, request) < spare:
            return False
        return request.remote or (budget > 0 and len(state.running) < self.max_sequences)

    def _admit(self, state: EngineState, plan: Plan, budget: int, rests: int) -> None:
        """Take requests from the queue while its head fits, those whose KV can now be fetched among them."""
        while self._admits_head(state, budget, rests):
            request = state.waiting.popleft()
            here = state.claim(request)
            if request.remote:
                state.pool.take(state.pool.blocks_for(request.tokens) - here)
                plan.loads = (*plan.loads, request)
                continue
            state.running[request.index] = request
            new = self._compute_chunk(state, plan, request, budget)
            rests += state.pool.blocks_for(request.tokens) - state.pool.blocks_for(request.computed + new)
            budget -= new
