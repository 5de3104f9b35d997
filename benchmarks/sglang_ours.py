"""What servesim's SGLang policy decides in every step of a workload whose arrivals are counted in steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.inbox import Inbox
from simulator.request import Request
from simulator.schedulers import SglangScheduler
from simulator.schedulers.state import EngineState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.schedulers.plan import Plan
    from simulator.schedulers.sglang_memory import Memory

__all__ = ["MOST_STEPS", "Case", "Row", "Steps", "decisions"]

#: No case is longer, unless something is wrong.
MOST_STEPS = 20_000

Case = dict[str, Any]
Row = dict[str, Any]


def decisions(case: Case) -> list[Row]:
    """Return what every step of a case decides, until all requests are done.

    Parameters
    ----------
    case
        ``rules``, ``page``, ``pages``, ``running``, ``context``, ``caching`` and ``requests``: see
        :func:`benchmarks.conformance_sglang.random_case`.
    """
    return Steps(case).run()


class Steps:
    """An engine without a clock."""

    def __init__(self, case: Case, *, prompts: bool = True) -> None:
        self.case = case
        self.page, self.coming = case["page"], sorted(case["requests"], key=lambda row: (row["at"], row["index"]))
        self.outputs = {row["index"]: row["output"] for row in self.coming}
        self.prompts = {row["index"]: row["spans"][-1][1] for row in self.coming}
        self.overlap = case["rules"]["overlap"]
        self.state = EngineState(case["pages"], case["page"], caching=case["caching"], prompts=prompts)
        self.scheduler = _scheduler(case)
        self.scheduler.begin(self.state)
        self.inbox = Inbox(self.state, case["rules"].get("recv_interval", 1))
        self.log: list[Row] = []

    def run(self) -> list[Row]:
        """Run to the end."""
        step, last, quiet = 0, False, 0
        while len(self.log) < MOST_STEPS:
            while self.coming and self.coming[0]["at"] <= step:
                self.inbox.add(step, self.request(self.coming.pop(0)), self.state)
            self.inbox.look(step)
            plan = self.scheduler.plan(self.state)
            self.inbox.planned(plan)
            computes = bool(plan.chunks or plan.decodes)
            self._note(step, plan)
            if self.overlap:
                self.state.settles(self.state)
            if not computes and not (last and self.overlap):
                self.inbox.rest()
                if not (self.inbox or self.state.waiting or self.state.running):
                    if not self.coming:
                        return self.log
                    step = max(step, self.coming[0]["at"] - 1)
                elif quiet > 50:
                    self.log.append({"stuck": True})
                    return self.log
                quiet += 1
            else:
                quiet = 0
            self._apply(plan)
            last, step = computes, step + 1
        return self.log

    def _note(self, step: int, plan: Plan) -> None:
        """Write down what a plan decided."""
        state = self.state
        memory: Memory = state.memory
        pool = memory.pool
        if plan.decodes and plan.steps > 1:
            pool.take_run(state.step, 1)
        decodes = [r for r in state.running.values() if memory.decodes(state, r)] if plan.decodes else []
        rows = [request.index for request in memory.in_order([*decodes, *plan.spare])]
        row: Row = {
            "it": step,
            "kind": "prefill" if plan.chunks else "decode" if plan.decodes else "none",
            "blank": pool.blank * self.page,
            "idle": (pool.free - pool.blank) * self.page,
            "ratio": memory.ratio.at(state.step + (plan.decodes > 0)),
            "queue": [request.index for request in state.waiting],
            "rows": rows,
        }
        if plan.chunks:
            row["chunks"] = [[request.index, request.computed, new] for request, new in plan.chunks]
        self.log.append(row)

    def _apply(self, plan: Plan) -> None:
        """Let a step be over."""
        state = self.state
        if plan.decodes:
            state.step += 1
            state.context_sum += plan.decodes
            spare = {request.index for request in plan.spare}
            for request in list(state.running.values()):
                if request.index in state.memory.reserve and request.index not in state.ending | dict.fromkeys(spare):
                    self._end(request, request.anchor + state.step + 1)
        for request, new in plan.chunks:
            request.computed += new
            if request.computed < request.tokens:
                state.prefilling[request.index] = request
                continue
            state.prefilling.pop(request.index, None)
            state.join_decode(request)
            self._end(request, request.tokens + 1)

    def _end(self, request: Request, tokens: int) -> None:
        if tokens == self.prompts[request.index] + self.outputs[request.index]:
            self.state.leave_decode(request)
            self.state.ending[request.index] = request

    @staticmethod
    def request(row: Mapping[str, Any]) -> Request:
        """Return a request as an engine knows it."""
        prompt = row["spans"][-1][1]
        request = Request(row["index"], prompt, prompt + row["declared"])
        spans = [span for span in row["spans"] if span[0] != request.own_content]
        request.prefix = tuple(content for content, _ in spans)
        request.prefix_ends = tuple(end for _, end in spans)
        request.priority, request.named = row["priority"], True
        return request


def _scheduler(case: Case) -> SglangScheduler:
    rules = case["rules"]
    return SglangScheduler(
        rules["chunk"],
        case["running"],
        max_prefill_tokens=rules["max_prefill_tokens"],
        max_prompts=rules["max_prompts"],
        schedule_policy=rules["policy"],
        conservativeness=rules["conservativeness"],
        mixed=rules["mixed"],
        overlap=rules["overlap"],
        interval=rules["interval"],
        interval_batch=rules["interval_batch"],
        ranked=rules["ranked"],
        preempts=rules["preempts"],
        threshold=rules["threshold"],
        retracts_by_priority=rules["retracts_by_priority"],
        ignore_eos=rules["ignore_eos"],
        reserved_tokens=case.get("reserved", 512),
        extra_rows=case.get("extra_rows", 0),
        longest=case["context"],
    )
