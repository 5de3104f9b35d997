"""TensorRT-LLM's policy step by step, with requests that end when a test says so."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.request import Request
from simulator.schedulers import SCHEDULERS, EngineState, Limits


@dataclass
class Step:
    """What a step computed: new tokens by request, who decoded, who was paused, whose KV is fetched, for how long."""

    chunks: dict[int, int]
    decoding: list[int]
    paused: list[int]
    loads: list[int]
    steps: int


class Steps:
    """One engine; requests are known by number."""

    def __init__(self, *, blocks=100, block_tokens=4, max_tokens=64, max_sequences=8, chunked=True, **rest):
        kinds = {name: rest.pop(name) for name in ("caching", "ahead", "answers", "longest") if name in rest}
        self.state = EngineState(blocks, block_tokens, **kinds)
        self.scheduler = SCHEDULERS["trtllm"](Limits(max_tokens, max_sequences, chunked), **rest)
        self.scheduler.begin(self.state)
        self.requests: dict[int, Request] = {}

    def add(self, index, prompt, *, answer=0, prefix=(), ends=(), remote=False, named=False):
        """Let a request come, of ``prompt`` tokens and at most ``answer`` more."""
        request = Request(index, prompt, prompt + answer)
        request.prefix, request.prefix_ends, request.remote, request.named = prefix, ends, remote, named
        self.requests[index] = request
        self.state.waiting.append(request)

    def deliver(self, index):
        """Let the KV of a request be here."""
        self.state.deliver(self.requests[index])

    def step(self) -> Step:
        """Plan a step and compute it."""
        state = self.state
        plan = self.scheduler.plan(state)
        state.settles(state)
        for request in plan.loads:
            request.loading = True
            state.loading += 1
        decoding = sorted(set(state.running) - set(state.prefilling) - {r.index for r, _ in plan.chunks})
        found = Step(
            {request.index: new for request, new in plan.chunks},
            decoding,
            [request.index for request in plan.preempted],
            [request.index for request in plan.loads],
            plan.steps,
        )
        assert plan.decodes == len(decoding)
        if plan.steps > 1:
            state.pool.take(state.pool.needed(state.step, 1))
        if plan.decodes:
            state.step += 1
            state.context_sum += plan.decodes
        for request, new in plan.chunks:
            request.computed += new
            if request.computed == request.tokens:
                state.prefilling.pop(request.index, None)
                state.join_decode(request)
            else:
                state.prefilling[request.index] = request
        assert state.pool.free >= 0
        return found

    def chunks(self) -> dict[int, int]:
        """Compute a step and return the new tokens of prompts."""
        return self.step().chunks

    def finish(self, *indices):
        """Let requests have all their tokens; where steps are planned ahead, the next plan does not know it."""
        for index in indices:
            request = self.requests[index]
            self.state.leave_decode(request)
            self.state.ending[index] = request
        if not self.state.ahead:
            self.state.settles(self.state)
