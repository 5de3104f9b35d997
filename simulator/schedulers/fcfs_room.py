"""Blocks for the sequences that decode, by order of arrival: the rules engines took over from vLLM of 2023.

A sequence's step needs a free block, for some engines even where its last one has room. Where there is none, the last
to have arrived goes back to the head of the queue and is recomputed. A prompt that is cut holds the blocks of all of
its tokens from the start: those of its rest are free to nobody else.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from simulator.schedulers.preemption import preempt

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["blocks_of_rests", "blocks_to_admit", "join_ready", "room_for_decodes", "steps_alike"]


def blocks_of_rests(state: EngineState) -> int:
    """Return the free blocks that belong to what is left of prompts that are cut."""
    pool = state.pool
    return sum(
        pool.blocks_for(request.tokens) - pool.blocks_for(request.computed) for request in state.prefilling.values()
    )


def blocks_to_admit(state: EngineState, request: Request) -> int:
    """Return the free blocks that all tokens of a waiting request need: one nobody uses is a free one less, too."""
    state.catch_up(request, 0)
    here, idle = state.find(request)
    return state.pool.blocks_for(request.tokens) - here + idle


def steps_alike(state: EngineState, spare: int = 0) -> int:
    """Return the steps for which blocks suffice, ``spare`` left, and nobody finds what another one adds: at least 1."""
    cache = state.showing if state.waiting else None
    if cache is not None and cache.waits_for_answer(state.waiting[0]):
        return 1
    return max(1, state.pool.lasting(state.step, spare))


def join_ready(state: EngineState, max_sequences: int) -> list[Request]:
    """Let requests decode whose KV was fetched, and return them.

    The block of their next token came with the others: it is given back, to be taken with those of all sequences.
    """
    joined: list[Request] = []
    while state.ready and len(state.running) < max_sequences:
        request = state.ready.popleft()
        if request.computed % state.pool.block_tokens == 0:
            state.pool.give(1)
        state.running[request.index] = request
        state.join_decode(request)
        joined.append(request)
    return joined


def room_for_decodes(state: EngineState, *, free_block_each: bool) -> list[Request]:
    """Take one step's blocks for the decoding sequences; return those preempted where blocks lack.

    Parameters
    ----------
    state
        The instance.
    free_block_each
        A sequence's step needs a free block although its last one has room.
    """
    pool = state.pool
    needed = pool.needed(state.step, 1)
    if needed + free_block_each + blocks_of_rests(state) <= pool.free or not state.decodes:
        pool.take(needed)
        return []
    preempted: list[Request] = []
    order = deque(sorted(state.running.values(), key=lambda request: request.order))
    while order:
        request = order.popleft()
        if request.index in state.prefilling:
            continue
        takes = not (request.anchor + state.step) % pool.block_tokens
        while pool.free <= blocks_of_rests(state) and (takes or free_block_each):
            preempted.append(preempt(state, order.pop() if order else request))
            if request.index not in state.running:
                return preempted
        pool.take(takes)
    return preempted
