"""Requests that an engine has not received: SGLang looks for them once in so many passes of its loop.

With ``scheduler_recv_interval`` (``SchedulerRecvSkipper`` of SGLang 0.5.23) a pass counts 1 if the step planned last
decodes, or if there is none, and 1000 if it computes prompts. A pass receives all requests that have come once the
count reaches the interval, and counts from 0 again: right behind a step that computes prompts, and every so many steps
of decoding. Attention ranks that step together count as one: a pass computes prompts if any of them does, decodes if
any does, and what it receives goes to the ranks it was dealt to (``derive_forward_mode`` there).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.beat import Beat
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.state import EngineState

__all__ = ["Inbox"]


class Inbox:
    """What has come to one engine, or to ranks that step together, and was not received.

    Parameters
    ----------
    counter
        The state of the engine, or what its ranks have in common: its step counter tells how often it has decoded.
    interval
        Passes from one look to the next while it decodes.
    """

    __slots__ = ("_coming", "_counter", "_due", "_interval", "_looked")

    def __init__(self, counter: EngineState | Beat, interval: int) -> None:
        self._counter, self._interval = counter, interval
        self._coming: deque[tuple[int, Request, EngineState]] = deque()
        # Step counter at the last look, less the passes that computed nothing.
        self._looked = 0
        self._due = True

    def __bool__(self) -> bool:
        return bool(self._coming)

    def add(self, now_ns: int, request: Request, state: EngineState) -> None:
        """Take in a request that comes now, for the engine or the rank that has this state."""
        self._coming.append((now_ns, request, state))
        state.unseen_tokens += request.tokens

    def look(self, until_ns: int) -> None:
        """Begin a pass that knows what had come by ``until_ns``; receive it, if this pass looks for requests."""
        past, interval = self._counter.step - self._looked, self._interval
        if self._due or past % interval == 0 < past:
            self._looked, self._due = self._counter.step, False
            self._receive(until_ns)
        else:
            self._looked += past // interval * interval

    def planned(self, *plans: Plan) -> None:
        """Note what the pass has planned, for each rank."""
        self._due = any(plan.chunks for plan in plans)
        if not (self._due or any(plan.decodes for plan in plans)):
            self._looked -= 1

    def goes_on(self, *, again: bool) -> bool:
        """Tell whether there is a pass behind one without a step: ``again``, or for those who were not received."""
        if not again:
            self.rest()
        return again or bool(self)

    def rest(self) -> None:
        """Let the next pass look: while nothing runs, passes take no time, and one of many that do nothing looks."""
        self._due = True

    def receive_all(self, state: EngineState) -> None:
        """Receive whatever has come for the engine or the rank that has this state."""
        coming = self._coming
        for _ in range(len(coming)):
            if coming[0][2] is state:
                self._receive_first()
            else:
                coming.rotate(-1)

    def steps_to_look(self, least: int) -> int:
        """Return the fewest steps of decoding, ``least`` or more, behind which a pass looks for requests."""
        past = self._counter.step - self._looked
        return least + -(past + least) % self._interval

    def _receive(self, until_ns: int) -> None:
        while self._coming and self._coming[0][0] <= until_ns:
            self._receive_first()

    def _receive_first(self) -> None:
        _, request, state = self._coming.popleft()
        state.unseen_tokens -= request.tokens
        state.enqueue(request)
