"""A scheduler that lets another one decide and writes down what it decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.decisions import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.schedulers.plan import Plan, Scheduler
    from simulator.schedulers.state import EngineState

__all__ = ["RecordingScheduler"]


class RecordingScheduler:
    """The scheduler of one instance whose decisions are written down.

    Its engine must take single steps: of a plan for several, the first is written down.

    Parameters
    ----------
    scheduler
        Who decides.
    note
        Is told every decision.
    """

    def __init__(self, scheduler: Scheduler, note: Callable[[Decision], None]) -> None:
        self._scheduler, self._note = scheduler, note

    def begin(self, state: EngineState) -> None:
        """Give a new instance what the other scheduler gives it."""
        self._scheduler.begin(state)

    def plan(self, state: EngineState) -> Plan:
        """Return the plan of the other scheduler; see :class:`simulator.schedulers.plan.Scheduler`."""
        before = set(state.running)
        plan = self._scheduler.plan(state)
        if plan.chunks or plan.decodes or plan.preempted:
            still = (state.prefilling, state.held, state.ending)
            tokens = {index: 1 for index in state.running if not any(index in group for group in still)}
            tokens |= {request.index: new for request, new in plan.chunks}
            admitted = {request.index: request.found for request, _ in plan.chunks if request.index not in before}
            self._note(Decision.of(tokens, admitted, (request.index for request in plan.preempted)))
        return plan
