"""An engine that schedules asynchronously: the next step is planned when this one begins.

vLLM's engine core does so with ``async_scheduling`` (``step_with_batch_queue`` of ``v1/engine/core.py``): a plan knows
which tokens the running step will have computed, but not who came since it began, and those who get their last
token in it still hold their places and their blocks. Here the plan is made at the end of the step, with what was known
at its beginning, so that nothing is planned that a later event would change.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.request import Request
    from simulator.schedulers.plan import Plan, Scheduler
    from simulator.schedulers.state import EngineState

__all__ = ["Lookahead"]


class Lookahead:
    """What one engine has not seen yet.

    Parameters
    ----------
    scheduler, state
        Whose plans are made ahead.

    Attributes
    ----------
    unseen
        What has happened since: when, what to do about it, with which request, and whether that may change the plan.
    last_step_ns
        When the last step began; known while there is something unseen.
    lags
        Something had happened that the last plan did not know.
    changes
        It may change the next plan: a run must end after its first step.
    """

    __slots__ = ("_scheduler", "_state", "changes", "lags", "last_step_ns", "unseen")

    def __init__(self, scheduler: Scheduler, state: EngineState) -> None:
        self._scheduler, self._state = scheduler, state
        state.plans_ahead = True
        self.unseen: deque[tuple[int, Callable[[Request], object], Request, bool]] = deque()
        self.last_step_ns = 0
        self.changes = self.lags = False

    def note(self, now_ns: int, action: Callable[[Request], object], request: Request, *, changes: bool) -> None:
        """Remember something that happens now, to be done before the first plan that can know of it."""
        self.unseen.append((now_ns, action, request, changes))
        self._state.unseen_tokens += request.tokens

    def see_all(self) -> None:
        """Do all that was remembered."""
        self.see(1 << 62)

    def see(self, until_ns: int) -> None:
        """Do what was remembered by then."""
        unseen, state = self.unseen, self._state
        while unseen and unseen[0][0] <= until_ns:
            _, action, request, _ = unseen.popleft()
            state.unseen_tokens -= request.tokens
            action(request)

    def plan(self) -> Plan:
        """Return the plan made at the beginning of the step that ends now."""
        if self.unseen:
            self.see(self.last_step_ns)
        state = self._state
        plan = self._scheduler.plan(state)
        if self.unseen or state.ending or state.unsettled:
            self.planned(plan)
        else:
            self.lags = self.changes = False
        return plan

    def look(self) -> None:
        """See what had happened when the step that ends now began."""
        if self.unseen:
            self.see(self.last_step_ns)

    def planned(self, plan: Plan) -> None:
        """Let those go who ended in the step that ends now, of which the plan did not know."""
        state = self._state
        self.lags = self.changes = False
        if state.ending or state.unsettled:
            if plan.steps > 1 and plan.decodes:
                # Its first step has its blocks before any are freed.
                state.pool.take_until(state.step, state.step + 1)
            if state.settles(state):
                self.lags = True
                self.changes = bool(state.waiting or state.ready or state.fetched)
        for _, _, request, changes in self.unseen:
            self.lags = True
            self.changes = self.changes or changes or state.waiting.would_lead(request)

    def catch_up(self, now_ns: int) -> bool:
        """Let the next plan know all that has happened by now; tell whether the last one did not."""
        self.last_step_ns = now_ns
        return self.lags
