"""Requests on their way through the encoders to where their prompts are computed."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Protocol

from hardware.errors import LawError
from simulator.batch import Batch
from simulator.clock import soon
from simulator.encode_instance import EncodeInstance, Errand
from simulator.feature_store import FeatureStore
from simulator.group import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.clock import Clock
    from simulator.network import FeatureTransfer
    from simulator.passage import Carrier, Shipment
    from simulator.records import Ledger
    from simulator.request import Request
    from simulator.request_media import Encodable, RequestMedia
    from simulator.router import Router
    from simulator.server import Server

__all__ = ["EncodeStage", "Host"]


class Host(Protocol):
    """The cluster, as far as encoding needs it."""

    env: Clock
    ledger: Ledger
    loads: list[int]
    carrier: Carrier | None

    def to_prompt(self, request: Request) -> None:
        """Let a request go on to where its prompt is computed."""
        ...

    def unload(self, instance: Server) -> None:
        """Count a request less on an instance."""
        ...

    def park(self, group: Group, action: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Do something once an instance joins a group, or something else if none ever will."""
        ...

    def fail(self, request: Request) -> None:
        """Let a request fail that is on no instance any more."""
        ...


class _Visit:
    """One request on its way.

    Attributes
    ----------
    request
        Who.
    epoch
        Its epoch when it came: who starts over comes anew.
    items
        One for each content, by content.
    sources
        The instance that encoded each content, or is about to; None where it was in the store.
    encoded, sent, there
        Contents that are encoded, under way to the target, and there.
    shipments
        What is under way over the network.
    goes_on, target
        It goes on to where its prompt will be computed, and that, once it is chosen.
    preparing, prepared
        The target prepares it, and has done so.
    """

    __slots__ = (
        "encoded",
        "epoch",
        "goes_on",
        "items",
        "prepared",
        "preparing",
        "request",
        "sent",
        "shipments",
        "sources",
        "target",
        "there",
    )

    def __init__(self, request: Request, items: Sequence[Encodable]) -> None:
        self.request, self.epoch = request, request.epoch
        self.items = {item.content: item for item in items}
        self.sources: dict[int, EncodeInstance | None] = {}
        self.encoded: set[int] = set()
        self.sent: set[int] = set()
        self.there: set[int] = set()
        self.shipments: list[Shipment] = []
        self.target: Server | None = None
        self.goes_on = self.prepared = self.preparing = False

    def forget_target(self) -> None:
        """Give up what is under way to an instance that is gone."""
        for shipment in self.shipments:
            shipment.drop()
        self.shipments, self.sent, self.there = [], set(), set()
        self.target = None
        self.goes_on = self.prepared = self.preparing = False


