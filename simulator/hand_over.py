"""Requests between the instance that computes their prompt and the one that decodes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hardware.errors import LawError
from simulator.batch import Batch
from simulator.clock import soon
from simulator.passage import Passage

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.clock import Clock
    from simulator.group import Group
    from simulator.network import KvTransfer
    from simulator.passage import Carrier, Shipment
    from simulator.records import Ledger
    from simulator.request import Request
    from simulator.server import Server

__all__ = ["HandOver", "Owner"]


class Owner(Protocol):
    """The cluster, as far as hand-over needs it."""

    def enter(self, request: Request) -> None:
        """Let a request queue at an instance that computes prompts."""
        ...

    def unload(self, instance: Server) -> None:
        """Count a request less on an instance."""
        ...

    def park(self, group: Group, action: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Do something once an instance joins a group, or something else if none ever will."""
        ...

    def start_over(self, request: Request) -> None:
        """Compute a request once more whose KV is lost, or let it fail."""
        ...

    def fail(self, request: Request) -> None:
        """Let a request fail that is on no instance any more."""
        ...


class HandOver:
    """Passages, from the choice of a decoding instance to the arrival of the KV there.

    KV is *pulled* by default: once a prompt is computed a decoding instance is chosen and queues the request
    as it queues any other; when it has blocks, the KV is sent. Where it is *pushed*, the decoding instance is chosen
    at arrival and has blocks before the prompt is even queued, so that a full decode side holds prompts back, and
    KV can leave while the prompt is computed.

    Parameters
    ----------
    env, ledger
        The clock; where times are written.
    terms
        How KV is handed over.
    decoding
        Instances that decode what others computed.
    carrier
        What brings KV there.
    owner
        The cluster.

    Attributes
    ----------
    joins
        Requests whose KV has arrived where they go on.
    recomputed
        Tokens to be computed once more because their KV did not arrive.
    given_up
        Transfers dropped because an instance died or their time was up.
    timed_out
        Those of them whose time was up.
    """

    def __init__(  # noqa: PLR0913 - the parts of a hand-over, all named
        self,
        env: Clock,
        ledger: Ledger,
        *,
        terms: KvTransfer,
        decoding: Group,
        carrier: Carrier | None,
        owner: Owner,
    ) -> None:
        self.env, self.ledger, self.terms, self.decoding, self.owner = env, ledger, terms, decoding, owner
        self._carrier = carrier
        self.joins = self.recomputed = self.given_up = self.timed_out = 0
        self._passages: dict[int, Passage] = {}
        self._entering = Batch(env)
        self._early, self._chosen_at_arrival = terms.early, terms.decode_chosen == "arrival"
        self._handshake_ns = round(terms.terms.handshake_us * 1e3)
        self._timeout_ns = None if terms.timeout_s is None else round(terms.timeout_s * 1e9)

    # --- the way there ---------------------------------------------------------------------------------

    def arrive(self, request: Request) -> bool:
        """Prepare the passage of a request that arrives; tell whether it must wait for room before its prompt."""
        if self._early:
            self._seek(self._passage(request))
        elif self._chosen_at_arrival:
            passage = self._passage(request)
            passage.entered = True
            passage.target = self.decoding.choose(request)
        return self._early

    @property
    def under_way(self) -> int:
        """Requests on their way."""
        return len(self._passages)

    def stay(self, request: Request) -> None:
        """Give up the way of a request that will decode where its prompt is computed, or nowhere."""
        self._leave_target(request.index)

    def has_room(self, request: Request) -> bool:
        """Tell whether there is room for a request already, so that only its prompt must be computed again."""
        return request.index in self._passages

    def computing(self, source: Server, request: Request, tokens: int, duration_ns: int) -> None:
        """Let KV leave while a step computes it."""
        passage = self._passages.get(request.index)
        if passage is None or not passage.reserved:
            return
        if passage.shipment is None and request.computed > request.found:
            return
        if passage.shipment is None:
            passage.shipment = self._open(passage, source)
        end = request.computed + tokens
        fresh = max(0, end - passage.sent_tokens)
        passage.sent_tokens += fresh
        passage.shipment.compute(fresh, duration_ns, last=end == request.tokens)

    def prompt_computed(self, source: Server, request: Request) -> None:
        """Take note that the first token has appeared, and send the KV on as soon as it is wanted."""
        passage = self._passage(request)
        passage.entered = True
        passage.source, passage.token_ns = source, self.env.now
        if passage.wanted is not None:
            passage.wanted.stalled_ns = self.env.now
        if passage.early:
            passage.early = False
            soon(self.env, max(1, self._handshake_ns), lambda: self._was_early(passage))
        elif passage.shipment is not None:
            passage.shipment.computed()
            self._watch(passage, passage.shipment)
        elif passage.reserved:
            self._send(passage)
        elif self._early:
            self._redo(passage, source)
        elif passage.wanted is None:
            soon(self.env, 1, lambda: self._seek(passage))

    def reserved(self, instance: Server, request: Request) -> None:
        """Take note that an instance has blocks for a request."""
        passage = self._passages[request.index]
        if passage.target is not instance:
            raise LawError(f"instance {instance.number} has room for request {request.index}, which it never got")
        passage.reserved, passage.sent_tokens = True, request.found
        if passage.source is not None:
            self._send(passage)
        elif not passage.entered:
            passage.entered = True
            self._entering.add(request.index, lambda: self.owner.enter(passage.prompt))

    def finished(self, index: int) -> None:
        """Free what was reserved for a request that needs no decoding elsewhere."""
        passage = self._passages.get(index)
        if passage is not None and passage.source is None:
            if passage.shipment is not None:
                # Nobody needs it: it is not given up for anything that went wrong.
                passage.shipment.drop()
                passage.shipment = passage.sender = None
            soon(self.env, 1, lambda: self._leave_target(index))

    # --- what can go wrong -----------------------------------------------------------------------------

    def instance_lost(self, lost: Server) -> None:
        """Give up what an instance that died was sending or receiving.

        A request whose KV is gone with the instance that computed it starts over; one that has lost its target
        chooses another.
        """
        for index, passage in list(self._passages.items()):
            if passage.source is lost:
                self._leave_target(index)
                self._lose(passage)
            elif passage.target is lost:
                self._drop(passage)
                passage.target = passage.wanted = None
                passage.reserved = False
                if passage.source is not None and self._early:
                    self._redo(passage, passage.source)
                elif passage.source is not None or not passage.entered:
                    soon(self.env, 1, lambda passage=passage: self._seek(passage))  # type: ignore[misc]
            elif passage.sender is lost:
                self._drop(passage)

    def _redo(self, passage: Passage, source: Server) -> None:
        """Start a request over that has lost the room it had.

        It must not keep its KV while it waits for other room: whoever has room there may wait for blocks here.
        """
        del self._passages[passage.prompt.index]
        self.owner.unload(source)
        source.release(passage.prompt)
        self._lose(passage)

    def _lose(self, passage: Passage) -> None:
        """Start a request over whose KV is gone, but for the token that has appeared."""
        prompt = passage.prompt
        prompt.tokens += 1
        prompt.computed = prompt.tokens
        prompt.stalled_ns = passage.token_ns
        self.owner.start_over(prompt)

    def _leave_target(self, index: int) -> None:
        passage = self._passages.pop(index, None)
        if passage is None:
            return
        self._drop(passage)
        if passage.target is not None:
            self.owner.unload(passage.target)
            if passage.wanted is not None:
                passage.target.cancel(passage.wanted)

    def _drop(self, passage: Passage) -> None:
        passage.early = False
        if passage.shipment is not None:
            self.given_up += 1
            passage.shipment.drop()
            passage.shipment = passage.sender = None
            passage.sent_tokens = passage.wanted.found if passage.wanted is not None else 0

    def _give_up(self, passage: Passage) -> None:
        """Let a request fail that no instance will ever decode."""
        self._passages.pop(passage.prompt.index, None)
        if passage.source is not None:
            self.owner.unload(passage.source)
            passage.source.release(passage.prompt)
            passage.prompt.tokens += 1
            passage.prompt.computed = passage.prompt.tokens
        self.owner.fail(passage.prompt)

    def _watch(self, passage: Passage, shipment: Shipment) -> None:
        """Give a transfer up that takes too long after its prompt was computed."""
        if self._timeout_ns is not None:
            soon(self.env, self._timeout_ns, lambda: self._time_out(passage, shipment))

    def _time_out(self, passage: Passage, shipment: Shipment) -> None:
        source, target, wanted = passage.source, passage.target, passage.wanted
        if passage.shipment is not shipment or source is None or target is None or wanted is None:
            return
        del self._passages[wanted.index]
        self._drop(passage)
        self.timed_out += 1
        self.owner.unload(source)
        source.release(passage.prompt)
        if self.terms.on_timeout == "recompute":
            self.recomputed += wanted.tokens
            target.recompute(wanted)
        else:
            self.owner.unload(target)
            target.cancel(wanted)
            self.owner.fail(wanted)

    # --- steps of the way ------------------------------------------------------------------------------

    def _passage(self, request: Request) -> Passage:
        found = self._passages.get(request.index)
        if found is None:
            found = self._passages[request.index] = Passage(request)
        return found

    def _seek(self, passage: Passage) -> None:
        """Let a request queue for blocks on a decoding instance."""
        prompt = passage.prompt
        if self._passages.get(prompt.index) is not passage or passage.wanted is not None:
            return
        target = passage.target or self.decoding.choose(prompt)
        if target is None:
            self.owner.park(self.decoding, lambda: self._seek(passage), lambda: self._give_up(passage))
            return
        wanted = prompt.going_on()
        wanted.stalled_ns = passage.token_ns
        passage.target, passage.wanted = target, wanted
        target.submit(wanted)

    def _send(self, passage: Passage) -> None:
        """Send all KV of a computed prompt at once."""
        if passage.source is None:
            raise LawError(f"the KV of request {passage.prompt.index} is sent before it is computed")
        passage.shipment = self._open(passage, passage.source)
        passage.shipment.send(passage.prompt.tokens if passage.wanted is None else passage.wanted.missing)
        self._watch(passage, passage.shipment)

    def _open(self, passage: Passage, source: Server) -> Shipment:
        if self._carrier is None or passage.target is None:
            raise LawError(f"request {passage.prompt.index} is handed over, but nothing carries its KV")
        passage.sender = source
        target, wanted = passage.target, passage.wanted or passage.prompt
        ranks = source.rank_of(passage.prompt), target.rank_of(wanted)
        return self._carrier.open(source.number, target.number, lambda: self._arrived(passage), ranks)

    def _was_early(self, passage: Passage) -> None:
        """Take note of KV that was there before its last step was over, unless either side died since."""
        if self._passages.get(passage.prompt.index) is passage and passage.shipment is not None:
            self._arrived(passage)

    def _arrived(self, passage: Passage) -> None:
        """Let the source forget KV that has arrived, and the target go on with it."""
        source, target, wanted = passage.source, passage.target, passage.wanted
        index = passage.prompt.index
        if source is None and passage.shipment is not None and self._passages.get(index) is passage:
            # The step that computes it lasts longer than it said, for a neighbour on its chips.
            passage.early = True
            return
        if source is None or target is None or wanted is None:
            raise LawError(f"the KV of request {index} has arrived before it was complete")
        del self._passages[index]
        passage.shipment = None
        self.joins += 1
        self.ledger.kv_ready_ns[index] = self.env.now
        self.owner.unload(source)
        source.release(passage.prompt, sent=True)
        target.deliver(wanted)
