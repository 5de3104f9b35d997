"""vLLM V1 continuous batching with chunked prefill, and preemption by recomputation.

Order of decisions as in vLLM's ``v1/core/sched/scheduler.py`` (0.33): running requests first, in the order they were
admitted; if blocks run out, the last admitted one, or the least urgent, is preempted and will be recomputed; only if
nobody was preempted are waiting requests admitted, up to the token budget, until one does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulator.schedulers.crowding import share_out
from simulator.schedulers.fcfs_room import steps_alike
from simulator.schedulers.plan import Plan
from simulator.schedulers.queue import ArrivalQueue, PriorityQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.beat import Beat
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["Cadence", "VllmScheduler"]

_IDLE: Final = Plan([], 0, 1, [])


@dataclass(slots=True)
class Cadence:
    """When prompts were last computed, for an engine that lets decode steps pass between them.

    Attributes
    ----------
    last_step
        The engine's step counter after the last step that computed part of a prompt.
    bound
        That step could not admit all who waited: then nothing is put off.
    beat
        Counts the steps of ranks that step together: then prompts are computed in every so many of these.
    """

    last_step: int = -(1 << 60)
    bound: bool = False
    beat: Beat | None = None


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
    chunk_tokens
        The most a step computes of one prompt while there are other requests (``long_prefill_token_threshold``);
        0 for no such bound.
    chunk_share
        That bound is never below an equal share of the budget (``long_prefill_token_threshold_adaptive``).
    by_priority
        The most urgent request is admitted first, and the least urgent preempted (``scheduling_policy``).
    interval
        Steps from one that computes prompts to the next, while sequences decode (``prefill_schedule_interval``). Ranks
        that step together compute them in the same steps, counted from when all were idle (``DPEngineCoreProc``).
    watermark
        Share of the blocks that stays free when a request joins others (``watermark``).
    uncapped_alone
        ``chunk_tokens`` does not bound a request that is alone.
    loan_reserves
        KV is fetched only into blocks that no prompt in progress still needs.
    goes_on
        The requests after one that preempted itself are still looked at, under priority.
    """

    max_tokens: int
    max_sequences: int
    chunked: bool = True
    reserve_full_prompt: bool = True
    chunk_tokens: int = 0
    chunk_share: bool = False
    by_priority: bool = False
    interval: int = 1
    watermark: float = 0.0
    uncapped_alone: bool = True
    loan_reserves: bool = True
    goes_on: bool = True

    def begin(self, state: EngineState) -> None:
        """Prepare a new instance; see :class:`simulator.schedulers.plan.Scheduler`."""
        state.waiting = PriorityQueue() if self.by_priority else ArrivalQueue()
        state.memory = Cadence()

    @staticmethod
    def join_ranks(state: EngineState, beat: Beat) -> None:
        """Let an instance be one of several ranks that step together, and count their steps."""
        state.memory.beat = beat

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan; see :class:`simulator.schedulers.plan.Scheduler`."""
        if not (state.waiting or state.ready or state.fetched or state.prefilling or state.held):
            if not state.running:
                return _IDLE
            if self.interval == 1 and (steps := state.pool.lasting(state.step)) > 1:
                return Plan([], state.decodes, steps, [])
        plan = Plan([], 0, 1, [])
        if state.held:
            plan.joined = state.resume_held()
        rest = self._rest(state) if self.interval > 1 else 0
        if not state.prefilling or rest:
            if state.ready and state.pool.growth[state.step % state.pool.block_tokens] <= state.pool.free:
                plan.joined = [*plan.joined, *self._join(state, self.max_tokens - state.decodes, gives=True)]
            if self._nothing_to_admit(state, rest):
                plan.steps = self._lasting(state, rest)
        if plan.steps > 1:
            plan.decodes = state.decodes
        else:
            self._compute(state, plan, rest)
        if self.interval > 1:
            self._note(state, plan, rest)
        return plan

    def _lasting(self, state: EngineState, rest: int) -> int:
        """Return the steps for which nobody is admitted and blocks suffice."""
        if self.chunk_share and self.chunk_tokens and not (self.chunked and self.reserve_full_prompt) and state.waiting:
            # The more come, the smaller the share that must fit for the first of them.
            return 1
        steps = steps_alike(state)
        return min(steps, rest) if rest and (state.waiting or state.prefilling) else steps

    def _compute(self, state: EngineState, plan: Plan, rest: int) -> None:
        """Fill in a plan of one step."""
        if state.media is not None:
            state.media.new_step(state)
        budget = share_out(self, state, plan, puts_off=rest > 0)
        if not plan.preempted:
            if state.prefilling and state.ready:
                joined = self._join(state, budget, gives=False)
                plan.joined = [*plan.joined, *joined]
                budget -= len(joined)
            self._admit(state, budget, plan, puts_off=rest > 0)
        plan.decodes = state.decodes

    # --- prompts put off -----------------------------------------------------------------------------

    def _rest(self, state: EngineState) -> int:
        """Return the steps from this one on in which no prompt is computed; 0 if this one may."""
        cadence: Cadence = state.memory
        if cadence.bound or len(state.running) == len(state.prefilling):
            return 0
        if cadence.beat is not None:
            return -cadence.beat.step % self.interval
        return max(0, self.interval - 1 - (state.step - cadence.last_step))

    def _note(self, state: EngineState, plan: Plan, rest: int) -> None:
        """Remember a step that computes prompts, and whether all who waited were admitted."""
        cadence: Cadence = state.memory
        # A request that joins with one token to compute is none that computes its prompt.
        if any(r.index in state.prefilling or r.tokens - r.computed > 1 for r, _ in plan.chunks):
            cadence.last_step = state.step + (state.decodes > 0)
        elif plan.chunks and not state.decodes:
            # A step all the same, though the step counter stands still.
            cadence.last_step -= 1
        if not (rest or plan.preempted):
            cadence.bound = len(state.waiting) > 0

    # --- admission -----------------------------------------------------------------------------------

    def _join(self, state: EngineState, budget: int, *, gives: bool) -> list[Request]:
        """Let requests decode whose KV was fetched, and return them; each computes a token.

        With all of their context in the cache but one token, they are decodes to vLLM's attention like any other.
        The block of that token came with the others: it is given back where all decodes are about to take theirs.
        """
        pool = state.pool
        joined: list[Request] = []
        while state.ready and len(state.running) + state.elsewhere < self.max_sequences and len(joined) < budget:
            request = state.ready.popleft()
            if gives and request.computed % pool.block_tokens == 0:
                pool.give(1)
            state.running[request.index] = request
            state.join_decode(request)
            joined.append(request)
        return joined

    def _nothing_to_admit(self, state: EngineState, rest: int) -> bool:
        """Tell whether no waiting request can join before one leaves: then only decode steps remain."""
        queue = state.fetched or state.waiting
        if not queue or len(state.running) + state.elsewhere >= self.max_sequences:
            return True
        budget = self.max_tokens - state.decodes
        if budget <= 0:
            return True
        request = queue[0]
        if _follows(state, request):
            return False
        if rest and not request.remote and self._missing(state, request) > 1:
            return True
        return self._blocks_to_admit(state, request, budget, ()) > state.pool.free

    def _missing(self, state: EngineState, request: Request) -> int:
        """Return the tokens of a request to be admitted that are to be computed."""
        if request.computed:
            return request.tokens - request.computed
        return request.tokens - state.find(request)[0] * state.pool.block_tokens

    def most_of_one(self, state: EngineState) -> int:
        """Return the tokens of one prompt that a step computes at most."""
        if not self.chunk_tokens:
            return self.max_tokens
        others = len(state.running) + len(state.waiting) + len(state.ready) + state.loading
        others += len(state.fetching) + len(state.fetched)
        if others <= 1 and self.uncapped_alone:
            return self.max_tokens
        return max(self.chunk_tokens, self.max_tokens // others) if self.chunk_share else self.chunk_tokens

    def _blocks_to_admit(
        self, state: EngineState, request: Request, budget: int, chunks: Sequence[tuple[Request, int]]
    ) -> int:
        """Return the free blocks a request asks for before it is admitted beside chunks; more than all if never now."""
        pool, tokens = state.pool, request.tokens
        if request.computed:
            here, idle = request.computed // pool.block_tokens, 0
        else:
            here, idle = state.find(request) if state.cache is not None else (0, 0)
        if not (request.remote or (self.chunked and self.reserve_full_prompt)):
            past = here * pool.block_tokens
            new = min(tokens - past, self.most_of_one(state)) if self.chunk_tokens else tokens - past
            if not self.chunked and new > budget:
                return pool.blocks + 1
            if not self.reserve_full_prompt:
                tokens = past + min(new, budget)
                if state.host is not None:
                    tokens = max(tokens, state.host.find(request) * pool.block_tokens)
        # A block that is here but that nobody uses is a free one less, like a new one.
        blocks = pool.blocks_for(tokens) - here + idle
        if request.remote and self.loan_reserves and (state.prefilling or chunks):
            blocks += _still_needed(state, chunks)
        if self.watermark and state.running:
            # Of all blocks, the one vLLM keeps as a placeholder among them.
            blocks += int(self.watermark * (pool.blocks + 1))
        return blocks

    def _admit(self, state: EngineState, budget: int, plan: Plan, *, puts_off: bool) -> None:
        pool = state.pool
        most = self.most_of_one(state) if self.chunk_tokens else self.max_tokens
        while queue := state.fetched or state.waiting:
            request = queue[0]
            if budget <= 0 or len(state.running) + state.elsewhere >= self.max_sequences:
                break
            if state.cache is not None:
                state.catch_up(request, 1)
            if _follows(state, request, plan.fetches):
                state.fetching[request.index] = queue.popleft()
                state.following.append(request)
                continue
            if puts_off and not request.remote and self._missing(state, request) > 1:
                break
            if self._blocks_to_admit(state, request, budget, plan.chunks) > pool.free:
                break
            allowed = min(budget, most) if state.media is None else self._allowed(state, request, min(budget, most))
            if not allowed:
                break
            queue.popleft()
            if state.host is not None and self._fetch(state, request, plan):
                continue
            # What was copied from the host is held already.
            here = state.claim(request) if queue is state.waiting else request.computed // pool.block_tokens
            if request.remote:
                pool.take(pool.blocks_for(request.tokens) - here)
                plan.loads = (*plan.loads, request)
                continue
            state.running[request.index] = request
            new = min(request.tokens - request.computed, allowed)
            tokens = request.computed + new
            state.take(request, pool.blocks_for(tokens) - here, tokens)
            plan.chunks.append((request, new))
            budget -= new

    def _allowed(self, state: EngineState, request: Request, most: int) -> int:
        """Return the tokens of a prompt that a step can compute, as its images are encoded; those of fetched KV are."""
        if state.media is None or request.remote:
            return most
        new = min(self._missing(state, request), most)
        return state.media.allow(request, request.tokens - self._missing(state, request), new)

    def _fetch(self, state: EngineState, request: Request, plan: Plan) -> bool:
        """Let a request that is admitted have copied what the host has of it, if that is more than what is here."""
        if state.host is None or request.remote or request.computed:
            return False
        blocks = state.host.find(request)
        if blocks <= state.find(request)[0]:
            return False
        state.claim_from_host(request, blocks)
        plan.fetches = (*plan.fetches, request)
        return True

    def victim(self, state: EngineState) -> Request:
        """Return the running request that is preempted next: the last admitted, or the least urgent."""
        if self.by_priority:
            return max(state.running.values(), key=lambda request: (request.priority, request.order))
        return state.running[next(reversed(state.running))]


def _still_needed(state: EngineState, chunks: Sequence[tuple[Request, int]]) -> int:
    """Return the blocks that prompts in progress lack, those of a step's chunks taken already."""
    blocks_for, ends = state.pool.blocks_for, dict.fromkeys(state.prefilling.values(), 0)
    ends |= dict(chunks)
    return sum(blocks_for(request.tokens) - blocks_for(request.computed + new) for request, new in ends.items())


def _follows(state: EngineState, request: Request, begun: Sequence[Request] = ()) -> bool:
    """Tell whether blocks a request would have copied from the host are being copied for others, or have ``begun``."""
    if state.host is None or not (state.fetching or begun) or request.remote or request.computed:
        return False
    return state.host.comes(request, state.find(request)[0], (*state.fetching.values(), *begun))
