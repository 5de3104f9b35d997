"""An instance of several attention ranks: each has a scheduler and a KV cache, and all step together.

Attention data parallelism within one engine: ranks share the experts, so that a step of all begins when the last one
is over, and lasts as long as that of the slowest rank (:mod:`simulator.pace`); a rank with nothing to do takes part in
it with an empty batch. See ``docs/decisions/022-attention-ranks.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.balancers import BALANCERS
from simulator.decode_run import DecodeRun
from simulator.engine_core import EngineCore
from simulator.pace import slowest, steps_paced
from simulator.records import StepLog
from simulator.wake_up import WakeUp

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from simpy.events import Event

    from simulator.clock import Clock
    from simulator.engine_parts import EngineParts
    from simulator.records import Ledger
    from simulator.request import Request
    from simulator.watcher import Watcher

__all__ = ["Rank", "RankedInstance"]


class Rank(EngineCore):
    """One attention rank of an instance.

    Attributes
    ----------
    requests, prompt_tokens
        What it has not finished; see :class:`simulator.balancers.RankLoad`.
    """

    def __init__(self, owner: RankedInstance, parts: EngineParts, *, ledger: Ledger, macro_steps: bool) -> None:
        super().__init__(
            owner.env,
            owner.number,
            parts,
            ledger=ledger,
            log=StepLog(),
            watcher=owner,
            tells_chunks=owner.tells_chunks,
            macro_steps=macro_steps,
        )
        self._wake_up, self._run = owner.wake_up, owner.run
        self._owner, self._idle_lags = owner, parts.idle_ranks_lag
        self.requests = self.prompt_tokens = 0

    @property
    def busy(self) -> bool:
        """Whether it has something to do in the step of all."""
        return bool(self.plan.chunks or self.plan.decodes)

    @property
    def may_differ(self) -> bool:
        """Whether its next plan may be another one, though it has nothing to do in this step."""
        return bool(self.plan.preempted) or (self.ahead is not None and self.ahead.changes)

    @property
    def resumes(self) -> bool:
        """Whether the gaps before its next tokens are no step."""
        return bool(self.joined) or self._standstill.since_ns >= 0

    def waiting(self) -> int:
        """Return how many requests are not running."""
        return self.requests - len(self.state.running) + len(self.state.ending)

    def usage(self) -> float:
        """Return the share of its KV blocks that are in use."""
        self.take_begun()
        pool = self.state.pool
        return 1 - pool.free / pool.blocks

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

    def _note(self, action: Callable[[Request], bool], request: Request, *, changes: bool, soon: bool = False) -> None:
        if self.busy or self._idle_lags or self.ahead is None:
            super()._note(action, request, changes=changes, soon=soon)
        else:
            # Its next plan is not made before the step of all is over.
            self.ahead.see_all()
            self._notice(changed=action(request))

    def _split_run(self, over: int) -> None:
        self._owner.split_run(over)


class RankedInstance:
    """One engine with a scheduler for each attention rank, and the process that lets their steps pass.

    Parameters
    ----------
    env, number, parts, ledger, log, watcher, tells_chunks, macro_steps
        As for :class:`simulator.instance.Instance`. The log has a row for each event, that of the slowest rank;
        what each rank does is in its own log.

    Attributes
    ----------
    number, prices, decodes_here, started_ns, ended_ns
        See :class:`simulator.server.Server`.
    wake_up, run
        What the ranks have in common.
    """

    def __init__(  # noqa: PLR0913 - the parts an engine is made of, all named
        self,
        env: Clock,
        number: int,
        parts: EngineParts,
        *,
        ledger: Ledger,
        log: StepLog,
        watcher: Watcher,
        tells_chunks: bool = False,
        macro_steps: bool = True,
    ) -> None:
        self.env, self.number, self.prices, self.log = env, number, parts.prices, log
        self.decodes_here, self.tells_chunks = parts.decodes, tells_chunks
        self.started_ns, self.ended_ns = env.now, -1
        self._watcher = watcher
        self.wake_up = WakeUp(env)
        self.run = DecodeRun(env, self.prices, self.wake_up)
        self._ranks = [Rank(self, parts, ledger=ledger, macro_steps=macro_steps) for _ in range(parts.ranks)]
        self._balancer = BALANCERS[parts.balancer]()
        self._places: dict[int, Rank] = {}
        self._prompt_tokens = ledger.prompt_tokens
        self._row: Sequence[int] = ()
        env.process(self.serve())

    @property
    def cores(self) -> Sequence[EngineCore]:
        """What holds requests and blocks: the ranks."""
        return self._ranks

    # --- requests ------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request now, at one of the ranks."""
        rank = self._ranks[self._balancer.choose(self._ranks)]
        self._places[request.index] = rank
        rank.requests += 1
        rank.prompt_tokens += self._prompt_tokens[request.index]
        rank.submit(request)

    def deliver(self, request: Request) -> None:
        """Take note that the KV a request asked for is here now."""
        self._places[request.index].deliver(request)

    def release(self, request: Request) -> None:
        """Give back the blocks of a request whose KV has left for another instance."""
        self._places.pop(request.index).release(request)

    def cancel(self, request: Request) -> None:
        """Give up a request that waits for its KV here."""
        rank = self._places.pop(request.index)
        self._count_out(rank, request.index)
        rank.cancel(request)

    def recompute(self, request: Request) -> None:
        """Compute the prompt of a request here whose KV did not come."""
        self._places[request.index].recompute(request)

    def stop(self) -> list[Request]:
        """End the engine now; see :meth:`simulator.engine_core.EngineCore.stop`."""
        for rank in self._ranks:
            rank.settle()
        self.ended_ns = self.env.now
        self._places.clear()
        return [request for rank in self._ranks for request in rank.stop()]

    def _count_out(self, rank: Rank, index: int) -> None:
        rank.requests -= 1
        rank.prompt_tokens -= self._prompt_tokens[index]

    # --- what ranks tell -----------------------------------------------------------------------------

    def finished(self, instance: int, index: int) -> None:
        """Take note that a request produced its last token."""
        rank = self._places.pop(index)
        self._count_out(rank, index)
        self._watcher.finished(instance, index)

    def prompt_computed(self, instance: int, request: Request) -> None:
        """Pass on that the KV of a prompt may leave; its blocks stay until it has left."""
        self._count_out(self._places[request.index], request.index)
        self._watcher.prompt_computed(instance, request)

    def reserved(self, instance: int, request: Request) -> None:
        """Pass on that there are blocks for a request's KV."""
        self._watcher.reserved(instance, request)

    def computing(self, instance: int, request: Request, tokens: int, duration_ns: int) -> None:
        """Pass on that a step has begun that computes some of a prompt."""
        self._watcher.computing(instance, request, tokens, duration_ns)

    # --- steps ---------------------------------------------------------------------------------------

    def serve(self) -> Generator[Event, None, None]:
        """Run the engine for ever."""
        ranks = self._ranks
        while True:
            for rank in ranks:
                rank.next_plan()
            busy = [rank for rank in ranks if rank.busy]
            if busy:
                yield self._begin_step(busy)
                self._end_step()
            elif not self._lag():
                for rank in ranks:
                    rank.check_asleep()
                yield self.wake_up.when_rung()
                self._lag()

    def _lag(self) -> bool:
        """Let every rank's next plan know all there is; tell whether one of the last plans did not."""
        return sum(rank.lags(rank.plan) for rank in self._ranks) > 0

    def _begin_step(self, busy: Sequence[Rank]) -> Event:
        """Begin a step of all ranks, or a run of them while none of their plans can change."""
        if any(rank.plan.chunks for rank in busy):
            return self._begin_chunks(busy)
        batches = [rank.batch() for rank in busy]
        pace = slowest(self.prices, batches)
        steps = 1
        if not any(rank.may_differ or rank.resumes for rank in self._ranks):
            steps = min(rank.steps_unchanged(rank.plan) for rank in busy)
            steps = steps_paced(self.prices, batches, pace, steps)
        decodes, context = batches[pace]
        self._row = ()
        return self.run.begin(steps, decodes, context)

    def _begin_chunks(self, busy: Sequence[Rank]) -> Event:
        """Begin a step in which some ranks compute prompts."""
        rows: list[list[int]] = []
        for rank in busy:
            if rank.plan.chunks:
                rank.price_chunks(rank.plan)
                rows.append(rank.row)
            else:
                decodes, context = rank.batch()
                price = self.prices.decode_ns(decodes, context)
                rows.append([self.env.now, price, 1, decodes, context, 0, 0, 0, 0, 0, 0])
        self._row = max(rows, key=lambda row: row[1])
        duration_ns = self._row[1]
        for rank, row in zip(busy, rows, strict=True):
            row[1] = duration_ns
            if rank.plan.chunks:
                rank.tell_chunks(rank.plan, duration_ns)
        return self.run.begin_one(duration_ns)

    def _end_step(self) -> None:
        run = self.run
        steps, run.steps = run.steps, 0
        self.log.add(self._row or self._run_row(steps))
        for rank in self._ranks:
            plan = rank.plan
            if plan.chunks:
                rank.apply_chunks(plan)
            elif plan.decodes:
                rank.apply_decodes(plan, steps)
            else:
                rank.idled(steps)

    def split_run(self, over: int) -> None:
        """Let so many steps of the run under way be over now, for all ranks."""
        run = self.run
        start_ns, row = run.start_ns, self._run_row(over)
        end_ns = run.shorten(over)
        self.log.add(row)
        for rank in self._ranks:
            if rank.plan.decodes:
                rank.advance(over, start_ns, end_ns, takes_blocks=True)

    def _run_row(self, steps: int) -> Sequence[int]:
        """Return the row of the log for the next ``steps`` steps of the run."""
        run = self.run
        duration_ns = self.prices.decode_ns(run.decodes, run.context, steps)
        return (run.start_ns, duration_ns, steps, run.decodes, run.context, 0, 0, 0, 0, 0, 0)
