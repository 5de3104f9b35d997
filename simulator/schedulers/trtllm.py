"""TensorRT-LLM 1.3 with the PyTorch backend: first who fits the KV cache, then who fits the step.

Decoding sequences, and prompts or chunks of them, share steps. Two stages decide: :mod:`simulator.schedulers.capacity`
and :mod:`simulator.schedulers.chunking`. Then prompts may be put off to gather more of them (``batch_wait_*``,
``_waiting_requests`` of ``py_executor.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from simulator.prefix_cache import PrefixCache
from simulator.schedulers.capacity import CAPACITY, Fitting
from simulator.schedulers.chunking import Context, cut, whole
from simulator.schedulers.plan import Plan
from simulator.schedulers.queue import TurnQueue

if TYPE_CHECKING:
    from simulator.pieces import Piece
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["Recall", "TrtllmScheduler"]

_UNBOUNDED: Final = 1 << 40


@dataclass(slots=True)
class Recall:
    """What the policy remembers of one instance.

    Attributes
    ----------
    loading
        Requests whose KV is being fetched, by index.
    waited
        Steps for which prompts were put off.
    fresh, stale
        Prompts of which the last step, and the one before, computed a chunk, with the pieces they hold.
    idle
        The last plan computed nothing.
    chosen
        The prompts that a plan would compute, until it is complete.
    """

    loading: dict[int, Request] = field(default_factory=dict)
    waited: int = 0
    fresh: list[tuple[Request, list[Piece]]] = field(default_factory=list)
    stale: list[tuple[Request, list[Piece]]] = field(default_factory=list)
    idle: bool = False
    chosen: list[Context] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrtllmScheduler:
    """The policy and its limits.

    Attributes
    ----------
    max_tokens
        Token budget of a step (``max_num_tokens``).
    max_sequences
        Requests of a step (``max_batch_size``).
    chunked
        Prompts may be cut (``enable_chunked_prefill``).
    capacity
        Key of :data:`simulator.schedulers.capacity.CAPACITY`.
    chunking
        Key of :data:`simulator.schedulers.chunking.CHUNKING`.
    prefix_aware
        What is found in the cache counts in both stages, and a prompt whose first missing block is being computed waits
        for it (``enable_prefix_aware_scheduling``).
    wait_steps
        The most steps for which prompts are put off while sequences decode (``batch_wait_timeout_iters``).
    wait_share
        Share of the token budget from which prompts are not put off (``batch_wait_max_tokens_ratio``).
    """

    max_tokens: int
    max_sequences: int
    chunked: bool = False
    capacity: str = "GUARANTEED_NO_EVICT"
    chunking: str = "FIRST_COME_FIRST_SERVED"
    prefix_aware: bool = True
    wait_steps: int = 0
    wait_share: float = 0.0

    def begin(self, state: EngineState) -> None:
        """Prepare a new instance; see :class:`simulator.schedulers.plan.Scheduler`."""
        state.waiting, state.memory = TurnQueue(), Recall()
        state.promises = True
        if isinstance(state.cache, PrefixCache):
            state.cache.blank_first = state.cache.shows_growth = False

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan; see :class:`simulator.schedulers.plan.Scheduler`."""
        plan = self.propose(state)
        self.complete(state, plan, holds=False)
        return plan

    def propose(self, state: EngineState) -> Plan:
        """Return the next plan without its prompts, which may have to wait for other ranks."""
        recall: Recall = state.memory
        _store(state, recall)
        plan = Plan([], 0, 1, [])
        if state.running or state.waiting or state.ready:
            if recall.loading:
                recall.loading = {index: request for index, request in recall.loading.items() if request.loading}
            if state.ready:
                plan.joined = self._join(state)
            fitting = Fitting(self.max_sequences, self.prefix_aware and state.cache is not None)
            CAPACITY[self.capacity](state, fitting)
            self._decide(state, plan, fitting)
        return plan

    def complete(self, state: EngineState, plan: Plan, *, holds: bool) -> None:
        """Let a plan compute the prompts it would, unless something ``holds`` them, and take its blocks."""
        recall: Recall = state.memory
        chosen, recall.chosen = recall.chosen, []
        self._take(state, plan, [] if holds else chosen)
        recall.idle = not (plan.chunks or plan.decodes)

    def _decide(self, state: EngineState, plan: Plan, fitting: Fitting) -> None:
        """Fill in a plan with what fits."""
        recall: Recall = state.memory
        plan.preempted, plan.decodes = fitting.paused, state.decodes
        if fitting.paused and plan.joined:
            plan.joined = [request for request in plan.joined if request.index in state.running]
        if fitting.loads:
            self._load(state, plan, fitting.loads)
        chosen = self._choose(state, fitting.contexts)
        if self.wait_steps and chosen and plan.decodes and self._puts_off(state, chosen):
            chosen = []
        elif not (chosen or plan.preempted or self._may_change(recall, fitting)):
            plan.steps = _UNBOUNDED if self.capacity != "MAX_UTILIZATION" else max(1, state.pool.lasting(state.step))
        recall.chosen = chosen

    def _may_change(self, recall: Recall, fitting: Fitting) -> bool:
        """Tell whether prompts may be computed in the next step though nobody leaves and none comes before all others.

        Where no chunk fits what is left of the budget, a shorter prompt that comes may; and KV to be fetched may take
        fewer blocks than were counted, since some of them are here.
        """
        changes = fitting.unsettled or bool(recall.stale) or bool(fitting.loads)
        return changes or (self.chunked and bool(fitting.contexts))

    # --- requests that come ----------------------------------------------------------------------------

    def _join(self, state: EngineState) -> list[Request]:
        """Let requests decode whose KV was fetched, and return them; their next block is taken with all others'."""
        pool = state.pool
        joined: list[Request] = []
        while state.ready and len(state.running) < self.max_sequences and state.decodes < self.max_tokens:
            request = state.ready.popleft()
            if request.computed % pool.block_tokens == 0:
                pool.give(1)
            state.running[request.index] = request
            state.join_decode(request)
            joined.append(request)
        return joined

    @staticmethod
    def _load(state: EngineState, plan: Plan, loads: list[Request]) -> None:
        """Take blocks for KV that is to be fetched."""
        for request in loads:
            state.waiting.remove(request)
            state.pool.take(state.pool.blocks_for(request.tokens) - state.claim(request))
            state.memory.loading[request.index] = request
        plan.loads = loads

    # --- prompts ---------------------------------------------------------------------------------------

    def _choose(self, state: EngineState, contexts: list[Context]) -> list[Context]:
        """Return the prompts of which a step computes something."""
        if not contexts:
            return contexts
        budget = self.max_tokens - state.decodes
        if self.chunked:
            cut(contexts, budget, state.pool.block_tokens, self.max_tokens, self.chunking)
        else:
            whole(contexts, budget, alone=not state.decodes)
        return [context for context in contexts if context.window]

    def _puts_off(self, state: EngineState, chosen: list[Context]) -> bool:
        """Tell whether prompts are put off, to gather more of them."""
        recall: Recall = state.memory
        tokens = state.decodes + sum(context.computed(state.pool.block_tokens) for context in chosen)
        puts_off = recall.waited < self.wait_steps and tokens < self.wait_share * self.max_tokens
        recall.waited = recall.waited + 1 if puts_off else 0
        return puts_off

    @staticmethod
    def _take(state: EngineState, plan: Plan, chosen: list[Context]) -> None:
        """Take the blocks of a step: what prompts find is theirs before anybody takes new ones."""
        pool, recall = state.pool, state.memory
        missing = 0
        for context in chosen:
            request = context.request
            if request.index not in state.running:
                state.waiting.remove(request)
                missing += pool.blocks_for(request.tokens) - state.claim(request)
                context.found = request.found
                state.running[request.index] = request
            plan.chunks.append((request, context.computed(pool.block_tokens)))
        pool.take(missing)
        if plan.steps == 1:
            pool.take(pool.growth[state.step % pool.block_tokens])
        if state.cache is not None:
            recall.fresh.extend((request, request.pieces) for request, _ in plan.chunks)


def _store(state: EngineState, recall: Recall) -> None:
    """Let what is computed of prompts be found: after their step, or a step later where steps are planned ahead."""
    if not (recall.fresh or recall.stale):
        return
    due = recall.stale if state.ahead else [*recall.stale, *recall.fresh]
    if recall.idle:
        due = [*recall.stale, *recall.fresh]
        recall.fresh = []
    recall.stale, recall.fresh = (recall.fresh if state.ahead else []), []
    for request, pieces in due:
        if request.pieces is pieces:
            state.register(request, request.computed)
