"""Whole prompts, never cut: the engines of 2023.

vLLM 0.2 and DistServe compute, in one step, either prompts of waiting requests, first come first served, or one
token of every running sequence. Prompts go first whenever the head of the queue fits, so decoding stands still
meanwhile. vLLM 0.2.2 to 0.3.3 pads the prompts of a step to the longest and bounds the padding, which costs nothing
here. vLLM 0.2 keeps 1 % of the blocks out of reach of new prompts, and asks for a free block before each
sequence's step whether or not it needs one (``vllm/core/scheduler.py`` and ``block_manager.py`` of 0.2). DistServe's
two engines do neither (``context_stage_scheduler.py``, ``decoding_stage_scheduler.py``); it swaps a sequence out to
the host where this policy recomputes it. Splitwise's machines batch prompts with decoding sequences, as Orca did
(``instance.py`` of splitwise-sim); that a prompt there may push sequences out of a full batch is left out.

vLLM's plugin for Ascend does the same with vLLM V1's blocks (``AscendScheduler`` in ``vllm_ascend/core/scheduler.py``,
up to 0.11). That it passes over a prompt that does not fit, and looks at those behind it, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.schedulers.fcfs_room import blocks_to_admit, join_ready, room_for_decodes, steps_alike
from simulator.schedulers.plan import Plan

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
    max_paddings
        Prompts of one step count as if all were as long as the longest, and what that adds is bounded by so many
        tokens; None where they lie end to end.
    """

    max_tokens: int
    max_sequences: int
    watermark: float = 0.01
    free_block_each: bool = True
    mixed: bool = False
    max_paddings: int | None = None

    def begin(self, state: EngineState) -> None:
        """Remember nothing; requests wait in the order of their arrival."""

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan; see :class:`simulator.schedulers.plan.Scheduler`."""
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
            joined = join_ready(state, self.max_sequences)
        if not (self.mixed and self._admits_head(state, plan)):
            plan.steps = steps_alike(state, int(self.free_block_each))
        if plan.steps == 1:
            plan.preempted = room_for_decodes(state, free_block_each=self.free_block_each)
            joined = [request for request in joined if request.index in state.running]
        plan.decodes, plan.joined = state.decodes, joined

    def _admits_head(self, state: EngineState, plan: Plan) -> bool:
        """Tell whether the head of the queue gets its blocks now, and a place beside the prompts of this step."""
        if not state.waiting:
            return False
        request, pool = state.waiting[0], state.pool
        spare = 0 if pool.free == pool.blocks else int(self.watermark * pool.blocks)
        if pool.free - blocks_to_admit(state, request) < spare:
            return False
        if request.remote:
            return True
        new = request.tokens - state.find(request)[0] * pool.block_tokens
        return len(state.running) < self.max_sequences and self._has_room(plan, new)

    def _has_room(self, plan: Plan, new: int) -> bool:
        """Tell whether a step holds a prompt of ``new`` tokens beside those it computes."""
        if not plan.chunks:
            return True
        lengths = [new, *(tokens for _, tokens in plan.chunks)]
        if self.max_paddings is None:
            return plan.decodes + sum(lengths) <= self.max_tokens
        padded = len(lengths) * max(lengths)
        return padded <= self.max_tokens and padded - sum(lengths) <= self.max_paddings

    def _admit(self, state: EngineState, plan: Plan) -> None:
        """Take prompts, and requests whose KV can now be fetched, from the queue while its head fits."""
        while self._admits_head(state, plan):
            request = state.waiting.popleft()
            blocks = state.pool.blocks_for(request.tokens) - state.claim(request)
            if request.remote:
                state.pool.take(blocks)
                plan.loads = (*plan.loads, request)
                continue
            state.take(request, blocks, request.tokens)
            state.running[request.index] = request
            plan.chunks.append((request, request.tokens - request.computed))
