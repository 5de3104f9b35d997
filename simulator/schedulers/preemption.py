"""Taking a running request's KV away, to be recomputed later."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["preempt"]


def preempt(state: EngineState, request: Request, *, scheduled: bool = False) -> Request:
    """Put a running request back into the queue and return it; its KV is lost and will be recomputed.

    One that has all its tokens already is let go. What the blocks hold can be found until they are taken, and of one
    that decodes and was ``scheduled`` in this step already, what its token would have filled.
    """
    index = request.index
    del state.running[index]
    state.preemptions += 1
    if state.ending.pop(index, None) is not None:
        state.release(request, state.known_tokens(request, request.computed, scheduled=False))
        return request
    known = None
    if state.prefilling.pop(index, None) is None:
        if state.held.pop(index, None) is None:
            state.leave_decode(request)
        known = state.known_tokens(request, request.computed, scheduled=scheduled)
        request.tokens = request.computed + 1
        request.computed += scheduled
        state.recomputed += request.tokens
    else:
        state.recomputed += request.computed
    request.epoch += 1
    state.release(request, known)
    request.computed = 0
    state.waiting.appendleft(request)
    return request
