"""Which encoder makes what, and when it has room for that."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hardware.errors import LawError
from simulator.clock import soon
from simulator.encode_instance import EncodeInstance, Errand
from simulator.feature_room import FeatureRoom
from simulator.group import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.clock import Clock
    from simulator.network import FeatureTransfer
    from simulator.request import Request
    from simulator.router import Router
    from simulator.server import Server
    from simulator.visit import Visit

__all__ = ["EncodeDispatch", "Loading"]


class Loading(Protocol):
    """The cluster, as far as the choice of an encoder needs it."""

    env: Clock
    loads: list[int]

    def unload(self, instance: Server) -> None:
        """Count a request less on an instance."""
        ...

    def park(self, group: Group, action: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Do something once an instance joins a group, or something else if none ever will."""
        ...

    def fail(self, request: Request) -> None:
        """Let a request fail that is on no instance any more."""
        ...


class Asking(Protocol):
    """The stage between arrival and the queue for a prompt, as far as the choice of an encoder needs it."""

    def found(self, instance: EncodeInstance, visit: Visit, content: int) -> None:
        """Let features go on that an encoder had already when it was asked for them."""
        ...

    def give_up(self, visit: Visit, contents: Sequence[int]) -> None:
        """Let those fail who need what nobody will encode."""
        ...

    def awaits(self, content: int) -> bool:
        """Tell whether others wait for a content who asked no encoder for it."""
        ...

    def begins(self, visit: Visit, content: int) -> bool:
        """Tell whether a content is to be encoded now, and not there, or about to be, by another way."""
        ...


class _Wanted(NamedTuple):
    """What of a request which encoders are to make, once there is room for all of it."""

    visit: Visit
    by: dict[EncodeInstance, list[int]]


