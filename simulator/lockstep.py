"""An engine whose attention ranks step together.

Attention data parallelism of a model with experts: ranks share these, so that a step of all begins when the last one
is over, and lasts as long as that of the slowest rank (:mod:`simulator.pace`); a rank with nothing to do takes part in
it with an empty batch. See ``docs/decisions/026-attention-ranks.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.beat import Beat
from simulator.decode_run import DecodeRun
from simulator.engine_core import EngineCore
from simulator.inbox import Inbox
from simulator.pace import slowest, step_of_all_ns, steps_paced
from simulator.ranks import RankGroup
from simulator.schedulers.trtllm import TrtllmScheduler
from simulator.schedulers.vllm import VllmScheduler
from simulator.wake_up import WakeUp

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from perfdb.step_prices import StepPrices
    from simulator.engine_parts import EngineParts
    from simulator.pace import Batch
    from simulator.records import StepLog
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.surroundings import Surroundings

__all__ = ["LockstepRanks", "Rank"]


class Rank(EngineCore):
    """One rank of those that step together."""

    def __init__(self, owner: LockstepRanks, around: Surroundings, parts: EngineParts) -> None:
        super().__init__(around.inside(owner), parts)
        self._wake_up, self._run, self._inbox = owner.wake_up, owner.run, owner.inbox
        if isinstance(self.scheduler, VllmScheduler):
            self.scheduler.join_ranks(self.state, owner.beat)
        self._owner, self._idle_lags = owner, parts.idle_ranks_lag
        # Step counter up to which its plan holds, as far as anybody knows.
        self._holds_until = 0

    @property
    def busy(self) -> bool:
        """Whether it has something to do in the step of all."""
        return bool(self.plan.chunks or self.plan.decodes)

    @property
    def awaits_plan(self) -> bool:
        """Whether somebody is here, or has come and was not seen."""
        state = self.state
        return bool(state.running or state.waiting or (self.ahead is not None and self.ahead.unseen))

    @property
    def unsettled(self) -> bool:
        """Whether a step of all must be followed by another plan: its own may differ, or gaps are more than steps."""
        if self.plan.preempted or not self.plan.steps:
            return True
        if self.ahead is not None and (self.ahead.changes or self.ahead.lags > self.busy):
            return True
        return bool(self.joined) or self._standstill.since_ns >= 0

    def next_plan(self) -> Plan:
        """Plan the next step, and begin it; where nothing has happened to this rank, its last plan goes on."""
        left, ahead = self._holds_until - self.state.step, self.ahead
        if left > 1 and not (ahead is not None and ahead.unseen):
            if ahead is not None:
                ahead.lags = ahead.changes = False
            self.plan.steps = left
            return self.plan
        plan = super().next_plan()
        settled = not (self._single_steps or self._inbox or self.state.unsettled or (ahead is not None and ahead.lags))
        others = plan.chunks or plan.preempted or plan.loads or plan.fetches or plan.held or plan.spare
        self._holds_until = self.state.step + plan.steps if plan.decodes and settled and not others else 0
        return plan

    def submit(self, request: Request) -> None:
        """Queue a request now, or once all ranks look for some."""
        self._holds_until = 0
        super().submit(request)

    def release(self, request: Request, *, sent: bool = False) -> None:
        """Give back the blocks of a request; see :meth:`simulator.engine_core.EngineCore.release`."""
        self._holds_until = 0
        super().release(request, sent=sent)

    def propose(self) -> int:
        """Plan the next step but for its prompts; return of how many it would compute some."""
        if self.ahead is not None:
            self.ahead.look()
        policy = self.scheduler
        assert isinstance(policy, TrtllmScheduler)  # noqa: S101 - no other engine has its ranks wait for prompts
        self.plan = policy.propose(self.state)
        return len(self.state.memory.chosen)

    def complete(self, *, holds: bool) -> None:
        """Complete the plan that was proposed, and begin it."""
        policy, plan = self.scheduler, self.plan
        assert isinstance(policy, TrtllmScheduler)  # noqa: S101 - the same
        policy.complete(self.state, plan, holds=holds)
        if self.ahead is not None:
            self.ahead.planned(plan)
        self.begin(plan)

    def batch(self) -> tuple[int, int]:
        """Return the sequences that decode, and the floor of their mean context."""
        return self.state.decodes, self.state.context_sum // self.state.decodes

    def idled(self, steps: int) -> None:
        """Let steps of all be over in which it had nothing to do."""
        if self.ahead is None:
            return
        if self._idle_lags:
            self.ahead.last_step_ns = self._run.last_step_ns(steps)
        else:
            self.ahead.catch_up(self.env.now)

    def note(self, action: Callable[[Request], bool], request: Request, *, changes: bool, soon: bool = False) -> None:
        """Do something that may change the plan, at once where nothing is planned ahead."""
        self._holds_until = 0
        if self.busy or self._idle_lags or self.ahead is None:
            super().note(action, request, changes=changes, soon=soon)
        else:
            # Its next plan is not made before the step of all is over.
            self.ahead.see_all()
            self._notice(changed=action(request))

    def _notice(self, *, changed: bool) -> None:
        self._holds_until = 0
        super()._notice(changed=changed)

    def _finish_due(self) -> None:
        self._holds_until = 0
        super()._finish_due()

    def _split_run(self, over: int) -> None:
        self._owner.split_run(over)


class LockstepRanks(RankGroup):
    """Ranks that step together, and the process that lets their steps pass.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`. The log has a row for each event, that of the slowest rank;
        what each rank does is in its own log.

    Attributes
    ----------
    wake_up, run, beat, inbox
        What the ranks have in common.
    plain
        Prices of steps by themselves, without what an engine waits beside them.
    """

    def __init__(self, around: Surroundings, parts: EngineParts) -> None:
        self.wake_up = WakeUp(around.env)
        self.run = DecodeRun(around.env, parts.prices, self.wake_up)
        self.plain: StepPrices = parts.prices
        self.beat = Beat()
        self.inbox = Inbox(self.beat, parts.polls_every) if parts.polls_every > 1 else None
        self._row: Sequence[int] = ()
        self._balance = parts.prompt_balance() if parts.prompt_balance is not None else None
        self._ranks = [Rank(self, around, parts) for _ in range(parts.ranks)]
        super().__init__(around, parts, self._ranks)
        self.wake_up.drive(self.serve())

    @property
    def step_logs(self) -> Sequence[StepLog]:
        """The log of the slowest ranks."""
        return (self.log,)

    # --- steps ---------------------------------------------------------------------------------------

    def serve(self) -> Generator[None, Any, None]:
        """Run the engine for ever."""
        ranks = self._ranks
        while True:
            self._plan()
            busy = [rank for rank in ranks if rank.busy]
            if busy:
                self._begin_step(busy)
                yield
                self._end_step()
            elif self._lag():
                # An empty step, whose time is left out; an inbox counts such passes itself.
                self.beat.step += self.inbox is None
            else:
                self._rest()
                yield
                self._lag()

    def _rest(self) -> None:
        """Let all ranks sleep until something comes."""
        self.beat.step = 0
        for rank in self._ranks:
            rank.check_asleep()
        self.wake_up.when_rung()

    def _plan(self) -> None:
        """Let every rank plan the next step; prompts may wait until all ranks have some."""
        ranks, balance = self._ranks, self._balance
        if self.inbox is not None:
            self.inbox.look(ranks[0].known_ns())
        if balance is None:
            for rank in ranks:
                rank.next_plan()
            if self.inbox is not None:
                self.inbox.planned(*[rank.plan for rank in ranks])
            return
        prompts = [rank.propose() for rank in ranks]
        # TensorRT-LLM gives a rank that has no request one to decode, which counts.
        decodes = [rank.state.decodes or int(not load.requests) for rank, load in zip(ranks, self._loads, strict=True)]
        holds = balance.holds(prompts, decodes)
        for rank in ranks:
            rank.complete(holds=holds)

    def _lag(self) -> bool:
        """Let every rank's next plan know all there is; tell whether one of the last plans did not."""
        again = sum(rank.lags(rank.plan) for rank in self._ranks) > 0
        return again if self.inbox is None else self.inbox.goes_on(again=again)

    def _begin_step(self, busy: Sequence[Rank]) -> None:
        """Begin a step of all ranks, or a run of them while none of their plans can change."""
        if any(rank.plan.chunks for rank in busy):
            self._begin_chunks(busy)
            return
        batches = [rank.batch() for rank in busy]
        pace = slowest(self.prices, batches)
        steps = 1
        if not any(rank.unsettled for rank in self._ranks):
            steps = min(rank.steps_unchanged(rank.plan) for rank in busy)
            steps = steps_paced(self.prices, batches, pace, steps)
        self._row = ()
        self._decode_for(steps, batches[pace])

    def _decode_for(self, steps: int, batch: Batch) -> None:
        """Begin so many steps that last as long as those of a batch."""
        self.run.begin(steps, *batch)

    def _run_for(self, duration_ns: int) -> None:
        """Begin a step that lasts so long by itself."""
        self.run.begin_one(duration_ns)

    def _begin_chunks(self, busy: Sequence[Rank]) -> None:
        """Begin a step in which some ranks compute prompts."""
        costs, computing = [], [rank for rank in busy if rank.plan.chunks]
        for rank in busy:
            if rank.plan.chunks:
                costs.append((rank.price_chunks(rank.plan), rank.row[3] + rank.row[5]))
            else:
                costs.append((self.plain.decode_ns(*rank.batch()), rank.state.decodes))
        duration_ns = step_of_all_ns(self.plain, costs, len(self._ranks))
        self._row = max((rank.row for rank in computing), key=lambda row: row[1])
        for rank in computing:
            rank.row[1] = duration_ns
            if self.tells_chunks:
                rank.tell_chunks(rank.plan, duration_ns)
        self._run_for(duration_ns)

    def _end_step(self) -> None:
        run = self.run
        steps, run.steps = run.steps, 0
        self._repeat(steps - 1)
        self.beat.step += steps
        duration_ns = self.env.now - run.start_ns
        if self._row and duration_ns > self._row[1]:
            self.log.note_longer(duration_ns - self._row[1])
        for rank in self._ranks:
            if rank.plan.chunks:
                rank.row[1] = duration_ns
        self.log.add(self._row or self._run_row(steps, duration_ns))
        for rank in self._ranks:
            plan = rank.plan
            if plan.chunks:
                rank.apply_chunks(plan)
            elif plan.decodes:
                rank.apply_decodes(plan, steps)
            else:
                rank.idled(steps)

    def _repeat(self, steps: int) -> None:
        if steps and self._balance is not None:
            self._balance.repeat(steps)

    def split_run(self, over: int) -> None:
        """Let so many steps of the run under way be over now, for all ranks."""
        run = self.run
        self._repeat(over)
        self.beat.step += over
        start_ns, duration_ns = run.start_ns, run.lasting_ns(over)
        self.log.add(self._run_row(over, duration_ns))
        end_ns = run.shorten(over)
        for rank in self._ranks:
            if rank.plan.decodes:
                rank.advance(over, start_ns, end_ns, takes_blocks=True)

    def _run_row(self, steps: int, duration_ns: int) -> Sequence[int]:
        """Return the row of the log for the next ``steps`` steps of the run, which last so long."""
        run = self.run
        return (run.start_ns, duration_ns, steps, run.decodes, run.context, 0, 0, 0, 0, 0, 0)
