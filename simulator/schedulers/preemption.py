"""Taking a running request's KV away, to be recomputed later."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["preempt"]


def preempt(state: EngineState, request: Request) -> Request:
    """Put a running request at the head of the queue and return it; its KV is lost and will be recomputed."""
    del state.running[request.index]
    if request is state.prefilling:
        state.prefilling = None
        state.recomputed += request.computed
    else:
        state.leave_decode(request)
        request.tokens = request.computed + 1
        state.recomputed += request.tokens
    request.epoch += 1
    state.release(request)
    request.computed = 0
    state.preemptions += 1
    state.waiting.appendleft(request)
    return request
