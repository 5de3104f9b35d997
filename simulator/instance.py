"""The engine loop of one instance: plan a step, wait its time, apply it."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from simpy.core import Environment
from simpy.events import URGENT, Event

from hardware.errors import LawError
from simulator.schedulers.state import EngineState

if TYPE_CHECKING:
    from collections.abc import Generator

    from perfdb.step_prices import StepPrices
    from simulator.records import Ledger, StepLog
    from simulator.request import Request
    from simulator.schedulers.state import Plan, Scheduler

__all__ = ["Clock", "Instance", "Urgent", "Watcher"]


class Clock(Environment):
    """The simulation, whose time is integer nanoseconds: float seconds would make ties accidental."""

    if TYPE_CHECKING:

        @property
        def now(self) -> int:
            """Nanoseconds since the run began."""
            ...


class Urgent(Event):
    """An event before all engine events of its instant: a plan sees what has happened by its time."""

    def __init__(self, env: Clock, delay_ns: int) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, URGENT, delay_ns)


class Watcher(Protocol):
    """Whoever an instance tells what concerns others."""

    def finished(self, instance: int, index: int) -> None:
        """Take note that a request produced its last token on an instance."""
        ...

    def hand_over(self, instance: int, request: Request) -> None:
        """Find an instance to decode a request whose prompt was computed on ``instance``."""
        ...

    def fetch(self, instance: int, request: Request) -> None:
        """Bring a request's KV to ``instance``, which has blocks for it, and deliver it there."""
        ...


