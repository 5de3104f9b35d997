"""Engines that wait for more requests before they plan a step: see :mod:`simulator.fetch_window`.

An engine that plans ahead waits while a step runs: the step is over when both are, and the next one knows who came by
the end of the wait. One that does not, waits between steps, which then are single ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perfdb.waiting import WaitingPrices
from simulator.instance import Instance
from simulator.lockstep import LockstepRanks
from simulator.pace import slowest
from simulator.ranks import IndependentRanks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from simulator.clock import Clock
    from simulator.decode_run import DecodeRun
    from simulator.engine_parts import EngineParts
    from simulator.fetch_window import FetchWindow
    from simulator.pace import Batch
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.server import Server
    from simulator.surroundings import Surroundings
    from simulator.wake_up import WakeUp

__all__ = ["GatheringInstance", "GatheringRanks", "Patience", "instance_maker"]


class Patience:
    """The wait of one engine, and the step under way.

    Parameters
    ----------
    env, run, wake_up
        Of the engine.
    window
        When it fetches requests.
    split_run
        Lets so many steps of the run under way be over now.
    decode_ns
        Returns how long a step of the batch that decodes lasts by itself.
    """

    __slots__ = ("_decode_ns", "_env", "_run", "_split_run", "_step_ns", "_wake_up", "window")

    def __init__(  # noqa: PLR0913, PLR0917 - what an engine is made of that waits
        self,
        env: Clock,
        run: DecodeRun,
        wake_up: WakeUp,
        window: FetchWindow,
        split_run: Callable[[int], None],
        decode_ns: Callable[[], int],
    ) -> None:
        self._env, self._run, self._wake_up, self.window = env, run, wake_up, window
        self._split_run, self._decode_ns = split_run, decode_ns
        # How long the step under way lasts by itself: -1 for one of decoding, None where there is none.
        self._step_ns: int | None = None

    def gather(self) -> None:
        """Wait from now on, before a step."""
        self._step_ns = None
        self._wake_up.after(0 if self.window.open(self._env.now) else self.window.wait_ns)

    def compute(self, step_ns: int) -> int:
        """Wait from now on, beside a step that lasts so long; return when both are over, as time from now."""
        self._step_ns = step_ns
        return step_ns if self.window.open(self._env.now) else max(step_ns, self.window.wait_ns)

    def decode(self) -> bool:
        """Wait from now on, beside steps of decoding; tell whether the first of them has not to wait."""
        self._step_ns = -1
        return self.window.open(self._env.now)

    def count(self) -> None:
        """Count a request that comes now, before the engine takes it in; a run of steps ends at its next boundary."""
        window, run, now = self.window, self._run, self._env.now
        if run.steps > 1:
            begun = run.begun()
            window.reopened(run.start_ns + run.lasting_ns(begun - 1))
            run.cut()
        if window.add(now):
            self._hurry()

    def _hurry(self) -> None:
        """End the wait now."""
        now, run = self._env.now, self._run
        if self._step_ns is None:
            self._wake_up.move(0)
            return
        if run.steps > 1:
            self._split_run(run.steps - 1)
        step_ns = self._decode_ns() if self._step_ns < 0 else self._step_ns
        self._wake_up.move(max(run.start_ns + step_ns - now, 0))


class GatheringInstance(Instance):
    """One engine that waits for more requests.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`.
    """

    def __init__(self, around: Surroundings, parts: EngineParts) -> None:
        super().__init__(around if parts.plans_ahead else around.by_single_steps(), parts)
        prices = self.prices
        self._plain = prices.plain if isinstance(prices, WaitingPrices) else prices
        assert parts.fetch_window is not None  # noqa: S101 - else it would be another kind of instance
        window = parts.fetch_window()
        self._patience = Patience(self.env, self._run, self._wake_up, window, self._split_run, self._decode_ns)

    def submit(self, request: Request) -> None:
        """Queue a request now."""
        self._patience.count()
        super().submit(request)

    def next_plan(self) -> Plan:
        """Plan the next step with all who came while the engine waited, and begin it."""
        if self.ahead is not None and self.ahead.unseen:
            self.ahead.last_step_ns = self._patience.window.known_ns(self.ahead.last_step_ns)
        return super().next_plan()

    def serve(self) -> Generator[None, Any, None]:
        """Run the engine for ever."""
        state, run, wake_up, patience = self.state, self._run, self._wake_up, self._patience
        while True:
            if self.ahead is None and (state.running or state.waiting):
                self.waited_ns = -self.env.now
                patience.gather()
                yield
                patience.window.close(self.env.now)
                self.waited_ns += self.env.now
            plan = self.next_plan()
            if plan.chunks:
                wake_up.after(self._begin_chunks(plan))
                yield
                self._end_chunks(plan)
            elif plan.decodes:
                self._begin_decodes(plan)
                yield
                steps, run.steps = run.steps, 0
                self.apply_decodes(plan, steps)
            else:
                if not self.lags(plan):
                    self.check_asleep()
                    patience.window.close(self.env.now)
                    wake_up.when_rung()
                    yield
                if self.ahead is not None and (state.running or state.waiting or self.ahead.unseen):
                    patience.gather()
                    yield
                self.lags(plan)

    def _decode_ns(self) -> int:
        """Return how long a step of the sequences that decode lasts by itself."""
        return self._plain.decode_ns(self.state.decodes, self.state.context_sum // self.state.decodes)

    def _begin_chunks(self, plan: Plan) -> int:
        """Begin a step that computes prompts, and return how long it lasts."""
        step_ns = self.price_chunks(plan)
        self.row[0] -= self.waited_ns
        duration_ns = step_ns if self.ahead is None else self._patience.compute(step_ns)
        if self.tells_chunks:
            self.tell_chunks(plan, duration_ns)
        return duration_ns

    def _end_chunks(self, plan: Plan) -> None:
        """Let the step be over that computes prompts, and what it waited for."""
        waited_ns = self.env.now - self.row[0] - self.row[1]
        if waited_ns:
            self.row[1] += waited_ns
            self.log.note_longer(waited_ns)
        self.apply_chunks(plan)

    def _begin_decodes(self, plan: Plan) -> None:
        """Begin a run of decode steps."""
        if self.ahead is not None and self._patience.decode():
            self._run.begin_one(self._decode_ns())
            return
        state = self.state
        self._run.begin(self.steps_unchanged(plan), state.decodes, state.context_sum // state.decodes)
        # Between tokens lies the wait, too.
        self._run.start_ns -= self.waited_ns


class GatheringRanks(LockstepRanks):
    """Ranks that step together, and wait for more requests together.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.lockstep.LockstepRanks`.
    """

    def __init__(self, around: Surroundings, parts: EngineParts) -> None:
        super().__init__(around if parts.plans_ahead else around.by_single_steps(), parts)
        if isinstance(self.prices, WaitingPrices):
            self.plain = self.prices.plain
        assert parts.fetch_window is not None  # noqa: S101 - else they would be another kind of ranks
        window, self._ahead = parts.fetch_window(), parts.plans_ahead
        self._patience = Patience(self.env, self.run, self.wake_up, window, self.split_run, self._decode_ns)

    def submit(self, request: Request) -> None:
        """Queue a request now, at one of the ranks."""
        self._patience.count()
        super().submit(request)

    def serve(self) -> Generator[None, Any, None]:
        """Run the engine for ever."""
        patience = self._patience
        while True:
            if not self._ahead and any(rank.state.running or rank.state.waiting for rank in self._ranks):
                began_ns = self.env.now
                patience.gather()
                yield
                patience.window.close(self.env.now)
                for rank in self._ranks:
                    rank.waited_ns = self.env.now - began_ns
            self._plan()
            busy = [rank for rank in self._ranks if rank.busy]
            if busy:
                self._begin_step(busy)
                yield
                self._end_step()
                continue
            if not self._lag():
                self._rest()
                patience.window.close(self.env.now)
                yield
            if self._ahead and any(rank.awaits_plan for rank in self._ranks):
                patience.gather()
                yield
            self._lag()

    def _plan(self) -> None:
        for rank in self._ranks:
            if rank.ahead is not None and rank.ahead.unseen:
                rank.ahead.last_step_ns = self._patience.window.known_ns(rank.ahead.last_step_ns)
        super()._plan()

    def _run_for(self, duration_ns: int) -> None:
        super()._run_for(self._patience.compute(duration_ns) if self._ahead else duration_ns)
        for rank in self._ranks:
            if rank.plan.chunks:
                rank.row[0] -= rank.waited_ns
        self.run.start_ns -= self._ranks[0].waited_ns

    def _decode_for(self, steps: int, batch: Batch) -> None:
        if self._ahead and self._patience.decode():
            self.run.decodes, self.run.context = batch
            self.run.begin_one(self._decode_ns())
        else:
            super()._decode_for(steps, batch)
            self.run.start_ns -= self._ranks[0].waited_ns

    def _decode_ns(self) -> int:
        """Return how long a step of the sequences that decode lasts by itself, on the slowest rank."""
        batches = [rank.batch() for rank in self._ranks if rank.busy]
        return self.plain.decode_ns(*batches[slowest(self.plain, batches)])


def instance_maker(parts: EngineParts) -> Callable[..., Server]:
    """Return what makes the instances of a pool."""
    if parts.make is not None:
        return parts.make
    if parts.ranks == 1:
        return Instance if parts.fetch_window is None else GatheringInstance
    if not parts.lockstep:
        return IndependentRanks
    return LockstepRanks if parts.fetch_window is None else GatheringRanks
