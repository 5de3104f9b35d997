"""Whom SGLang puts back into the queue, to be recomputed later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from simulator.schedulers.reserve import CLIP_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.radix_cache import RadixCache
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.sglang_admission import Admission
    from simulator.schedulers.sglang_memory import Memory
    from simulator.schedulers.state import EngineState

__all__ = ["Rules", "make_room", "outranked", "push_out", "room_to_decode"]

#: Tokens that are made free for every request that stays (``SGLANG_RETRACT_DECODE_STEPS``).
_SPARE_TOKENS = 20


class Rules(Protocol):
    """What the policy says about requests that must go."""

    @property
    def retracts_by_priority(self) -> bool:
        """The least urgent go first."""
        ...

    @property
    def threshold(self) -> int:
        """How much more urgent a request must be to push out another one."""
        ...


def room_to_decode(state: EngineState, memory: Memory, spare: Sequence[Request]) -> bool:
    """Evict what is in the way of the next tokens, and tell whether they fit."""
    pool = memory.pool
    need = pool.needed(state.step, 1)
    if spare:
        need += sum(request.computed % pool.block_tokens == 0 for request in spare)
    if pool.blank < need:
        pool.evict(need)
    return need <= pool.blank


def make_room(rules: Rules, state: EngineState, memory: Memory, plan: Plan, spare: Sequence[Request]) -> list[Request]:
    """Retract running requests until the tokens of the others fit; return those in ``spare`` that are left.

    The last one goes, too, if it does not fit alone; SGLang gives it up.
    """
    pool, step = memory.pool, state.step
    decoding = [request for request in state.running.values() if memory.decodes(state, request)]

    def dearness(request: Request) -> tuple[int, int, int, int]:
        seat = memory.seats[request.index]
        urgency = request.priority if rules.retracts_by_priority else 0
        return urgency, memory.left(request, step) - (seat.limit - seat.prompt), seat.prompt, seat.place

    keep = sorted([*decoding, *spare], key=dearness)
    pages = sum(_takes_page(state, request) for request in keep)
    first = True
    while first or not _have(pool, pages):
        if len(keep) == 1:
            break
        first = False
        request = keep.pop()
        pages -= _takes_page(state, request)
        put_back(state, memory, request, plan, others=len(keep))
        state.waiting.append(request)
    if len(keep) == 1 and not _have(pool, pages):
        request = keep.pop()
        put_back(state, memory, request, plan, others=0)
        state.waiting.append(request)
    memory.reorder(keep)
    memory.ratio.raise_to(_share(memory, keep, step), step + 1)
    memory.full = False
    return [request for request in spare if request in keep]


def _have(pool: RadixCache, pages: int) -> bool:
    pool.evict(pages)
    return pages <= pool.blank


def _takes_page(state: EngineState, request: Request) -> bool:
    """Tell whether the next token of a request needs a page."""
    ending = request.index in state.ending
    tokens = request.computed if ending else request.anchor + state.step
    return tokens % state.pool.block_tokens == 0


def _share(memory: Memory, kept: Sequence[Request], step: int) -> float:
    """Return which share of their answers those that stay may have produced after some more steps."""
    most = produced = 0
    for request in kept:
        seat = memory.seats[request.index]
        most += seat.limit - seat.prompt
        produced += seat.limit - seat.prompt - memory.left(request, step)
    return min(1.0, (produced + _SPARE_TOKENS * len(kept)) / (most + 1))


def put_back(state: EngineState, memory: Memory, request: Request, plan: Plan, *, others: int) -> None:
    """Take a running request's KV away; it must be recomputed, and its last token too if that is under way."""
    index, pool = request.index, memory.pool
    del state.running[index]
    lag = memory.lag(request)
    memory.reserve.discard(index)
    state.preemptions += 1
    if state.ending.pop(index, None) is None:
        state.leave_decode(request)
    # What the step before brought it is lost, too.
    memory.last = [other for other in memory.last if other is not request]
    pool.release(request)
    pool.evict(-(-others * _SPARE_TOKENS // pool.block_tokens))
    plan.preempted.append(request)
    # The token under way is lost.
    request.tokens = request.computed + 1 - lag
    state.wasted += lag
    request.epoch += 1
    if state.prompts:
        state.recomputed += request.tokens
        request.computed = 0
    else:
        # Its KV is copied to the host.
        request.computed = request.tokens
    memory.seats[index].found = 0


def outranked(rules: Rules, state: EngineState, memory: Memory, chosen: Admission, request: Request) -> list[Request]:
    """Return the running requests that make room for a more urgent one, in the order of the running batch."""
    seat = memory.seats[request.index]
    running = [state.running[index] for index in memory.reserve if index in state.running]
    running.sort(key=lambda other: (-other.priority, -memory.seats[other.index].entered))
    # SGLang does not count the prompt of a request that it looks at for the first time.
    missing = seat.offered - seat.found + min(seat.limit - seat.prompt, CLIP_TOKENS) - chosen.left()
    victims: list[Request] = []
    for other in running:
        if other.priority - request.priority <= rules.threshold:
            break
        victims.append(other)
        missing -= chosen.expected(other)
        if missing <= 0:
            break
    return memory.in_order(victims) if victims and missing <= 0 else []


def push_out(state: EngineState, memory: Memory, chosen: Admission, victims: Sequence[Request], plan: Plan) -> None:
    """Preempt running requests, which must be recomputed."""
    for victim in victims:
        chosen.forget(victim)
        put_back(state, memory, victim, plan, others=memory.reserve.size - 1)
