"""The whole deployment: arrivals, a router, instances, and the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simpy.events import URGENT

from simulator.batch import Batch
from simulator.clock import Clock, soon
from simulator.encode_instance import EncodeInstance, EncodeParts
from simulator.front_end import FrontEnd
from simulator.gathering import instance_maker
from simulator.group import Group
from simulator.hand_over import HandOver
from simulator.network import KvTransfer
from simulator.records import StepLog
from simulator.request import Request
from simulator.surroundings import Surroundings
from simulator.wake_up import WakeUp

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from simulator.arrivals import Arrivals, Identities
    from simulator.encode_stage import EncodeStage
    from simulator.engine_parts import EngineParts
    from simulator.passage import Carrier
    from simulator.records import Ledger
    from simulator.router import Router
    from simulator.server import Server

__all__ = ["Cluster"]


class Cluster:
    """Instances behind their routers, fed by arrivals.

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
    terms
        How KV is handed over.
    carrier
        Makes what carries KV between instances, given the clock; needed where a pool serves one stage only.
    encoding
        Makes what is between arrival and the queue for a prompt, given the cluster; None where nothing is.
    equip
        Gives a new instance of a pool, by number, what it has besides, given the one whose chips it takes over, if
        any; None where it has nothing.
    helps_above
        See :class:`simulator.group.Group`.
    fails_with_instance
        Requests fail with the instance that has their KV, instead of being computed once more.
    identities, declared_tokens
        Fills in sessions and prefixes, or None where nobody looks at them; and the most output tokens that clients
        allow: those who get more allow just what they get.
    macro_steps
        See :class:`simulator.instance.Instance`.
    on_progress
        Called with the number of requests done, about a hundred times.

    Attributes
    ----------
    instances, logs, owners
        Every instance there ever was, its step log and the number of its pool.
    loads
        Requests on each of them.
    hand_over, encoding
        What is between two instances, and between arrival and the queue for a prompt.
    awaited
        Instances that are about to join.
    recomputed, lost_prompt_tokens, lost_output_tokens
        Prompt tokens to be computed once more after an instance died; prompt tokens computed, and tokens produced,
        for requests that failed later.
    events, ended_ns
        Events SimPy handled once the run is over, and when the last request finished or was lost.
    """

    def __init__(  # noqa: PLR0913 - the parts of a deployment, all named
        self,
        pools: Sequence[EngineParts | EncodeParts],
        router: Router,
        arrivals: Arrivals,
        ledger: Ledger,
        *,
        decode_router: Router | None = None,
        terms: KvTransfer | None = None,
        carrier: Callable[[Clock], Carrier] | None = None,
        encoding: Callable[[Cluster], EncodeStage] | None = None,
        equip: Callable[[int, Server, int | None], None] | None = None,
        helps_above: int = 0,
        fails_with_instance: bool = False,
        identities: Identities | None = None,
        declared_tokens: int = 0,
        macro_steps: bool = True,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self.env = Clock()
        self.pools, self.arrivals, self.ledger = pools, arrivals, ledger
        self.loads: list[int] = []
        self.entry = Group(router, self.loads, helps_above)
        self.decoding = Group(decode_router or router, self.loads, helps_above)
        self.carrier, self.terms = carrier(self.env) if carrier is not None else None, terms or KvTransfer()
        self._early = self.terms.early
        self.hand_over = HandOver(
            self.env, ledger, terms=self.terms, decoding=self.decoding, carrier=self.carrier, owner=self
        )
        self.encoding = encoding(self) if encoding is not None else None
        self._arrivals = WakeUp(self.env, URGENT)
        self.instances: list[Server] = []
        self._front_ends: list[FrontEnd | None] = []
        self._delays = any(parts.front_end for parts in pools)
        self.logs: list[StepLog] = []
        self.owners: list[int] = []
        self.fails_with_instance, self.macro_steps = fails_with_instance, macro_steps
        self.identities, self.declared_tokens = identities, declared_tokens
        self.on_progress, self._equip = on_progress, equip
        self.events = self.awaited = self._done = self._sent = self.ended_ns = 0
        self.recomputed = self.lost_prompt_tokens = self.lost_output_tokens = 0
        self._hands_over = any(parts.prefills and not parts.decodes for parts in pools)
        self._decode_limit = min((p.max_tokens for p in pools if p.decodes and self._hands_over), default=1 << 62)
        self._longest: list[tuple[int, int]] = []
        self._draining: dict[int, Callable[[], None]] = {}
        self._drained = Batch(self.env)
        self._total = len(ledger)
        self._stride = max(1, self._total // 100)
        for number, parts in enumerate(pools):
            for _ in range(parts.replicas):
                self.start_instance(number)

    def run(self) -> None:
        """Serve every request."""
        self._arrivals.drive(self._arrive())
        try:
            self._serve()
        finally:
            self.events = self.env.calls

    def _serve(self) -> None:
        while self._done < self._total:
            self._all_done = self.env.event()
            try:
                self.env.run(until=self._all_done)
            except RuntimeError:
                # Nothing is left to happen: an instance that will decode may be held up by requests that wait for it.
                if not self.env.is_over() or not self._give_up_waiting():
                    raise
        if self.hand_over.under_way:
            # The last request needed no decoding: what was reserved for it is freed a nanosecond later.
            self.env.run(until=self.env.now + 2)

    # --- instances that come and go --------------------------------------------------------------------

    def start_instance(self, pool: int, like: int | None = None) -> Server:
        """Add an instance to a pool now, on the chips of an earlier one unless the run is about to begin."""
        parts, log, number = self.pools[pool], StepLog(), len(self.instances)
        make: Callable[..., Server] = EncodeInstance if isinstance(parts, EncodeParts) else instance_maker(parts)
        watcher = self.encoding if parts.encodes else self
        tells_chunks = self.terms.overlaps and not parts.decodes
        around = Surroundings(self.env, number, self.ledger, log, watcher, tells_chunks, self.macro_steps)
        instance = make(around, parts)
        self.instances.append(instance)
        if self._equip is not None:
            self._equip(pool, instance, like)
        front_end = FrontEnd(parts.front_end) if parts.front_end else None
        self._front_ends.append(front_end)
        if front_end is not None:
            for core in instance.cores:
                core.outlet.front_end = front_end
        self.logs.append(log)
        self.owners.append(pool)
        self.loads.append(0)
        self._longest.append((min(parts.max_tokens, self._decode_limit), parts.max_prompt))
        if self.carrier is not None and like is not None:
            self.carrier.place(number, like, pool)
        self._let_join(instance, parts)
        return instance

    def drain(self, instance: Server, then: Callable[[], None]) -> None:
        """Send no more requests to an instance, and do something once it has none left."""
        self._withdraw(instance)
        if self.loads[instance.number]:
            self._draining[instance.number] = then
        else:
            self._drained.add(instance.number, then)

    def stop_instance(self, instance: Server) -> None:
        """Let an instance die now: what it had computed is lost, what it had not is done elsewhere."""
        self._withdraw(instance)
        self._draining.pop(instance.number, None)
        self.hand_over.instance_lost(instance)
        if self.encoding is not None:
            self.encoding.instance_lost(instance)
        for request in instance.stop():
            if not request.remote:
                self.start_over(request)
        self.loads[instance.number] = 0
        self.give_up_if_hopeless()

    def give_up_if_hopeless(self) -> None:
        """Let requests fail that wait for an instance where none is left and none is about to join."""
        if not self.awaited:
            self._give_up_waiting()

    def _give_up_waiting(self) -> bool:
        """Let requests fail that wait for an instance where none is left; tell whether there were any."""
        found = False
        for group in self._groups():
            if not group:
                parked, group.waiting = group.waiting, []
                found = found or bool(parked)
                for _, give_up in parked:
                    give_up()
        return found

    def _withdraw(self, instance: Server) -> None:
        for group in self._groups():
            group.leave(instance.number)

    def _groups(self) -> list[Group]:
        return [self.entry, self.decoding, *([self.encoding.group] if self.encoding is not None else [])]

    def _let_join(self, instance: Server, parts: EngineParts | EncodeParts) -> None:
        if parts.encodes and self.encoding is not None:
            self._join(self.encoding.group, instance, helps=False)
        both = parts.prefills and parts.decodes
        if parts.prefills:
            self._join(self.entry, instance, helps=both and self._hands_over)
        if parts.decodes and self._hands_over:
            self._join(self.decoding, instance, helps=both)

    def _join(self, group: Group, instance: Server, *, helps: bool) -> None:
        group.join(instance, helps=helps)
        parked, group.waiting = group.waiting, []
        for action, _ in parked:
            soon(self.env, 1, action)

    # --- what instances tell ---------------------------------------------------------------------------

    def finished(self, instance: int, index: int) -> None:
        """Count a request that produced its last token."""
        ledger = self.ledger
        finish_ns = ledger.finish_ns[index]
        ledger.decode_instance[index] = instance
        self.unload(self.instances[instance])
        if self._hands_over:
            self.hand_over.finished(index)
        if self.ended_ns < finish_ns:  # noqa: PLR1730 - a call of max costs more
            self.ended_ns = finish_ns
        self._count_done(index, finish_ns - self.env.now)

    def prompt_computed(self, instance: int, request: Request) -> None:
        """Hand over a request whose prompt is computed."""
        self.hand_over.prompt_computed(self.instances[instance], request)

    def reserved(self, instance: int, request: Request) -> None:
        """Start to bring a request's KV to the instance that has made room for it."""
        self.hand_over.reserved(self.instances[instance], request)

    def computing(self, instance: int, request: Request, tokens: int, duration_ns: int) -> None:
        """Let the KV of a chunk leave while it is computed."""
        self.hand_over.computing(self.instances[instance], request, tokens, duration_ns)

    # --- requests --------------------------------------------------------------------------------------

    def enter(self, request: Request) -> None:
        """Let a request queue at an instance that computes prompts, unless it failed while it waited for one."""
        if self.ledger.failed[request.index]:
            return
        chosen = self.entry.choose(request)
        if chosen is None:
            self.park(self.entry, lambda: self.enter(request), lambda: self.fail(request))
            return
        ledger, index, number = self.ledger, request.index, chosen.number
        ledger.instance[index] = ledger.decode_instance[index] = number
        if self._hands_over and chosen.decodes_here:
            self.hand_over.stay(request)
        prompt, (longest, longest_prompt) = ledger.prompt_tokens[index], self._longest[number]
        if prompt > longest_prompt or prompt + ledger.output_tokens[index] > longest:
            self.unload(chosen)
            self.hand_over.finished(index)
            self._refuse(index)
            return
        if self.encoding is None:
            chosen.submit(request)
        else:
            self.encoding.bring(request, chosen)

    def unload(self, instance: Server) -> None:
        """Count a request less on an instance."""
        self.loads[instance.number] -= 1
        if self._draining and (number := instance.number) in self._draining and not self.loads[number]:
            self._drained.add(number, self._draining.pop(number))

    def park(self, group: Group, action: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Do something once an instance joins a group, or something else if none ever will."""
        group.waiting.append((action, give_up))
        self.give_up_if_hopeless()

    def start_over(self, request: Request) -> None:
        """Compute a request once more whose KV is lost, or let it fail."""
        if self.fails_with_instance:
            self.fail(request)
            return
        self.ledger.restarts[request.index] += 1
        self.recomputed += request.computed
        request.forget_blocks()
        request.epoch += 1
        soon(self.env, 1, lambda: self._begin(request))

    def fail(self, request: Request) -> None:
        """Let a request fail that is on no instance any more, unless it has failed."""
        if self.ledger.failed[request.index]:
            return
        index, prompt = request.index, self.ledger.prompt_tokens[request.index]
        self.lost_prompt_tokens += prompt - (request.tokens - request.computed)
        self.lost_output_tokens += request.tokens - prompt
        self.hand_over.stay(request)
        self.ended_ns = self.env.now
        self._refuse(index)

    def _begin(self, request: Request) -> None:
        """Let a request be served from its images on."""
        if self.encoding is None or not self.encoding.takes(request):
            self.to_prompt(request)

    def to_prompt(self, request: Request) -> None:
        """Let a request be served from its prompt on."""
        if not self._hands_over or self.hand_over.has_room(request) or not self.hand_over.arrive(request):
            self.enter(request)

    def _arrive(self) -> Generator[None, Any, None]:
        """Let requests come, each at its time."""
        env = self.env
        for index, time_ns in self.arrivals.first():
            if time_ns > env.now:
                self._arrivals.after(time_ns - env.now)
                yield
            self._send(index)
        yield

    def _send(self, index: int) -> None:
        """Let a request arrive now."""
        ledger = self.ledger
        ledger.arrival_ns[index] = self.env.now
        prompt, output = ledger.prompt_tokens[index], ledger.output_tokens[index]
        if self._early and prompt + output > self._decode_limit:
            self._refuse(index)
        else:
            request = Request(index, prompt, prompt + max(output, self.declared_tokens))
            request.order = self._sent
            self._sent += 1
            if self.identities is not None:
                self.identities.identify(request)
            front_end = self._front_end() if self._delays else None
            if front_end is None:
                self._begin(request)
            else:
                soon(self.env, front_end.take_in(self.env.now, prompt), lambda: self._begin(request))

    def _front_end(self) -> FrontEnd | None:
        """Return the front end that takes the next request in: the least busy one of those that could serve it."""
        now, members = self.env.now, self.entry.members
        if len(members) == 1:
            return self._front_ends[members[0]]
        found = [front_end for number in members if (front_end := self._front_ends[number]) is not None]
        return min(found, key=lambda front_end: front_end.left_ns(now), default=None)

    def _refuse(self, index: int) -> None:
        self.ledger.failed[index] = 1
        self._count_done(index)

    def _count_done(self, index: int, later_ns: int = 0) -> None:
        """Count a request that finished or failed, and let the one come that waits for its client to know."""
        ledger = self.ledger
        self._done += 1
        if self.encoding is not None:
            self.encoding.forget(index)
        following = self.arrivals.after(index, self._done)
        while following is not None and following.goes_on and ledger.failed[index]:
            # Without that answer there is nothing to go on from.
            index, self._done = following.row, self._done + 1
            ledger.arrival_ns[index], ledger.failed[index] = self.env.now, 1
            following = self.arrivals.after(index, self._done)
        if following is not None:
            row = following.row
            soon(self.env, max(1, following.think_ns + later_ns), lambda: self._send(row))
        if self.on_progress is not None and self._done % self._stride == 0:
            self.on_progress(self._done)
        if self._done == self._total:
            self._all_done.succeed()