class EncodeStage:
    """What is between arrival and the queue for a prompt where images are encoded elsewhere.

    A request of text alone goes past the encoders. One with images goes to the least loaded of them (or all, image by
    image), and from there, with its features, to an instance that computes prompts, which prepares it meanwhile.

    Parameters
    ----------
    host
        The cluster.
    terms
        How features go.
    media
        What requests carry; None for nothing.
    router
        Chooses among instances that encode.
    encodes
        There are any, now or later; else those that compute prompts encode.

    Attributes
    ----------
    group
        Instances that encode.
    store
        Of features; None where they go directly.
    given_up
        Transfers dropped because an instance died.
    """

    def __init__(
        self, host: Host, terms: FeatureTransfer, media: RequestMedia | None, router: Router, *, encodes: bool = True
    ) -> None:
        self.env, self.ledger, self._carrier = host.env, host.ledger, host.carrier
        self.host, self.terms, self._media = host, terms, media
        self.group, self._encodes = Group(router, host.loads), encodes
        capacity = inf if terms.store_capacity_gb is None else terms.store_capacity_gb * 1e9
        self.store = FeatureStore(capacity) if terms.mode == "store" else None
        self.given_up = 0
        self._visits: dict[int, _Visit] = {}
        self._awaited: dict[int, list[_Visit]] = {}
        self._encoded = Batch(self.env)

    def __len__(self) -> int:
        return len(self._visits)

    # --- to the encoders -------------------------------------------------------------------------------

    def takes(self, request: Request) -> bool:
        """Let a request with images go to the encoders, where these are others; tell whether it does."""
        items = self._media.of(request.index) if self._media is not None and self._encodes else ()
        if items:
            self._visits[request.index] = visit = _Visit(request, items)
            found = [content for content in visit.items if not self._is_known(visit, content)]
            self._dispatch(visit, found)
            self._look(visit)
        return bool(items)

    def _is_known(self, visit: _Visit, content: int) -> bool:
        """Tell whether a content need not be encoded for a request: it is in the store, or about to be."""
        if self.store is None:
            return False
        self.store.asked += 1
        if self.store.use(content):
            visit.encoded.add(content)
        elif content not in self._awaited:
            self._awaited[content] = [visit]
            return False
        else:
            self._awaited[content].append(visit)
        visit.sources[content] = None
        self.store.hits += 1
        return True

    def _dispatch(self, visit: _Visit, contents: Sequence[int]) -> None:
        """Send contents to encoders: all to one, or each to the one with the least to do."""
        one: EncodeInstance | None = None
        for place, content in enumerate(contents):
            if one is None or self.terms.shard_images:
                chosen = self.group.choose(visit.request)
                if chosen is None:
                    self._wait_for_encoder(visit, contents[place:])
                    return
                if not isinstance(chosen, EncodeInstance):
                    raise LawError(f"instance {chosen.number} was to encode, which it does not do alone")
                one = chosen
            else:
                self.host.loads[one.number] += 1
            visit.sources[content] = one
            one.encode(Errand(visit.request, visit.items[content], visit.epoch))

    def _wait_for_encoder(self, visit: _Visit, contents: Sequence[int]) -> None:
        """Try again once there is an encoder, or let those fail who would need it."""
        self.host.park(self.group, partial(self._dispatch, visit, contents), partial(self._give_up, visit, contents))

    def _give_up(self, visit: _Visit, contents: Sequence[int]) -> None:
        waiting = [visit, *(other for content in contents for other in self._awaited.pop(content, ()))]
        for other in dict.fromkeys(waiting):
            if self._visits.get(other.request.index) is other:
                del self._visits[other.request.index]
                self.host.fail(other.request)

    def encoding(self, errands: Sequence[Errand]) -> None:
        """Take note that a run over some items has begun."""
        for errand in errands:
            if self.ledger.encode_ns[errand.request.index] < 0:
                self.ledger.encode_ns[errand.request.index] = self.env.now

    def encoded(self, instance: EncodeInstance, errands: Sequence[Errand]) -> None:
        """Let features go on that were made now."""
        self._encoded.add(instance.number, partial(self._send_on, instance, errands, self.env.now))
        if not self.terms.prefetch and self.store is not None:
            instance.hold()
            sizes = (errand.item.size_bytes for errand in errands)
            soon(self.env, 1 + sum(map(self.terms.store_ns, sizes)), instance.resume)

    def _send_on(self, instance: EncodeInstance, errands: Sequence[Errand], made_ns: int) -> None:
        for request, item, epoch in errands:
            if instance.ended_ns < 0:
                self.host.unload(instance)
            if self.store is not None:
                self.store.put(item.content, item.size_bytes)
                waiting = self._awaited.pop(item.content, [])
            else:
                own = self._visits.get(request.index)
                waiting = [own] if own is not None and own.epoch == epoch else []
            for visit in waiting:
                visit.encoded.add(item.content)
                self.ledger.encode_instance[visit.request.index] = instance.number
                self._look(visit, made_ns)

    def _look(self, visit: _Visit, made_ns: int | None = None) -> None:
        """Let a request go on if enough of it is encoded, and its features if it is known where to."""
        request, ledger = visit.request, self.ledger
        index, now = request.index, self.env.now
        if self._visits.get(index) is not visit or not visit.encoded:
            return
        complete = len(visit.encoded) == len(visit.items)
        if complete and ledger.encoded_ns[index] < 0:
            ledger.encoded_ns[index] = now if made_ns is None else made_ns
            if ledger.encode_ns[index] < 0:
                ledger.encode_ns[index] = ledger.encoded_ns[index]
        if visit.target is not None:
            self._send(visit)
        elif not visit.goes_on and (complete or self.terms.streaming):
            visit.goes_on = True
            self.host.to_prompt(request)

    # --- to the prompt ---------------------------------------------------------------------------------

    def bring(self, request: Request, target: Server) -> None:
        """Let a request queue at an instance once it is prepared there, with all its features."""
        visit = self._visits.get(request.index)
        if visit is None:
            items = self._media.of(request.index) if self._media is not None else ()
            self._visits[request.index] = visit = _Visit(request, items)
            visit.encoded, visit.there = set(visit.items), set(visit.items)
        visit.goes_on, visit.target = True, target
        if self.terms.prefetch:
            self._prepare(visit)
        self._send(visit)
        self._arrive(visit)

    def forget(self, index: int) -> None:
        """Take note that a request will never be served."""
        visit = self._visits.pop(index, None)
        if visit is not None:
            visit.forget_target()

    def _prepare(self, visit: _Visit) -> None:
        tokens, target = sum(item.tokens for item in visit.items.values()), visit.target
        latency_ns = self.terms.scheduling_ns(tokens)
        if latency_ns:
            soon(self.env, latency_ns, lambda: self._is_prepared(visit, target))
        else:
            visit.prepared = True

    def _is_prepared(self, visit: _Visit, target: Server | None) -> None:
        if visit.target is target:
            visit.prepared = True
            self._arrive(visit)

    def _send(self, visit: _Visit) -> None:
        """Send the features on their way that are encoded."""
        target = visit.target
        if target is None or not (self.terms.streaming or len(visit.encoded) == len(visit.items)):
            return
        for content in visit.items:
            if content not in visit.encoded or content in visit.sent or content in visit.there:
                continue
            visit.sent.add(content)
            item, source = visit.items[content], visit.sources[content]
            arrived = partial(self._arrived, visit, target, content)
            if self.store is not None:
                soon(self.env, self.terms.store_ns(item.size_bytes), arrived)
            elif self._carrier is None or self._media is None or source is None:
                raise LawError(f"the features of request {visit.request.index} go from chip to chip over no network")
            else:
                if not self.terms.prefetch:
                    source.hold()
                    arrived = partial(self._arrived, visit, target, content, source.resume)
                shipment = self._carrier.open_features(source.number, target.number, self._media.token_bytes, arrived)
                visit.shipments.append(shipment)
                shipment.send(item.tokens)

    def _arrived(self, visit: _Visit, target: Server, content: int, then: Callable[[], None] | None = None) -> None:
        if then is not None:
            then()
        if visit.target is target:
            visit.there.add(content)
            self._arrive(visit)

    def _arrive(self, visit: _Visit) -> None:
        """Let a request queue if nothing of it is missing."""
        index, target = visit.request.index, visit.target
        if target is None or len(visit.there) < len(visit.items) or self._visits.get(index) is not visit:
            return
        if not visit.prepared:
            if not self.terms.prefetch and not visit.preparing:
                visit.preparing = True
                self._prepare(visit)
            if not visit.prepared:
                return
        del self._visits[index]
        visit.shipments = []
        if visit.items and self.ledger.features_ns[index] < 0 and self.ledger.encoded_ns[index] >= 0:
            self.ledger.features_ns[index] = self.env.now
        target.submit(visit.request)

    # --- what can go wrong -----------------------------------------------------------------------------

    def instance_lost(self, lost: Server) -> None:
        """Let others do what an instance that died was to do for requests on their way."""
        for visit in list(self._visits.values()):
            if visit.target is lost:
                self.given_up += len(visit.sent - visit.there)
                visit.forget_target()
                soon(self.env, 1, partial(self._look, visit))
            gone = [
                content
                for content, source in visit.sources.items()
                if source is lost and content not in visit.there and not (self.store and content in visit.encoded)
            ]
            if gone:
                visit.encoded -= set(gone)
                soon(self.env, 1, partial(self._dispatch, visit, gone))
