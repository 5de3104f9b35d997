"""An engine loop around the scheduler of the installed vLLM, on the simulator's clock and at its prices.

The loop is that of vLLM's engine core, without and with asynchronous scheduling. Every step is an event of its own.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from simulator.decisions import Decision
from simulator.installed_vllm import VllmCore
from simulator.instance import Instance
from simulator.schedulers.state import EngineState

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator

    from simulator.engine_parts import EngineParts
    from simulator.installed_vllm import CoreOptions, ScheduledStep
    from simulator.request import Request
    from simulator.surroundings import Surroundings

__all__ = ["LiveInstance", "live_instances"]


class LiveState(EngineState):
    """Counters of a live instance; queues and blocks are vLLM's own."""

    __slots__ = ("core",)

    def __init__(self, core: VllmCore) -> None:
        super().__init__(core.options.blocks, core.options.block_tokens)
        self.core = core

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks of a request are here already, and how many of them nobody uses."""
        return self.core.find(request)

    def load(self) -> tuple[int, int, int]:
        """Return tokens that wait to be computed, blocks in use, and tokens of a block."""
        return self.core.waiting_tokens(), self.pool.blocks - self.core.free, self.pool.block_tokens

    def count_blocks(self) -> None:
        """Take note of the blocks that vLLM handed out and got back."""
        pool, core = self.pool, self.core
        pool.take(max(0, pool.free - core.least_free))
        core.least_free = core.free
        pool.give(core.free - pool.free)


class LiveInstance(Instance):
    """One engine whose decisions are vLLM's.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`.
    core
        What the scheduler is told.
    note
        Is told every decision, with the number of the instance.
    """

    def __init__(
        self,
        around: Surroundings,
        parts: EngineParts,
        *,
        core: CoreOptions,
        note: Callable[[int, Decision], None] | None = None,
    ) -> None:
        super().__init__(around, parts)
        self.core = VllmCore(core)
        self.state = self._counters = LiveState(self.core)
        self._tell = note
        self._requests: dict[int, Request] = {}
        self._computed: dict[int, int] = {}
        self._decoding: set[int] = set()
        self._producing: set[int] = set()
        self._last_ns: dict[int, int] = {}
        self._lost: dict[int, int] = {}
        self._busy_until_ns = 0

    def submit(self, request: Request) -> None:
        """Queue a request now."""
        index, ledger = request.index, self.ledger
        self._requests[index] = self.state.running[index] = request
        produced = request.tokens - ledger.prompt_tokens[index]
        self.core.add(request, ledger.output_tokens[index] - produced)
        self._notice(changed=True)

    def take_begun(self) -> int:
        """Return 0: every step takes its blocks when it begins."""
        return 0

    def stop(self) -> list[Request]:
        """End the engine now, with all KV it holds; see :meth:`simulator.instance.Instance.stop`."""
        self.ended_ns = self.env.now
        self._wake_up.silence()
        left: list[Request] = []
        for index, (tokens, computed) in self.core.requests().items():
            request = self._requests[index]
            request.tokens, request.computed = tokens, tokens if index in self._producing else computed
            request.stalled_ns = self._last_ns.get(index, request.stalled_ns)
            left.append(request)
        self.state.running.clear()
        self.state.lose_all()
        return left

    def serve(self) -> Generator[None, Any, None]:
        """Run the engine for ever, as vLLM's engine core does."""
        core = self.core
        under_way: deque[tuple[ScheduledStep, tuple[int, ...], set[int]]] = deque()
        while True:
            if core.busy:
                step = core.schedule()
                under_way.append((step, *self._begin_step(step)))
                if len(under_way) <= core.options.overlaps and (step.tokens or core.busy):
                    # The next step is scheduled while this one runs.
                    continue
            elif not under_way:
                self._wake_up.when_rung()
                yield
                continue
            step, row, completes = under_way.popleft()
            if step.tokens:
                self._wake_up.after(row[0] + row[1] - self.env.now)
                yield
                self.log.add(row)
                self.outlet.waiting += row[3] + row[7]
            self._apply_step(step, completes)

    # --- steps ---------------------------------------------------------------------------------------

    def _begin_step(self, step: ScheduledStep) -> tuple[tuple[int, ...], set[int]]:
        """Take note of what a step will do; return its row of the log and whose prompts it completes."""
        if self._tell is not None and (step.tokens or step.preempted):
            self._tell(self.number, Decision.of(step.tokens, step.admitted, step.preempted))
        for index in step.preempted:
            self._note_lost(index)
        start = max(self.env.now, self._busy_until_ns)
        for index, found in step.admitted.items():
            self._note_admitted(index, found, start)
        self._counters.count_blocks()
        if not step.tokens:
            return (), set()
        duration, shape = self._price_step(step)
        self._busy_until_ns = start + duration
        self._computed.update((index, step.past[index] + new) for index, new in step.tokens.items())
        produce = {index for index, sampled in zip(step.tokens, step.sampled, strict=True) if sampled}
        completes = produce - self._decoding
        self._decoding |= completes
        return (start, duration, 1, *shape, 0), completes

    def _price_step(self, step: ScheduledStep) -> tuple[int, tuple[int, ...]]:
        """Return the duration of a step, and decodes, context, tokens, prompts, completed, pairs and reach."""
        decoding, past = self._decoding, step.past
        cached = [past[index] for index in step.tokens if index in decoding]
        decodes, context = len(cached), sum(cached) // len(cached) if cached else 0
        chunks = [(past[index], past[index] + new) for index, new in step.tokens.items() if index not in decoding]
        if not chunks:
            return self.prices.decode_ns(decodes, context), (decodes, context, 0, 0, 0, 0, 0)
        tokens = sum(end - start for start, end in chunks)
        completed = sum(map(bool, step.sampled)) - decodes
        pairs, reach = sum(end * end - start * start for start, end in chunks), sum(end for _, end in chunks)
        duration = self.prices.mixed_ns(
            tokens=tokens + decodes,
            samples=decodes + completed,
            decodes=decodes,
            context=context,
            prompts=len(chunks),
            pairs=pairs,
            reach=reach,
        )
        return duration, (decodes, context, tokens, len(chunks), completed, pairs, reach)

    def _apply_step(self, step: ScheduledStep, completes: Container[int]) -> None:
        """Let a step be over that computed the last of some prompts."""
        ledger, now = self.ledger, self.env.now
        told, finished = self.core.update(step)
        self._counters.count_blocks()
        for index in told:
            request = self._requests[index]
            if ledger.first_token_ns[index] < 0:
                ledger.first_token_ns[index] = now
                self.outlet.first(index, now)
            if index in completes and request.stalled_ns >= 0:
                ledger.note_gap(request.stalled_ns, now)
            # One that was put back while its token was under way waits from now on.
            request.stalled_ns = now if index in self._lost else -1
            self._last_ns[index] = now
            if index not in self._lost:
                self._producing.add(index)
        for index in finished:
            del self._requests[index], self.state.running[index], self._last_ns[index], self._computed[index]
            self._decoding.discard(index)
            self._producing.discard(index)
            # It was put back while its last token was under way: nothing is computed once more.
            self.state.recomputed -= self._lost.pop(index, 0)
            self.outlet.last(index, now)
            self.watcher.finished(self.number, index)

    # --- requests ------------------------------------------------------------------------------------

    def _note_lost(self, index: int) -> None:
        """Take note that a request lost its KV."""
        request, state = self._requests[index], self.state
        lost = self._computed[index] + (index in self._decoding)
        self._lost[index] = lost
        self._decoding.discard(index)
        self._producing.discard(index)
        state.recomputed += lost
        state.preemptions += 1
        self.ledger.preemptions[index] += 1
        request.epoch += 1
        request.stalled_ns = self._last_ns.get(index, request.stalled_ns)

    def _note_admitted(self, index: int, found: int, start_ns: int) -> None:
        """Take note that a request left the queue."""
        request, ledger, state = self._requests[index], self.ledger, self.state
        self._lost.pop(index, None)
        if ledger.admitted_ns[index] < 0:
            ledger.admitted_ns[index] = start_ns
            ledger.cached_tokens[index] = found
        if self.core.options.caching:
            state.reused += found
            if not request.epoch:
                state.queried += request.tokens
                state.hits += found


def live_instances(core: CoreOptions, note: Callable[[int, Decision], None] | None = None) -> Callable[..., Instance]:
    """Return what makes instances whose scheduler is told this, and whose decisions are told to somebody."""
    return partial(LiveInstance, core=core, note=note)
