"""The whole deployment: arrivals, a router, instances, and the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hardware.errors import LawError
from simulator.instance import Clock, Instance, Urgent
from simulator.records import StepLog
from simulator.request import Request
from simulator.router import ObservingRouter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from simpy import Event

    from perfdb.step_prices import StepPrices
    from simulator.records import Ledger, TransferLog
    from simulator.router import Router
    from simulator.schedulers.state import Scheduler
    from simulator.transfer import LinkUse

__all__ = ["Arrivals", "Carrier", "Cluster", "EngineParts", "Identities"]


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


class Identities(Protocol):
    """What tells requests apart but for their lengths."""

    def identify(self, request: Request) -> None:
        """Fill in the session and the prefix of a request."""
        ...


class Carrier(Protocol):
    """What brings KV from one instance to another.

    Attributes
    ----------
    log
        Every transfer that is over.
    """

    log: TransferLog

    def carry(self, source: int, target: int, tokens: int, on_done: Callable[[], None]) -> None:
        """Start to move the KV of ``tokens`` tokens now; ``on_done`` is called once all of it is there."""
        ...

    def link_use(self) -> LinkUse:
        """Return what each link has carried so far."""
        ...

    def bytes_under_way(self) -> int:
        """Return the bytes that were sent and have neither arrived nor been given up."""
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
    prefills, decodes
        Stages they serve.
    caching
        Their blocks keep what they hold; see :mod:`simulator.prefix_cache`.
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
        prefills: bool = True,
        decodes: bool = True,
        caching: bool = False,
    ) -> None:
        self.scheduler, self.prices = scheduler, prices
        self.blocks, self.block_tokens = blocks, block_tokens
        self.max_tokens, self.replicas = max_tokens, replicas
        self.prefills, self.decodes, self.caching = prefills, decodes, caching


class _Group:
    """Instances that share the requests of one stage, and the router before them."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.instances: list[Instance] = []
        self.numbers: list[int] = []
        self.loads: list[int] = []

    def add(self, instance: Instance) -> int:
        """Add an instance and return its position among the others."""
        self.instances.append(instance)
        self.numbers.append(instance.number)
        if isinstance(self.router, ObservingRouter):
            self.router.observe(instance.number, instance)
        self.loads.append(0)
        return len(self.loads) - 1

    def choose(self, request: Request) -> Instance:
        """Return the instance to use and count a request on it."""
        chosen = self.router.choose(self.loads, self.numbers, request)
        self.loads[chosen] += 1
        return self.instances[chosen]


