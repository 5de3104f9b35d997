"""Requests on their way through the encoders to where their prompts are computed."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Protocol

from hardware.errors import LawError
from simulator.batch import Batch
from simulator.clock import soon
from simulator.encode_dispatch import EncodeDispatch
from simulator.feature_store import FeatureStore
from simulator.visit import Visit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.arriving import ArrivingFeatures
    from simulator.clock import Clock
    from simulator.encode_instance import EncodeInstance, Errand
    from simulator.group import Group
    from simulator.network import FeatureTransfer
    from simulator.passage import Carrier
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
    arriving
        Tells engines what of a prompt's images is missing; None where prompts wait for all of them.

    Attributes
    ----------
    dispatch, group
        Deals images to the instances that encode, and those.
    store
        Of features; None where they go directly.
    given_up
        Transfers dropped because an instance died.
    """

    def __init__(  # noqa: PLR0913 - the parts of a stage, all named
        self,
        host: Host,
        terms: FeatureTransfer,
        media: RequestMedia | None,
        router: Router,
        *,
        encodes: bool = True,
        arriving: ArrivingFeatures | None = None,
    ) -> None:
        self.env, self.ledger, self._carrier = host.env, host.ledger, host.carrier
        self.host, self.terms, self._media, self._arriving = host, terms, media, arriving
        self.dispatch = EncodeDispatch(host, terms, router, self)
        self.group, self._encodes = self.dispatch.group, encodes
        capacity = inf if terms.store_capacity_gb is None else terms.store_capacity_gb * 1e9
        self.store = FeatureStore(capacity) if terms.mode == "store" else None
        self.given_up = 0
        self._visits: dict[int, Visit] = {}
        self._awaited: dict[int, list[Visit]] = {}
        self._encoded = Batch(self.env)

    def __len__(self) -> int:
        return len(self._visits)

    @property
    def held(self) -> int:
        """Tokens whose features encoders hold for somebody, and contents that the store keeps so."""
        pinned = 0 if self.store is None else self.store.pinned
        return pinned + sum(room.needed for room in self.dispatch.rooms)

    # --- to the encoders -------------------------------------------------------------------------------

    def takes(self, request: Request) -> bool:
        """Let a request with images go to the encoders, where these are others; tell whether it does."""
        items = self._items(request) if self._encodes else ()
        if items:
            self._visits[request.index] = visit = Visit(request, items, sum(item.tokens for item in items))
            if self.store is not None:
                self.store.asked += len(visit.items)
            self.dispatch.send(visit, [content for content in visit.items if not self._is_known(visit, content)])
            self._look(visit)
        return bool(items)

    def _items(self, request: Request) -> tuple[Encodable, ...]:
        return () if self._media is None else self._media.of(request.index)

    def _is_known(self, visit: Visit, content: int) -> bool:
        """Tell whether a content need not be encoded for a request: it is in the store, or about to be."""
        if self.store is None:
            return False
        if self.store.use(content):
            self._pin(self.store, visit, content)
            visit.encoded.add(content)
        elif content in self._awaited:
            self._awaited[content].append(visit)
        else:
            return False
        visit.sources[content] = None
        self.store.hits += 1
        return True

    def begins(self, visit: Visit, content: int) -> bool:
        """Tell whether a content is to be encoded now; others who want it in the store wait for that from now on."""
        if self._is_known(visit, content):
            soon(self.env, 1, partial(self._look, visit))
            return False
        if self.store is not None:
            self._awaited[content] = [visit]
        return True

    def awaits(self, content: int) -> bool:
        """Tell whether anybody waits for a content to be in the store; if not, the next one has it encoded."""
        if any(not visit.gone for visit in self._awaited.get(content, ())):
            return True
        self._awaited.pop(content, None)
        return False

    def give_up(self, visit: Visit, contents: Sequence[int]) -> None:
        """Let those fail who need what nobody will encode."""
        waiting = [visit, *(other for content in contents for other in self._awaited.pop(content, ()))]
        for other in dict.fromkeys(waiting):
            if not other.gone:
                if other.target is not None:
                    self.host.unload(other.target)
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
        if instance.ended_ns >= 0:
            # What it made died with it, and is made anew.
            return
        for _, item in errands:
            self._pass_on(instance, item, self.dispatch.made(instance, item.content), made_ns)

    def found(self, instance: EncodeInstance, visit: Visit, content: int) -> None:
        """Let features go on that an encoder had already when it was asked for them."""
        self._pass_on(instance, visit.items[content], [visit], None)

    def _pass_on(
        self, instance: EncodeInstance, item: Encodable, waiting: Sequence[Visit], made_ns: int | None
    ) -> None:
        """Let features go on to all who wait for them; without ``made_ns``, they were made before somebody asked."""
        if self.store is not None:
            others = [visit for visit in self._awaited.pop(item.content, []) if not visit.gone]
            waiting = list(dict.fromkeys([*waiting, *others]))
            self._store(self.store, instance, item, waiting)
        for visit in waiting:
            visit.encoded.add(item.content)
            self.ledger.encode_instance[visit.request.index] = instance.number
            self._look(visit, made_ns)

    def _store(self, store: FeatureStore, instance: EncodeInstance, item: Encodable, waiting: Sequence[Visit]) -> None:
        """Keep features in the store for those who wait, or, where it has no room, with whoever made them."""
        kept = store.put(item.content, item.size_bytes)
        for visit in waiting:
            if kept:
                self._pin(store, visit, item.content)
                self.dispatch.let_go(visit, item.content)
            else:
                self.dispatch.hold(instance, visit, item.content)
                visit.sources[item.content] = instance

    def _look(self, visit: Visit, made_ns: int | None = None) -> None:
        """Let a request go on if enough of it is encoded, and its features if it is known where to."""
        ledger, index, now = self.ledger, visit.request.index, self.env.now
        if visit.gone or not (visit.complete or visit.encoded or self._can_begin(visit, visit.encoded)):
            return
        if visit.items and visit.complete and ledger.encoded_ns[index] < 0:
            ledger.encoded_ns[index] = now if made_ns is None else made_ns
            if ledger.encode_ns[index] < 0:
                ledger.encode_ns[index] = ledger.encoded_ns[index]
        if visit.target is not None:
            self._send(visit)
        elif not visit.goes_on and (visit.complete or self.terms.streaming):
            visit.goes_on = True
            self.host.to_prompt(visit.request)

    def _can_begin(self, visit: Visit, there: set[int]) -> bool:
        """Tell whether there is something of a prompt to compute while some of its images are missing."""
        return self._arriving is not None and self._arriving.begins(visit.request.index, there) > 0

    # --- to the prompt ---------------------------------------------------------------------------------

    def bring(self, request: Request, target: Server) -> None:
        """Let a request queue at an instance once it is prepared there, with all its features."""
        visit = self._visits.get(request.index)
        if visit is None:
            tokens = sum(item.tokens for item in self._items(request))
            self._visits[request.index] = visit = Visit(request, (), tokens)
        visit.goes_on, visit.target = True, target
        if self.terms.prefetch:
            self._prepare(visit)
        self._send(visit)
        self._arrive(visit)

    def forget(self, index: int) -> None:
        """Take note that a request will never be served, or is to start over."""
        if (visit := self._visits.pop(index, None)) is not None:
            visit.forget_target()
            self.dispatch.forget(visit)
            for content in list(visit.pinned):
                self._let_go(visit, content)
            if self._arriving is not None:
                self._arriving.expect(index, ())

    def _prepare(self, visit: Visit) -> None:
        latency_ns, target = self.terms.scheduling_ns(visit.tokens), visit.target
        if latency_ns:
            soon(self.env, latency_ns, lambda: self._is_prepared(visit, target))
        else:
            visit.prepared = True

    def _is_prepared(self, visit: Visit, target: Server | None) -> None:
        if visit.target is target:
            visit.prepared = True
            self._arrive(visit)

    def _send(self, visit: Visit) -> None:
        """Send the features on their way that are encoded."""
        target = visit.target
        if target is None or not (self.terms.streaming or visit.complete):
            return
        for content, item in visit.items.items():
            if content not in visit.encoded or content in visit.sent or content in visit.there:
                continue
            visit.sent.add(content)
            source = visit.sources[content]
            if self.store is not None:
                soon(self.env, self.terms.store_ns(item.size_bytes), partial(self._arrived, visit, target, content))
            elif source is None:
                raise LawError(f"the features of request {visit.request.index} come from nowhere")
            else:
                self._ship(visit, item, source, target)

    def _ship(self, visit: Visit, item: Encodable, source: EncodeInstance, target: Server) -> None:
        """Send the features of one image over the network."""
        if self._carrier is None or self._media is None:
            raise LawError(f"the features of request {visit.request.index} go from chip to chip over no network")
        if (waits := None if self.terms.prefetch else source) is not None:
            waits.hold()
        arrived = partial(self._arrived, visit, target, item.content)
        shipment = self._carrier.open_features(source.number, target.number, self._media.token_bytes, arrived)
        visit.shipments[item.content] = shipment, waits
        shipment.send(item.tokens)

    def _arrived(self, visit: Visit, target: Server, content: int) -> None:
        _, waits = visit.shipments.pop(content, (None, None))
        if waits is not None and waits.ended_ns < 0:
            waits.resume()
        if visit.target is target and content in visit.sent:
            visit.there.add(content)
            self._let_go(visit, content)
            if visit.queued and self._arriving is not None:
                self._arriving.tell(target, visit.request, content)
            self._arrive(visit)

    def _arrive(self, visit: Visit) -> None:
        """Let a request queue if nothing of it is missing, or something can be computed; end a visit that has all."""
        index, target = visit.request.index, visit.target
        all_there = len(visit.there) == len(visit.items)
        if target is None or visit.gone or not (all_there or visit.queued or self._can_begin(visit, visit.there)):
            return
        if not visit.prepared and not self.terms.prefetch and not visit.preparing:
            visit.preparing = True
            self._prepare(visit)
        if not visit.prepared:
            return
        if all_there:
            visit.gone = True
            del self._visits[index]
        if not visit.queued:
            visit.queued = True
            self._queue(visit, target)

    def _queue(self, visit: Visit, target: Server) -> None:
        """Let a request queue where its prompt is computed, now."""
        ledger, index, now = self.ledger, visit.request.index, self.env.now
        missing = visit.items.keys() - visit.there
        if self._arriving is not None and missing:
            self._arriving.expect(index, missing)
        if visit.items and ledger.features_ns[index] < 0:
            # What a prompt waits for once it has begun counts as its own time.
            for times in (ledger.encode_ns, ledger.encoded_ns):
                if times[index] < 0:
                    times[index] = now
            ledger.features_ns[index] = now
        target.submit(visit.request)

    # --- features that are kept ------------------------------------------------------------------------

    def _pin(self, store: FeatureStore, visit: Visit, content: int) -> None:
        if content not in visit.pinned:
            visit.pinned.add(content)
            store.pin(content)

    def _let_go(self, visit: Visit, content: int) -> None:
        """Let features that a request has got be dropped where they came from."""
        if self.store is not None and content in visit.pinned:
            visit.pinned.discard(content)
            self.store.unpin(content)
        self.dispatch.let_go(visit, content)

    def _is_kept(self, visit: Visit, content: int) -> bool:
        """Tell whether features that a request had got are still where they came from; if so, they stay for it."""
        if self.store is not None and self.store.use(content):
            self._pin(self.store, visit, content)
            return True
        return self.dispatch.hold_again(visit, content)

    # --- what can go wrong -----------------------------------------------------------------------------

    def instance_lost(self, lost: Server) -> None:
        """Let others do what an instance that died was to do for requests on their way."""
        making, again = self.dispatch.lost(lost)
        for content in sorted(making):
            for visit in self._awaited.pop(content, ()):
                again.setdefault(visit.key, []).append(content)
        for visit in list(self._visits.values()):
            anew = dict.fromkeys(again.get(visit.key, ()))
            if visit.target is lost:
                self.given_up += len(visit.sent - visit.there)
                if visit.queued:
                    # It was on that instance, and starts over.
                    self.forget(visit.request.index)
                    continue
                had = visit.there
                visit.forget_target()
                anew |= dict.fromkeys(content for content in had if not self._is_kept(visit, content))
                soon(self.env, 1, partial(self._look, visit))
            for content, source in visit.sources.items():
                if source is lost and content not in visit.there and content not in visit.pinned:
                    anew[content] = None
                    self.given_up += content in visit.shipments
                    visit.drop_shipment(content)
                    visit.held.pop(content, None)
            if anew:
                visit.encoded -= anew.keys()
                soon(self.env, 1, partial(self.dispatch.send, visit, list(anew)))
