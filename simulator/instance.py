"""The engine loop of one instance: plan a step, wait its time, apply it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.engine_core import EngineCore

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from simulator.engine_parts import EngineParts
    from simulator.records import StepLog
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.surroundings import Surroundings

__all__ = ["Instance"]


class Instance(EngineCore):
    """One engine with one scheduler, and the process that lets its steps pass.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`.
    """

    def __init__(self, around: Surroundings, parts: EngineParts) -> None:
        super().__init__(around, parts)
        self._wake_up.drive(self.serve())

    @property
    def cores(self) -> Sequence[EngineCore]:
        """What holds requests and blocks: the engine itself."""
        return (self,)

    @property
    def step_logs(self) -> Sequence[StepLog]:
        """The log that says how long steps were."""
        return (self.log,)

    def rank_of(self, request: Request) -> int:  # noqa: ARG002 - of a server that has several
        """Return 0: it has one rank."""
        return 0

    def next_plan(self) -> Plan:
        """Receive who has come, if this pass looks for requests; plan the next step, and begin it."""
        inbox = self._inbox
        if inbox is None:
            return EngineCore.next_plan(self)
        inbox.look(self.known_ns())
        plan = super().next_plan()
        inbox.planned(plan)
        return plan

    def lags(self, plan: Plan) -> bool:
        """Let the plan after one without a step know all there is; tell whether that one did not."""
        again = super().lags(plan)
        return again if self._inbox is None else self._inbox.goes_on(again=again)

    def serve(self) -> Generator[None, Any, None]:
        """Run the engine for ever."""
        state, run, wake_up = self.state, self._run, self._wake_up
        while True:
            plan = self.next_plan()
            if plan.chunks:
                duration_ns = self.price_chunks(plan)
                if self.tells_chunks:
                    self.tell_chunks(plan, duration_ns)
                wake_up.after(duration_ns)
                yield
                self.apply_chunks(plan)
            elif plan.decodes:
                run.begin(self.steps_unchanged(plan), state.decodes, state.context_sum // state.decodes)
                yield
                steps, run.steps = run.steps, 0
                self.apply_decodes(plan, steps)
            elif not self.lags(plan):
                self.check_asleep()
                wake_up.when_rung()
                yield
                self.lags(plan)
