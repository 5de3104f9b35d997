"""The whole deployment: arrivals, a router, instances, and the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from simpy.events import URGENT, Event

from simulator.instance import Clock, Instance
from simulator.records import StepLog
from simulator.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from perfdb.step_prices import StepPrices
    from simulator.records import Ledger
    from simulator.router import Router
    from simulator.schedulers.state import Scheduler

__all__ = ["Arrivals", "Cluster", "EngineParts"]


class Arrivals(Protocol):
    """When requests are sent."""

    def first(self) -> Iterable[int]:
        """Return arrival times, ns and never decreasing, of requests that wait for no other."""
        ...

    def after(self, finished: int) -> int | None:
        """Return the think time, ns, before the request that a finished one sets off; None for none.

        Parameters
        ----------
        finished
            Requests finished or refused so far, this one included.
        """
        ...


class EngineParts:
    """What the instances of one pool share.

    Parameters
    ----------
    scheduler
        The policy; it keeps no state of its own.
    prices
        Step prices.
    blocks, block_tokens
        KV capacity of each instance.
    max_tokens
        Longest sequence served; a longer request is refused.
    replicas
        Instances.
    """

    def __init__(  # noqa: PLR0913 - the parts of a pool, all named
        self,
        *,
        scheduler: Scheduler,
        prices: StepPrices,
        blocks: int,
        block_tokens: int,
        max_tokens: int,
        replicas: int,
    ) -> None:
        self.scheduler, self.prices = scheduler, prices
        self.blocks, self.block_tokens = blocks, block_tokens
        self.max_tokens, self.replicas = max_tokens, replicas


class _Arrival(Event):
    """An event before all engine events of its instant: a plan sees what has arrived by its time."""

    def __init__(self, env: Clock, delay_ns: int) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, URGENT, delay_ns)


class Cluster:
    """Instances behind one router, fed by arrivals.

    Parameters
    ----------
    pools
        What each pool's instances are made of.
    router
        Chooses the instance of a request.
    arrivals
        When requests come.
    ledger
        Lengths in, times out.
    macro_steps
        See :class:`simulator.instance.Instance`.
    on_progress
        Called with the number of requests done, about a hundred times.

    Attributes
    ----------
    instances, logs
        Every instance and its step log, pool by pool.
    events
        Events SimPy handled, once the run is over.
    """

    def __init__(  # noqa: PLR0913 - the parts of a deployment, all named
        self,
        pools: Sequence[EngineParts],
        router: Router,
        arrivals: Arrivals,
        ledger: Ledger,
        *,
        macro_steps: bool = True,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self.env = Clock()
        self.router, self.arrivals, self.ledger = router, arrivals, ledger
        self.logs: list[StepLog] = []
        self.instances: list[Instance] = []
        self.limits: list[int] = []
        self.on_progress = on_progress
        self.events = 0
        self._done = 0
        self._sent = 0
        self._stride = max(1, len(ledger) // 100)
        self._all_done = self.env.event()
        for parts in pools:
            for _ in range(parts.replicas):
                self._add_instance(parts, macro_steps=macro_steps)
        self.loads = [0] * len(self.instances)

    def run(self) -> None:
        """Serve every request."""
        self.env.process(self._arrive())
        self.env.run(until=self._all_done)
        self.events = next(self.env._eid)  # noqa: SLF001 - SimPy numbers its events here and nowhere public

    def _add_instance(self, parts: EngineParts, *, macro_steps: bool) -> None:
        log = StepLog()
        self.instances.append(
            Instance(
                self.env,
                len(self.instances),
                scheduler=parts.scheduler,
                prices=parts.prices,
                blocks=parts.blocks,
                block_tokens=parts.block_tokens,
                ledger=self.ledger,
                log=log,
                on_finish=self._finished,
                macro_steps=macro_steps,
            )
        )
        self.logs.append(log)
        self.limits.append(parts.max_tokens)

    def _arrive(self) -> Generator[Event, None, None]:
        env = self.env
        for time_ns in self.arrivals.first():
            if time_ns > env.now:
                yield _Arrival(env, time_ns - env.now)
            self._send()

    def _send(self) -> None:
        """Let the next request arrive now."""
        index, ledger = self._sent, self.ledger
        self._sent += 1
        ledger.arrival_ns[index] = self.env.now
        chosen = self.router.choose(self.loads)
        ledger.instance[index] = chosen
        prompt = ledger.prompt_tokens[index]
        if prompt + ledger.output_tokens[index] > self.limits[chosen]:
            ledger.failed[index] = 1
            self._count_done()
            return
        self.loads[chosen] += 1
        self.instances[chosen].submit(Request(index, prompt))

    def _finished(self, instance: int, _index: int) -> None:
        self.loads[instance] -= 1
        self._count_done()

    def _count_done(self) -> None:
        self._done += 1
        if self.on_progress is not None and self._done % self._stride == 0:
            self.on_progress(self._done)
        think_ns = self.arrivals.after(self._done)
        if think_ns is not None:
            # An effect is at least a nanosecond after its cause, so that no order of events at one
            # instant, which macro-steps may change, decides anything.
            _Arrival(self.env, max(1, think_ns)).callbacks.append(lambda _: self._send())
        if self._done == len(self.ledger):
            self._all_done.succeed()