class EncodeDispatch:
    """Deals what is to be encoded to encoders, each of which has room for so many features.

    A request asks for room for all its images at once, on all encoders that get some, and waits in turn until there is:
    nobody has room and waits for more, so that nobody waits for ever. An image whose features an encoder has still, or
    is about to make, is not encoded there again.

    Parameters
    ----------
    host
        The cluster.
    terms
        How features go.
    router
        Chooses among instances that encode.
    stage
        Whom it serves.

    Attributes
    ----------
    group
        Instances that encode.
    asked, hits
        Contents that encoders were asked for, and those that one had or was making.
    """

    def __init__(
        self,
        host: Loading,
        terms: FeatureTransfer,
        router: Router,
        stage: Asking,
    ) -> None:
        self.host, self.terms, self.group = host, terms, Group(router, host.loads)
        self.asked = self.hits = 0
        self._stage = stage
        self._rooms: dict[int, FeatureRoom] = {}
        self._making: dict[tuple[int, int], list[Visit]] = {}
        self._waiting: list[_Wanted] = []
        self._crowded: dict[int, int] = {}
        self._looks = False

    @property
    def rooms(self) -> Sequence[FeatureRoom]:
        """Room on every encoder that lives and was asked for anything, in the order in which that was."""
        return list(self._rooms.values())

    def send(self, visit: Visit, contents: Sequence[int]) -> None:
        """Send contents to encoders: all to one, or each to the one with the least to do.

        Whoever has features somewhere already gets the rest whether or not there is room.
        """
        by: dict[EncodeInstance, list[int]] = {}
        one: EncodeInstance | None = None
        for place, content in enumerate(contents):
            if one is None or self.terms.shard_images:
                one = self._choose(visit)
                if one is None:
                    again = partial(self.send, visit, contents[place:])
                    self.host.park(self.group, again, partial(self._stage.give_up, visit, contents[place:]))
                    break
            else:
                self.host.loads[one.number] += 1
            visit.sources[content] = one
            by.setdefault(one, []).append(content)
        wanted = _Wanted(visit, by)
        if not by or visit.gone:
            self._unload(wanted)
        elif visit.held or self._has_room(wanted, self._crowded):
            self._begin(wanted)
        else:
            self._waiting.append(wanted)
            for one in by:
                self._crowded[one.number] = self._crowded.get(one.number, 0) + 1

    def _choose(self, visit: Visit) -> EncodeInstance | None:
        chosen = self.group.choose(visit.request)
        if chosen is not None and not isinstance(chosen, EncodeInstance):
            raise LawError(f"instance {chosen.number} was to encode, which it does not do alone")
        return chosen

    def _unload(self, wanted: _Wanted) -> None:
        for one, contents in wanted.by.items():
            for _ in contents if one.ended_ns < 0 else ():
                self.host.unload(one)

    def _room(self, one: EncodeInstance) -> FeatureRoom:
        found = self._rooms.get(one.number)
        if found is None:
            terms, parts = self.terms, one.parts
            memory, kept = terms.encoder_memory_tokens, terms.encoder_kept_tokens
            found = self._rooms[one.number] = FeatureRoom(
                parts.blocks if memory is None else memory, parts.kept_tokens if kept is None else kept
            )
        return found

    # --- room ------------------------------------------------------------------------------------------

    def _has_room(self, wanted: _Wanted, crowded: dict[int, int]) -> bool:
        items = wanted.visit.items
        return all(
            one.number not in crowded and self._room(one).fits({content: items[content].tokens for content in contents})
            for one, contents in wanted.by.items()
        )

    def _look_soon(self, one: EncodeInstance) -> None:
        """See a nanosecond from now whether those who wait have room, if any wait for this encoder."""
        if one.number in self._crowded and not self._looks:
            self._looks = True
            soon(self.host.env, 1, self._look)

    def _look(self) -> None:
        """Let those begin, in turn, who have room on all their encoders."""
        self._looks = False
        waiting, self._waiting = self._waiting, []
        full: dict[int, int] = {}
        for place, wanted in enumerate(waiting):
            if len(full) == len(self._crowded):
                self._waiting += waiting[place:]
                break
            if wanted.visit.gone:
                self._unload(wanted)
                self._uncrowd(wanted)
                continue
            if self._has_room(wanted, full):
                self._uncrowd(wanted)
                self._begin(wanted)
            else:
                self._waiting.append(wanted)
                full |= dict.fromkeys((one.number for one in wanted.by), 0)

    def _uncrowd(self, wanted: _Wanted) -> None:
        for one in wanted.by:
            self._crowded[one.number] -= 1
            if not self._crowded[one.number]:
                del self._crowded[one.number]

    def _begin(self, wanted: _Wanted) -> None:
        visit = wanted.visit
        for one, contents in wanted.by.items():
            room = self._room(one)
            for content in contents:
                # One that was found may have let the request go on, and fail.
                if visit.gone or not self._stage.begins(visit, content):
                    self.host.unload(one)
                    continue
                item, makers = visit.items[content], self._making.get((one.number, content))
                room.hold(content, item.tokens, visit.key)
                visit.held[content] = one
                self.asked += 1
                if content not in room and makers is None:
                    self._making[one.number, content] = [visit]
                    one.encode(Errand(visit.request, item))
                    continue
                self.hits += 1
                self.host.unload(one)
                if makers is None:
                    self._stage.found(one, visit, content)
                else:
                    makers.append(visit)

    # --- features that are there -------------------------------------------------------------------------

    def made(self, one: EncodeInstance, content: int) -> list[Visit]:
        """Take note that an encoder has made features; return who waited for them."""
        self._room(one).made(content)
        visits = self._making.pop((one.number, content), None)
        if visits is not None:
            self.host.unload(one)
        return [visit for visit in visits or () if not visit.gone]

    def hold(self, one: EncodeInstance, visit: Visit, content: int) -> None:
        """Let features stay for somebody on the encoder that made them now."""
        if content not in visit.held:
            room = self._room(one)
            room.hold(content, visit.items[content].tokens, visit.key)
            room.made(content)
            visit.held[content] = one
            for wanted in [wanted for wanted in self._waiting if wanted.visit is visit]:
                self._waiting.remove(wanted)
                self._uncrowd(wanted)
                self._begin(wanted)

    def hold_again(self, visit: Visit, content: int) -> bool:
        """Let features stay for somebody who needs them once more; tell whether they are there still."""
        one = visit.sources.get(content)
        if one is None or one.ended_ns >= 0 or content not in self._room(one):
            return False
        self.hold(one, visit, content)
        return True

    def let_go(self, visit: Visit, content: int) -> None:
        """Let somebody need features no more where they were made."""
        one = visit.held.pop(content, None)
        if one is not None and one.ended_ns < 0:
            self._room(one).release(content, visit.key)
            self._look_soon(one)

    def forget(self, visit: Visit) -> None:
        """Let nothing be made or kept for a request any more."""
        visit.gone = True
        for content, one in list(visit.held.items()):
            makes = self._making.get((one.number, content))
            self.let_go(visit, content)
            if makes is not None and all(other.gone for other in makes) and not self._stage.awaits(content):
                del self._making[one.number, content]
                one.drop(content)
                self.host.unload(one)
        for wanted in [wanted for wanted in self._waiting if wanted.visit is visit]:
            self._withdraw(wanted)

    def lost(self, instance: Server) -> tuple[set[int], dict[tuple[int, int], list[int]]]:
        """Give up what an encoder was to make.

        Returns
        -------
        tuple
            Contents that it was making; and, by the key of a visit, all that waited for room on it and others together.
        """
        self._rooms.pop(instance.number, None)
        numbers = [key for key in self._making if key[0] == instance.number]
        lost = {content for _, content in numbers}
        for key in numbers:
            del self._making[key]
        withdrawn: dict[tuple[int, int], list[int]] = {}
        for wanted in [wanted for wanted in self._waiting if instance in wanted.by]:
            self._withdraw(wanted)
            contents = [content for made in wanted.by.values() for content in made]
            withdrawn.setdefault(wanted.visit.key, []).extend(contents)
        return lost, withdrawn

    def _withdraw(self, wanted: _Wanted) -> None:
        self._waiting.remove(wanted)
        self._unload(wanted)
        self._uncrowd(wanted)
