"""SGLang's continuous batching: prompts first and alone, room kept for answers, retraction where that is not enough.

Order of decisions as in SGLang 0.5.23 (``managers/scheduler.py``, ``schedule_policy.py``, ``schedule_batch.py``). A
step computes prompts, whole or one of them cut to the budget, or one token of every running request. A request is
admitted if its prompt, what it may produce and a share of what the others may still produce have room; if one was
refused for want of room, nobody is looked at before a running request leaves. If the next tokens do not fit, requests
are put back into the queue, those with the fewest tokens produced first.

With overlap scheduling a step is planned while the one before runs: the tokens of that one are not known yet, prompts
it computes are not in the tree, and requests that end in it decode once more, unless they are known to have all they
may. Requests that were retracted meanwhile lose the token under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.radix_cache import RadixCache
from simulator.schedulers.plan import Plan
from simulator.schedulers.reserve import NewTokenRatio
from simulator.schedulers.sglang_admission import Admission
from simulator.schedulers.sglang_line import Line
from simulator.schedulers.sglang_memory import Memory
from simulator.schedulers.sglang_order import arrange
from simulator.schedulers.sglang_reception import Reception, ReceptionLine
from simulator.schedulers.sglang_retraction import make_room, outranked, push_out, room_to_decode

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["SglangScheduler"]


@dataclass(frozen=True, slots=True)
class SglangScheduler:
    """The policy and its limits.

    Attributes
    ----------
    chunk_tokens
        Tokens of a step that computes prompts, to which one of them is cut; 0 if prompts are not cut
        (``chunked_prefill_size``).
    max_sequences
        Running requests (``max_running_requests``).
    max_prefill_tokens
        Tokens of a step after which no other prompt joins.
    max_prompts
        Prompts of a step; 0 for no bound (``prefill_max_requests``).
    schedule_policy
        How the queue is sorted, a key of :data:`simulator.schedulers.sglang_order.ORDERS`.
    conservativeness
        Factor of the share that is kept for answers (``schedule_conservativeness``).
    mixed
        Running requests decode in steps that compute prompts (``enable_mixed_chunk``).
    overlap
        Steps are planned while the one before runs; off with ``disable_overlap_schedule``.
    interval, interval_batch
        Steps of decoding after one that computes prompts, while so many requests run
        (``prefill_decode_interval``, ``prefill_decode_interval_min_bs``).
    ranked, preempts, threshold
        Requests have priorities (``enable_priority_scheduling``), and those less urgent by more than ``threshold``
        make room for others where too many run (unless ``disable_priority_preemption``;
        ``priority_scheduling_preemption_threshold``).
    retracts_by_priority
        The least urgent are retracted first (``retraction_policy``).
    ignore_eos
        Requests produce all they may, as those do that are sent with ``ignore_eos``.
    reserved_tokens
        Tokens kept free for every request on an instance that only decodes, before KV is asked for
        (``num_reserved_decode_tokens``).
    extra_rows
        Requests on such an instance beside the running ones (``disaggregation_decode_extra_slots``).
    longest
        The model's context.
    """

    chunk_tokens: int
    max_sequences: int
    max_prefill_tokens: int = 16384
    max_prompts: int = 0
    schedule_policy: str = "fcfs"
    conservativeness: float = 1.0
    mixed: bool = False
    overlap: bool = False
    interval: int = 0
    interval_batch: int = 0
    ranked: bool = False
    preempts: bool = False
    threshold: int = 10
    retracts_by_priority: bool = False
    ignore_eos: bool = False
    reserved_tokens: int = 512
    extra_rows: int = 0
    longest: int = 1 << 30

    def begin(self, state: EngineState) -> None:
        """Prepare a new instance; see :class:`simulator.schedulers.plan.Scheduler`."""
        caching = state.cache is not None and state.prompts
        pool = RadixCache(state.pool.blocks, state.pool.block_tokens, keeps=caching)
        state.pool = pool
        # It answers what the engine asks of either cache; without a tree, what is known of a request is its length.
        state.cache = pool if caching else None
        # An answer as long as the cache allows would never be admitted where all answers are planned to their ends.
        room = pool.blocks * pool.block_tokens - (self.ignore_eos and not caching)
        memory = Memory(pool, NewTokenRatio(self.conservativeness), room, min(self.longest, room) - 1, state.answers)
        state.memory, state.waiting = memory, Line(memory)
        state.settles = memory.settle if self.overlap else memory.wait_for_plan
        if not state.answers:
            state.departs = memory.depart
        if not state.prompts:
            memory.reception = Reception(self, memory)
            state.waiting, state.next_block = ReceptionLine(memory, ranked=self.ranked), False
            if self.overlap:
                state.settles, state.unsettled = memory.reception.settle, True

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan; see :class:`simulator.schedulers.plan.Scheduler`."""
        memory: Memory = state.memory
        if memory.reception is not None:
            return self._receive(state, memory, memory.reception)
        memory.turn_over(state, knows=not self.overlap)
        plan = Plan([], 0, 1, [])
        if not (memory.reserve.size or state.waiting or memory.chunked):
            if not memory.last_kind:
                memory.ratio.reset(state.step)
            return plan
        defers = state.step < memory.deferred_until and self._defers(state, memory)
        comes = state.waiting or memory.chunked is not None or self.preempts
        if (defers or not comes or not self._prefill(state, memory, plan)) and state.answers:
            self._decode(state, memory, plan)
            if defers and not plan.decodes:
                memory.deferred_until -= 1
        return plan

    def _receive(self, state: EngineState, memory: Memory, reception: Reception) -> Plan:
        """Return the next plan of an instance that decodes what others computed."""
        plan = Plan([], 0, 1, [])
        rows = state.decodes + len(state.ending)
        if self.overlap:
            memory.turn_over(state, knows=False)
        else:
            crowd = reception.crowd(state, state.ending.values())
            memory.turn_over(state, knows=True)
            reception.look(state, plan, crowd)
        ended, unseen = rows > state.decodes, len(state.ready) - reception.lined
        reception.join(state, plan, self.max_sequences - rows)
        # Rows that ended are out of the batch in the next pass.
        leaves = ended and bool(state.waiting or state.ready)
        # KV that was noticed only now has given its place to who comes next, at which the next pass looks.
        makes_room = unseen > 0 and not reception.held_up and bool(state.waiting)
        reception.wavers = leaves or (not self.overlap and (reception.wavers or makes_room))
        self._decode(state, memory, plan)
        if plan.preempted and plan.joined:
            plan.joined = [request for request in plan.joined if request.index in state.running]
        if leaves and not plan.decodes:
            plan.steps = 0
        reception.plan = plan
        return plan

    def _defers(self, state: EngineState, memory: Memory) -> bool:
        """Tell whether decoding goes before prompts in this step."""
        running = memory.reserve.size
        if not running or running < self.interval_batch:
            memory.deferred_until = state.step
            return False
        return True

    # --- steps that compute prompts ------------------------------------------------------------------

    def _prefill(self, state: EngineState, memory: Memory, plan: Plan) -> bool:
        """Fill in a step that computes prompts; tell whether there is one."""
        pool, line = memory.pool, state.waiting
        if self.preempts or not memory.reserve.size:
            memory.full = False
        if memory.chunked is None:
            if memory.full or not line:
                return False
            if memory.rows(len(line)) >= self.max_sequences and not self.preempts:
                memory.full = True
                return False
        assert isinstance(line, Line)  # noqa: S101 - given at the beginning
        arrange(self.schedule_policy, memory, pool, line, ranked=self.ranked)
        chosen = Admission(self, state, memory, pool, memory.reserve.size if self.mixed and self.chunk_tokens else 0)
        if memory.chunked is not None:
            chosen.go_on(memory.chunked)
        preempted = self._offer_all(state, memory, chosen, plan)
        computed = self._compute(state, memory, chosen, plan) + plan.decodes if chosen.chosen else 0
        for request in preempted:
            line.append(request)
        # Those that are back wait while this step computes.
        memory.processed += computed
        return bool(chosen.chosen)

    def _offer_all(self, state: EngineState, memory: Memory, chosen: Admission, plan: Plan) -> list[Request]:
        """Offer the waiting requests in order until one does not fit; return those that were preempted for them."""
        preempted: list[Request] = []
        if (chosen.chosen or chosen.taken) and chosen.spent():
            return preempted
        for request in state.waiting:
            if len(chosen.chosen) + memory.rows(len(state.waiting)) >= self.max_sequences:
                memory.full = True
            if memory.full:
                victims = outranked(self, state, memory, chosen, request) if self.preempts else []
                if not victims:
                    break
                push_out(state, memory, chosen, victims, plan)
                preempted += victims
            verdict = chosen.offer(request)
            if verdict == "no token":
                memory.full = bool(chosen.chosen) or memory.reserve.size > 0
            if verdict != "go on":
                break
        return preempted

    def _compute(self, state: EngineState, memory: Memory, chosen: Admission, plan: Plan) -> int:
        """Let a step compute what was chosen, and the running requests decode in it if they may; return its tokens."""
        pool, chunks, running = memory.pool, chosen.chosen, memory.reserve.size
        tokens, batch = 0, []
        for request, new in chunks:
            tokens += new
            batch.append(request)
            if request is not memory.chunked:
                state.waiting.popleft()
        memory.chunked = chosen.cut
        # SGLang makes room for a page more of every prompt than it needs.
        pages = tokens if pool.block_tokens == 1 else -(-tokens // pool.block_tokens) + len(chunks)
        if pool.blank < pages:
            pool.evict(pages)
        for request, new in chunks:
            state.running[request.index] = request
            pool.extend(request.computed, new)
        plan.chunks, memory.batch, memory.kind = chunks, batch, "prefill"
        if self.mixed and self.chunk_tokens and running and self._mix(state, memory, plan):
            memory.kind = "mixed"
            memory.ratio.pause()
        memory.deferred_until = state.step + (memory.kind == "mixed") + self.interval
        return tokens

    def _mix(self, state: EngineState, memory: Memory, plan: Plan) -> bool:
        """Let the running requests decode beside prompts, if their tokens fit; else they stand still."""
        spare = memory.spare_rows(state)
        if len(spare) < len(state.ending):
            memory.full = False
        if not room_to_decode(state, memory, spare):
            return False
        memory.decode_once_more(state, spare)
        if not state.decodes:
            return False
        plan.spare, plan.decodes = spare, state.decodes
        memory.pool.take_run(state.step, 1)
        return True

    # --- steps that decode ---------------------------------------------------------------------------

    def _decode(self, state: EngineState, memory: Memory, plan: Plan) -> None:
        """Let every running request compute a token, for as many steps as nobody else can join."""
        if not state.ending:
            steps = self._lasting(state, memory)
            if steps > 1:
                plan.decodes, plan.steps, memory.kind = state.decodes, steps, "decode"
                return
        spare = memory.spare_rows(state)
        known = len(spare) < len(state.ending)
        if known:
            memory.full = False
        if not state.decodes and not spare:
            return
        if not room_to_decode(state, memory, spare):
            if known:
                # Those that end give their room back before the next step.
                return
            spare = make_room(self, state, memory, plan, spare)
            if not state.decodes and not spare:
                return
        memory.decode_once_more(state, spare)
        plan.spare, plan.decodes, memory.kind = spare, state.decodes, "decode"
        if not (spare or plan.preempted):
            plan.steps = max(1, self._lasting(state, memory))
        if plan.steps == 1:
            memory.pool.take_run(state.step, 1)

    def _lasting(self, state: EngineState, memory: Memory) -> int:
        """Return the steps for which nothing changes if nobody comes and nobody ends; 1 or less if not even one."""
        steps = state.pool.lasting(state.step)
        if memory.reception is not None:
            return 1 if memory.reception.wavers else steps
        if memory.chunked is not None or (state.waiting and not (memory.full and not self.preempts)):
            # Without those that end now, too few may run for prompts to be put off any longer.
            fewer = bool(state.ending) and self.interval_batch > 0
            steps = min(steps, 1 if fewer else memory.deferred_until - state.step)
        return steps