class Instance:
    """One engine: a scheduler, its state, the price of its steps.

    Parameters
    ----------
    env
        The simulation; its clock counts integer nanoseconds.
    number
        Position among all instances, written to the ledger.
    scheduler
        The policy.
    prices
        Step prices of this model, layout, chip and engine.
    blocks, block_tokens
        KV capacity.
    ledger, log
        Where times are written.
    watcher
        Told when a request is done, and when KV must leave or come.
    decodes_here
        Requests stay after their prompt; off, their KV is handed over to another instance.
    macro_steps
        Advance unchanged decode steps in one event. Off, every step is an event; results are the same.
    """

    def __init__(  # noqa: PLR0913 - the parts an engine is made of, all named
        self,
        env: Clock,
        number: int,
        *,
        scheduler: Scheduler,
        prices: StepPrices,
        blocks: int,
        block_tokens: int,
        ledger: Ledger,
        log: StepLog,
        watcher: Watcher,
        decodes_here: bool = True,
        macro_steps: bool = True,
    ) -> None:
        self.env, self.number = env, number
        self.scheduler, self.prices = scheduler, prices
        self.state = EngineState(blocks, block_tokens)
        self.ledger, self.log, self.watcher = ledger, log, watcher
        self.decodes_here = decodes_here
        self.longest_run = 1 << 40 if macro_steps else 1
        self._finishes: list[tuple[int, int, int, Request]] = []
        self._alarm: Event | None = None
        self._run_steps = 0
        self._run_start_ns = 0
        self._asleep = False
        self._standing_since_ns = -1
        self._joined_ns: dict[int, int] = {}
        self.held = 0
        env.process(self.serve())

    def submit(self, request: Request) -> None:
        """Queue a request now; a run of decode steps is cut at its next step boundary."""
        self.state.waiting.append(request)
        # A longer queue means its head could not be admitted, and it still cannot.
        self._notice(changed=len(self.state.waiting) == 1)

    def deliver(self, request: Request) -> None:
        """Take note that the KV a request asked for is here now."""
        state = self.state
        request.remote = False
        request.computed = request.tokens - 1
        state.loading -= 1
        state.ready.append(request)
        self._notice(changed=len(state.ready) == 1)

    def release(self, request: Request) -> None:
        """Give back the blocks of a request whose KV has left for another instance."""
        self.held -= 1
        self.state.release(request)
        self._notice(changed=bool(self.state.waiting))

    def serve(self) -> Generator[Event, None, None]:
        """Run the engine for ever."""
        state = self.state
        while True:
            plan = self.scheduler.plan(state)
            if plan.preempted:
                self._note_preempted(plan)
            for request in plan.loads:
                state.loading += 1
                self.watcher.fetch(self.number, request)
            if plan.chunks:
                yield self._compute_mixed(plan)
                self._apply_chunks(plan)
            elif plan.decodes:
                yield self._compute_decodes(plan)
                self._apply_decodes(plan)
            elif not plan.preempted:
                yield self._sleep()

    # --- waiting -------------------------------------------------------------------------------------

    def _notice(self, *, changed: bool) -> None:
        """Wake a sleeping engine; cut a run of steps if what changed may change the plan."""
        if self._asleep:
            self._asleep = False
            self._ring(0)
        elif changed and self._run_steps > 1:
            self._cut()

    def _sleep(self) -> Event:
        state = self.state
        if state.waiting and not (state.loading or self.held):
            raise LawError(f"instance {self.number} has {len(state.waiting)} waiting requests and no plan")
        self._asleep = True
        self._alarm = self.env.event()
        return self._alarm

    def _wait(self, duration_ns: int) -> Event:
        self._alarm = self.env.timeout(duration_ns)
        return self._alarm

    def _ring(self, delay_ns: int) -> None:
        """Move the wake-up call of the engine loop to ``delay_ns`` from now."""
        moved, old = self.env.timeout(delay_ns), self._alarm
        if old is not None and old.callbacks is not None:
            moved.callbacks, old.callbacks = old.callbacks, []
        self._alarm = moved

    def _cut(self) -> None:
        elapsed = self.env.now - self._run_start_ns
        sequences, context = self.state.decodes, self.state.context_sum // self.state.decodes
        steps, duration = self.prices.steps_covering(sequences, context, elapsed, self._run_steps)
        if steps < self._run_steps:
            self._run_steps = steps
            self._ring(duration - elapsed)

    # --- steps ---------------------------------------------------------------------------------------

    def _steps_to_first_finish(self) -> int:
        """Return the steps until a decoding sequence produces its last token, or the longest run."""
        finishes = self._finishes
        while finishes:
            step, _, epoch, request = finishes[0]
            if request.epoch == epoch:
                return min(step - self.state.step, self.longest_run)
            heappop(finishes)
        return self.longest_run

    def _compute_decodes(self, plan: Plan) -> Event:
        context = self.state.context_sum // plan.decodes
        steps = min(plan.steps, self._steps_to_first_finish())
        self._run_steps, self._run_start_ns = steps, self.env.now
        if self._standing_since_ns >= 0:
            self._end_standstill(plan.decodes, self.prices.decode_ns(plan.decodes, context))
        return self._wait(self.prices.decode_ns(plan.decodes, context, steps))

    def _apply_decodes(self, plan: Plan) -> None:
        state, steps, start = self.state, self._run_steps, self._run_start_ns
        self._run_steps = 0
        decodes = state.decodes
        self.log.add((start, self.env.now - start, steps, decodes, state.context_sum // decodes, 0, 0, 0, 0, 0))
        if plan.steps > 1:
            state.pool.take(state.pool.needed(state.step, steps))
        state.step += steps
        state.context_sum += decodes * steps
        self._finish_due()

    def _compute_mixed(self, plan: Plan) -> Event:
        state, now, ledger = self.state, self.env.now, self.ledger
        tokens = completed = pairs = reach = 0
        for request, new in plan.chunks:
            past = request.computed
            end = past + new
            tokens += new
            pairs += end * end - past * past
            reach += end
            completed += end == request.tokens
            if ledger.admitted_ns[request.index] < 0:
                ledger.admitted_ns[request.index] = now
        prompts, decodes = len(plan.chunks), plan.decodes
        context = state.context_sum // decodes if decodes else 0
        duration = self.prices.mixed_ns(
            tokens=tokens + decodes,
            samples=decodes + completed,
            decodes=decodes,
            context=context,
            prompts=prompts,
            pairs=pairs,
            reach=reach,
        )
        self.log.add((now, duration, 1, decodes, context, tokens, prompts, completed, pairs, reach))
        if decodes == 0 < state.decodes and self._standing_since_ns < 0:
            self._standing_since_ns = now
        elif decodes and self._standing_since_ns >= 0:
            self._end_standstill(decodes, duration)
        return self._wait(duration)

    def _apply_chunks(self, plan: Plan) -> None:
        state = self.state
        if plan.decodes:
            state.step += 1
            state.context_sum += plan.decodes
        state.prefilling = None
        for request, new in plan.chunks:
            request.computed += new
            if request.computed == request.tokens:
                self._first_token(request)
            else:
                state.prefilling = request
        self._finish_due()

    def _end_standstill(self, decodes: int, step_ns: int) -> None:
        """Note how long the sequences that decode again have waited for their next token."""
        now, pauses = self.env.now, self.ledger.pauses
        for index, joined_ns in self._joined_ns.items():
            if index in self.state.running:
                pauses.add((now + step_ns, step_ns, now + step_ns - joined_ns, 1))
                decodes -= 1
        if decodes:
            pauses.add((now + step_ns, step_ns, now + step_ns - self._standing_since_ns, decodes))
        self._standing_since_ns = -1
        self._joined_ns.clear()

    # --- requests ------------------------------------------------------------------------------------

    def _first_token(self, request: Request) -> None:
        """Let the next token of a computed prompt, or of a recomputed context, appear now."""
        ledger, index, now = self.ledger, request.index, self.env.now
        if ledger.first_token_ns[index] < 0:
            ledger.first_token_ns[index] = now
        if request.stalled_ns >= 0:
            ledger.stalls.append(now - request.stalled_ns)
            ledger.stall_ends.append(now)
            request.stalled_ns = -1
        produced = request.tokens - ledger.prompt_tokens[index] + 1
        if not self.decodes_here and produced < ledger.output_tokens[index]:
            self._hand_over(request)
            return
        if self._standing_since_ns >= 0:
            self._joined_ns[index] = now
        last_step = self.state.step + ledger.output_tokens[index] - produced
        self.state.join_decode(request)
        heappush(self._finishes, (last_step, index, request.epoch, request))

    def _hand_over(self, request: Request) -> None:
        """Let a request go once its prompt is computed; its blocks stay until its KV has left."""
        del self.state.running[request.index]
        self.held += 1
        self.watcher.hand_over(self.number, request)

    def _finish_due(self) -> None:
        state, finishes = self.state, self._finishes
        while finishes and finishes[0][0] <= state.step:
            _, index, epoch, request = heappop(finishes)
            if request.epoch != epoch:
                continue
            del state.running[index]
            state.leave_decode(request)
            state.release(request)
            self.ledger.finish_ns[index] = self.env.now
            self.watcher.finished(self.number, index)

    def _note_preempted(self, plan: Plan) -> None:
        ledger = self.ledger
        for request in plan.preempted:
            ledger.preemptions[request.index] += 1
            produced = request.tokens > ledger.prompt_tokens[request.index]
            if produced and request.stalled_ns < 0:
                request.stalled_ns = self._last_token_ns(request)

    def _last_token_ns(self, request: Request) -> int:
        """Return when a decoding request produced its last token: now, unless decoding stands still."""
        if self._standing_since_ns < 0:
            return self.env.now
        return self._joined_ns.get(request.index, self._standing_since_ns)
