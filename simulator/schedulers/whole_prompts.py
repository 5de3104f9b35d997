"""Whole prompts, never cut: the engines of 2023.

vLLM 0.2 and DistServe compute, in one step, either prompts of waiting requests, first come first served, or one
token of every running sequence. Prompts go first whenever the head of the queue fits, so decoding stands still
meanwhile. vLLM 0.2 keeps 1 % of the blocks out of reach of new prompts, and asks for a free block before each
sequence's step whether or not it needs one (``vllm/core/scheduler.py`` and ``block_manager.py`` of 0.2). DistServe's
two engines do neither (``context_stage_scheduler.py``, ``decoding_stage_scheduler.py``); it swaps a sequence out to
the host where this policy recomputes it. Splitwise's machines batch prompts with decoding sequences, as Orca did
(``instance.py`` of splitwise-sim); that a prompt there may push sequences out of a full batch is left out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.schedulers.preemption import preempt
from simulator.schedulers.state import Plan

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["WholePromptScheduler"]


@dataclass(frozen=True, slots=True)
class WholePromptScheduler:
    """The policy and its limits.

    Attributes
    ----------
    max_tokens
        Tokens of a step that computes prompts; a longer prompt is the only one of its step.
    max_sequences
        Running requests.
    watermark
        Share of the blocks that stays free when a prompt is admitted, unless it has the instance to itself.
    free_block_each
        A sequence's step needs a free block although its last one has room.
    mixed
        Sequences decode in the steps that compute prompts, too.
    """

    max_tokens: int
    max_sequences: int
    watermark: float = 0.01
    free_block_each: bool = True
    mixed: bool = False

    def begin(self, state: EngineState) -> None:
        """Remember nothing; requests wait in the order of their arrival."""

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan; see :class:`simulator.schedulers.state.Scheduler`."""
        plan = Plan([], 0, 1, [])
        if not self.mixed:
            self._admit(state, plan)
        if not plan.chunks:
            self._decode(state, plan)
            if self.mixed and not plan.preempted:
                self._admit(state, plan)
        return plan

    def _decode(self, state: EngineState, plan: Plan) -> None:
        """Let every running sequence compute a token, for as many steps as nobody else can join."""
        pool = state.pool
        joined: list[Request] = []
        if not state.decodes or pool.needed(state.step, 1) + self.free_block_each <= pool.free:
            self._join_ready(state, joined)
        if not (self.mixed and self._admits_head(state, 0)):
            plan.steps = max(1, pool.lasting(state.step, int(self.free_block_each)))
        if plan.steps == 1:
            plan.preempted = self._room_for_decodes(state)
            joined = [request for request in joined if request.index in state.running]
        plan.decodes, plan.joined = state.decodes, joined

    def _admits_head(self, state: EngineState, tokens: int) -> bool:
        """Tell whether the head of the queue gets its blocks now, beside ``tokens`` prompt tokens of this step."""
        if not state.waiting:
            return False
        request, pool = state.waiting[0], state.pool
        spare = 0 if pool.free == pool.blocks else int(self.watermark * pool.blocks)
        here, idle = state.find(request)
        # A block that is here but that nobody uses is a free one less, like a new one.
        if pool.free - (pool.blocks_for(request.tokens) - here + idle) < spare:
            return False
        if request.remote:
            return True
        room = tokens == 0 or tokens + request.tokens - here * pool.block_tokens <= self.max_tokens
        return room and len(state.running) < self.max_sequences

    def _admit(self, state: EngineState, plan: Plan) -> None:
        """Take prompts, and requests whose KV can now be fetched, from the queue while its head fits."""
        tokens, beside = plan.decodes, 0
        while self._admits_head(state, beside):
            request = state.waiting.popleft()
            blocks = state.pool.blocks_for(request.tokens) - state.claim(request)
            if request.remote:
                state.pool.take(blocks)
                plan.loads = (*plan.loads, request)
                continue
            state.take(request, blocks, request.tokens)
            state.running[request.index] = request
            new = request.tokens - request.computed
            plan.chunks.append((request, new))
            tokens += new
            beside = tokens

    def _join_ready(self, state: EngineState, joined: list[Request]) -> None:
        """Let requests decode whose KV was fetched; the block of their next token is taken with all others'."""
        while state.ready and len(state.running) < self.max_sequences:
            request = state.ready.popleft()
            if request.computed % state.pool.block_tokens == 0:
                state.pool.give(1)
            state.running[request.index] = request
            state.join_decode(request)
            joined.append(request)

    def _room_for_decodes(self, state: EngineState) -> list[Request]:
        """Take one step's blocks for the decoding sequences, preempting the last ones where they lack."""
        pool = state.pool
        needed = pool.needed(state.step, 1)
        if needed + self.free_block_each <= pool.free or not state.decodes:
            pool.take(needed)
            return []
        preempted: list[Request] = []
        order = deque(sorted(state.running.values(), key=lambda request: request.order))
        while order:
            request = order.popleft()
            takes = not (request.anchor + state.step) % pool.block_tokens
            while not pool.free and (takes or self.free_block_each):
                preempted.append(preempt(state, order.pop() if order else request))
                if request.index not in state.running:
                    return preempted
            pool.take(takes)
        return preempted
