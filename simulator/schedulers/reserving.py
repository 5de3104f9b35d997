"""Static batches and Orca: who joins holds the memory for the longest answer, so nobody is ever put back.

*Orca* (Yu et al., OSDI 2022) schedules by the iteration: requests leave when they have all their tokens, and waiting
ones join at once, first come first served, their whole prompts beside the sequences that decode. A request joins when
the blocks for its prompt and the most tokens it may ask for are not spoken for, and the batch has a place.

*Static* batching, as FasterTransformer's, schedules by the request: a batch is made of who waits, by the same rules,
and nobody joins until everybody has left. Those that are done sooner cost nothing more.

Both are as in ``orca_scheduler.py`` and ``faster_transformer_scheduler.py`` of github.com/microsoft/sarathi-serve,
which hold the engine's longest sequence for every request where these go by what the request declares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.schedulers.fcfs_room import blocks_to_admit, join_ready, room_for_decodes, steps_alike
from simulator.schedulers.plan import Plan

if TYPE_CHECKING:
    from simulator.schedulers.state import EngineState

__all__ = ["ReservingScheduler"]


@dataclass(frozen=True, slots=True)
class ReservingScheduler:
    """The policy and its limits.

    Attributes
    ----------
    max_tokens
        Tokens of the prompts of one step; a longer prompt is the only one of its step.
    max_sequences
        Requests of a batch (``max_batch_size``).
    joins_running
        Requests join a batch that is running; else only an empty instance takes any.
    """

    max_tokens: int
    max_sequences: int
    joins_running: bool = True

    def begin(self, state: EngineState) -> None:
        """Remember nothing; requests wait in the order of their arrival."""

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan; see :class:`simulator.schedulers.plan.Scheduler`."""
        plan, takes = Plan([], 0, 1, []), self.joins_running or not state.running
        if takes and (not state.decodes or state.pool.needed(state.step, 1) <= state.pool.free):
            plan.joined = join_ready(state, self.max_sequences)
        if not self._admits_head(state, plan, takes_prompts=takes, begun=0):
            plan.steps = steps_alike(state)
        if plan.steps == 1:
            # Blocks lack only where some went to KV on its way here, for whose answers nobody held any back.
            plan.preempted = room_for_decodes(state, free_block_each=False)
            plan.joined = [request for request in plan.joined if request.index in state.running]
            self._admit(state, plan, takes_prompts=takes)
        plan.decodes = state.decodes
        return plan

    def _admit(self, state: EngineState, plan: Plan, *, takes_prompts: bool) -> None:
        """Take requests from the queue while its head fits, those whose KV can now be fetched among them."""
        while not plan.preempted and self._admits_head(state, plan, takes_prompts=takes_prompts, begun=1):
            request = state.waiting.popleft()
            blocks = state.pool.blocks_for(request.tokens) - state.claim(request)
            if request.remote:
                state.pool.take(blocks)
                plan.loads = (*plan.loads, request)
                continue
            state.take(request, blocks, request.tokens)
            state.running[request.index] = request
            plan.chunks.append((request, request.tokens - request.computed))

    def _admits_head(self, state: EngineState, plan: Plan, *, takes_prompts: bool, begun: int) -> bool:
        """Tell whether the head of the queue gets all its blocks, and a place beside the prompts of this step.

        ``begun`` is 1 when the sequences that decode have their blocks for this step.
        """
        if not state.waiting:
            return False
        request, pool = state.waiting[0], state.pool
        answer = pool.blocks_for(max(request.longest, request.tokens)) - pool.blocks_for(request.tokens)
        needed = blocks_to_admit(state, request) + answer
        if pool.free < pool.blocks and pool.free - _blocks_of_answers(state, plan, begun) < needed:
            return False
        if request.remote:
            return True
        tokens = request.tokens + sum(tokens for _, tokens in plan.chunks)
        fits = not plan.chunks or state.decodes + tokens <= self.max_tokens
        return takes_prompts and fits and len(state.running) < self.max_sequences


def _blocks_of_answers(state: EngineState, plan: Plan, begun: int) -> int:
    """Return the free blocks that are held back for the answers of those who are here."""
    pool = state.pool
    computing = {request.index for request, _ in plan.chunks}
    found = 0
    for request in (*state.running.values(), *state.ready):
        decodes = request.index in state.running and request.index not in computing
        cached = request.anchor + state.step + begun if decodes else request.tokens
        found += max(0, pool.blocks_for(request.longest) - pool.blocks_for(cached))
    return found