class Cluster:
    """Instances behind one router, fed by arrivals.

    Parameters
    ----------
    pools
        What each pool's instances are made of.
    router, decode_router
        Choose the instance of a request, and the one its KV is handed over to.
    arrivals
        When requests come.
    ledger
        Lengths in, times out.
    carrier
        Makes what carries KV between instances, given the clock; needed where a pool serves one stage only.
    identities
        Fills in sessions and prefixes; None where nobody looks at them.
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
        decode_router: Router | None = None,
        carrier: Callable[[Clock], Carrier] | None = None,
        identities: Identities | None = None,
        macro_steps: bool = True,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self.env = Clock()
        self.arrivals, self.ledger, self.identities = arrivals, ledger, identities
        self.entry, self.decoding = _Group(router), _Group(decode_router or router)
        self.carrier = carrier(self.env) if carrier is not None else None
        self.logs: list[StepLog] = []
        self.instances: list[Instance] = []
        self.on_progress = on_progress
        self.events = 0
        self._limits: list[int] = []
        self._decode_limit = min((parts.max_tokens for parts in pools if not parts.prefills), default=1 << 62)
        self._places: list[tuple[_Group, int]] = []
        self._leaving: dict[int, tuple[Instance, Request]] = {}
        self._done = 0
        self._sent = 0
        self._stride = max(1, len(ledger) // 100)
        self._all_done = self.env.event()
        for parts in pools:
            for _ in range(parts.replicas):
                self._add_instance(parts, macro_steps=macro_steps)

    def run(self) -> None:
        """Serve every request."""
        self.env.process(self._arrive())
        self.env.run(until=self._all_done)
        self.events = next(self.env._eid)  # noqa: SLF001 - SimPy numbers its events here and nowhere public

    def finished(self, instance: int, index: int) -> None:
        """Count a request that produced its last token."""
        self.ledger.decode_instance[index] = instance
        self._leave(instance)
        self._count_done()

    def hand_over(self, instance: int, request: Request) -> None:
        """Send a request whose prompt is computed on to an instance that decodes."""
        self._leaving[request.index] = (self.instances[instance], request)
        _soon(self.env, 1, lambda: self._continue(request.index))

    def fetch(self, instance: int, request: Request) -> None:
        """Start to bring a request's KV to the instance that has made room for it."""
        if self.carrier is None:
            raise LawError(f"instance {instance} fetches KV, but nothing carries it")
        source, _ = self._leaving[request.index]
        target = self.instances[instance]
        self.carrier.carry(source.number, instance, request.missing, lambda: self._arrived(target, request))

    def _continue(self, index: int) -> None:
        ledger = self.ledger
        request = self._request(index, ledger.prompt_tokens[index] + 1)
        request.remote = True
        request.stalled_ns = ledger.first_token_ns[index]
        self.decoding.choose(request).submit(request)

    def _arrived(self, target: Instance, request: Request) -> None:
        """Let the source forget KV that has arrived, and the target go on with it."""
        source, left = self._leaving.pop(request.index)
        self.ledger.kv_ready_ns[request.index] = self.env.now
        self._leave(source.number)
        source.release(left)
        target.deliver(request)

    def _leave(self, instance: int) -> None:
        group, position = self._places[instance]
        group.loads[position] -= 1

    def _add_instance(self, parts: EngineParts, *, macro_steps: bool) -> None:
        log = StepLog()
        instance = Instance(
            self.env,
            len(self.instances),
            scheduler=parts.scheduler,
            prices=parts.prices,
            blocks=parts.blocks,
            block_tokens=parts.block_tokens,
            ledger=self.ledger,
            log=log,
            watcher=self,
            decodes_here=parts.decodes,
            caching=parts.caching,
            macro_steps=macro_steps,
        )
        group = self.entry if parts.prefills else self.decoding
        self._places.append((group, group.add(instance)))
        self.instances.append(instance)
        self.logs.append(log)
        self._limits.append(parts.max_tokens)

    def _arrive(self) -> Generator[Event, None, None]:
        env = self.env
        for time_ns in self.arrivals.first():
            if time_ns > env.now:
                yield Urgent(env, time_ns - env.now)
            self._send()

    def _send(self) -> None:
        """Let the next request arrive now."""
        index, ledger = self._sent, self.ledger
        self._sent += 1
        ledger.arrival_ns[index] = self.env.now
        prompt = ledger.prompt_tokens[index]
        request = self._request(index, prompt)
        chosen = self.entry.choose(request)
        ledger.instance[index] = ledger.decode_instance[index] = chosen.number
        if prompt + ledger.output_tokens[index] > min(self._limits[chosen.number], self._decode_limit):
            ledger.failed[index] = 1
            self._leave(chosen.number)
            self._count_done()
            return
        chosen.submit(request)

    def _request(self, index: int, tokens: int) -> Request:
        """Return a request with all that its lengths do not say: who asks, and what the prompt begins with."""
        request = Request(index, tokens)
        if self.identities is not None:
            self.identities.identify(request)
        return request

    def _count_done(self) -> None:
        self._done += 1
        if self.on_progress is not None and self._done % self._stride == 0:
            self.on_progress(self._done)
        think_ns = self.arrivals.after(self._done)
        if think_ns is not None:
            _soon(self.env, max(1, think_ns), self._send)
        if self._done == len(self.ledger):
            self._all_done.succeed()


def _soon(env: Clock, delay_ns: int, action: Callable[[], None]) -> None:
    """Do something at least a nanosecond from now, before the engines of that instant.

    An effect is never at the instant of its cause, so that no order of events at one instant, which
    macro-steps may change, decides anything (``docs/decisions/002-order-of-events.md``).
    """
    Urgent(env, delay_ns).callbacks.append(lambda _: action())
