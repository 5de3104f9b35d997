"""Requests that an engine has not received: SGLang looks for them once in so many passes of its loop.

With ``scheduler_recv_interval`` (``SchedulerRecvSkipper`` of SGLang 0.5.23) a pass counts 1 if the step planned last
decodes, or if there is none, and 1000 if it computes prompts. A pass receives all requests that have come once the
count reaches the interval, and counts from 0 again: right behind a step that computes prompts, and every so many steps
of decoding.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.state import EngineState

__all__ = ["Inbox"]


class Inbox:
    """What has come to one engine and was not received.

    Parameters
    ----------
    state
        Of the engine, whose step counter tells how often it has decoded.
    interval
        Passes from one look to the next while it decodes.
    """

    __slots__ = ("_coming", "_due", "_interval", "_looked", "_state")

    def __init__(self, state: EngineState, interval: int) -> None:
        self._state, self._interval = state, interval
        self._coming: deque[tuple[int, Request]] = deque()
        # Step counter at the last look, less the passes that computed nothing.
        self._looked = 0
        self._due = True

    def __bool__(self) -> bool:
        return bool(self._coming)

    def add(self, now_ns: int, request: Request) -> None:
        """Take in a request that comes now."""
        self._coming.append((now_ns, request))
        self._state.unseen_tokens += request.tokens

    def look(self, until_ns: int) -> None:
        """Begin a pass that knows what had come by ``until_ns``; receive it, if this pass looks for requests."""
        past, interval = self._state.step - self._looked, self._interval
        if self._due or past % interval == 0 < past:
            self._looked, self._due = self._state.step, False
            self._receive(until_ns)
        else:
            self._looked += past // interval * interval

    def planned(self, plan: Plan) -> None:
        """Note what the pass has planned."""
        self._due = bool(plan.chunks)
        if not (plan.chunks or plan.decodes):
            self._looked -= 1

    def rest(self) -> None:
        """Let the next pass look: while nothing runs, passes take no time, and one of many that do nothing looks."""
        self._due = True

    def receive_all(self) -> None:
        """Receive whatever has come."""
        self._receive(1 << 62)

    def steps_to_look(self, least: int) -> int:
        """Return the fewest steps of decoding, ``least`` or more, behind which a pass looks for requests."""
        past = self._state.step - self._looked
        return least + -(past + least) % self._interval

    def _receive(self, until_ns: int) -> None:
        coming, state = self._coming, self._state
        while coming and coming[0][0] <= until_ns:
            _, request = coming.popleft()
            state.unseen_tokens -= request.tokens
            state.enqueue(request)
