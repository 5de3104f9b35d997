"""What servesim's SGLang policy decides on an instance that only decodes, pass by pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.sglang_ours import MOST_STEPS, Case, Row, Steps
from simulator.schedulers.plan import Plan

if TYPE_CHECKING:
    from simulator.request import Request

__all__ = ["decode_decisions"]


def decode_decisions(case: Case) -> list[Row]:
    """Return what every pass of a case decides, until all requests are done.

    Parameters
    ----------
    case
        As for :func:`benchmarks.sglang_ours.decisions`, and ``reserved`` tokens, ``extra_rows``, and ``passes`` from
        the pages of a request to its KV.
    """
    return _Decoding(case, prompts=False).run()


class _Decoding(Steps):
    """An engine without a clock whose prompts are computed elsewhere."""

    def run(self) -> list[Row]:
        """Run to the end."""
        state, passes = self.state, self.case["passes"]
        self.due: dict[int, list[Request]] = {}
        step, last, quiet = 0, False, 0
        self._first_look(0)
        while len(self.log) < MOST_STEPS:
            self._come(step)
            for request in self.due.pop(step, ()):
                state.deliver(request)
            plan = self.scheduler.plan(state)
            if not self.overlap:
                self._load(plan, step + passes)
            computes = bool(plan.decodes)
            self._note(step, plan)
            if self.overlap:
                # With results of the step before that one, and ahead of the plan that it belongs to.
                self._come(step + 1)
                self._look(plan, step + 1)
            if not computes and not (last and self.overlap):
                if not (state.waiting or state.running or state.ready or state.loading):
                    if not self.coming:
                        return self.log
                    step = max(step, self.coming[0]["at"] - 1)
                    self._first_look(step + 1)
                elif quiet > 50:
                    self.log.append({"stuck": True})
                    return self.log
                quiet += 1
            else:
                quiet = 0
            self._apply(plan)
            last, step = computes, step + 1
        return self.log

    def _first_look(self, step: int) -> None:
        """Look at who comes before a pass while nothing runs."""
        if self.overlap:
            self._come(step)
            self._look(Plan([], 0, 1, []), step)

    def _come(self, step: int) -> None:
        """Let requests come."""
        while self.coming and self.coming[0]["at"] <= step:
            self.state.enqueue(self.request(self.coming.pop(0)).going_on())

    def _look(self, plan: Plan, step: int) -> None:
        self.state.memory.reception.plan = plan
        self.state.settles(self.state)
        self._load(plan, step + self.case["passes"])

    def _load(self, plan: Plan, due: int) -> None:
        for request in plan.loads:
            self.state.loading += 1
            request.loading = True
            self.due.setdefault(due, []).append(request)
        plan.loads = []

    def _note(self, step: int, plan: Plan) -> None:
        super()._note(step, plan)
        row, state = self.log[-1], self.state
        del row["ratio"]
        row["ready"] = [request.index for request in list(state.ready)[: state.memory.reception.lined]]
