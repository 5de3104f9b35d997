"""Routers that look at what a request shares with earlier ones.

All break ties towards less load and then towards the first instance. None moves what it need not: where a member
goes, its conversations and prefixes find another place, and all others stay; a new member takes what is new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from simulator.request import Request

__all__ = ["Holder", "KvAware", "PrefixAffinity", "Session"]

#: Thresholds of SGLang's router (``--cache-threshold``, ``--balance-abs-threshold``, ``--balance-rel-threshold``).
_SHARED_ENOUGH: Final = 0.3
_FAR_APART: Final = 64
_TOO_MANY_TIMES: Final = 1.5
#: Spans remembered, so that the memory of a router is bounded.
_MOST_SPANS: Final = 1 << 20


class Holder(Protocol):
    """What a KV-aware router is told of an instance."""

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks of a request are there, and how many of them nobody uses."""
        ...

    def load(self) -> tuple[int, int, int]:
        """Return tokens that wait to be computed, blocks in use, and tokens of a block."""
        ...


def _least_loaded(loads: Sequence[int]) -> int:
    return loads.index(min(loads))


class Session:
    """Every turn of a conversation where its first one was; new ones, and those of a lost member, least loaded."""

    def __init__(self, _rng: Generator) -> None:
        self._places: dict[int, int] = {}

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:
        """Return the conversation's member, if it is there."""
        if request.session < 0:
            return _least_loaded(loads)
        member = self._places.get(request.session)
        if member is not None and member in members:
            return members.index(member)
        chosen = _least_loaded(loads)
        self._places[request.session] = members[chosen]
        return chosen


class PrefixAffinity:
    """Where the longest prefix of a prompt was sent before, unless loads are too far apart.

    The policy ``cache_aware`` of SGLang's router with its thresholds: if the loads differ by more than 64
    requests and by more than half, the least loaded member is chosen; else the one that got the longest
    prefix before, if this is over 0.3 of the prompt; else, again, the least loaded. Nothing is known of what
    members have evicted since.
    """

    def __init__(self, _rng: Generator) -> None:
        self._sent: dict[int, int] = {}
        self._members: tuple[int, ...] = ()

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:
        """Return the member with the longest prefix, or the least loaded one."""
        if tuple(members) != self._members:
            self._forget_lost(members)
        low, high = min(loads), max(loads)
        chosen = None
        if high - low <= _FAR_APART or high <= _TOO_MANY_TIMES * low:
            chosen = self._longest(loads, members, request)
        if chosen is None:
            chosen = _least_loaded(loads)
        self._remember(request, 1 << members[chosen])
        return chosen

    def _longest(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int | None:
        holders, shared, sent = -1, 0, self._sent
        for content, end in zip(request.prefix, request.prefix_ends, strict=True):
            further = holders & sent.get(content, 0)
            if not further:
                break
            holders, shared = further, end
        if shared <= _SHARED_ENOUGH * request.tokens:
            return None
        return min((place for place, member in enumerate(members) if holders >> member & 1), key=loads.__getitem__)

    def _remember(self, request: Request, member: int) -> None:
        """Note what a member was sent; what was sent the longest ago is forgotten first."""
        sent = self._sent
        for content in (*request.prefix, request.own_content) if request.named else request.prefix:
            sent[content] = sent.pop(content, 0) | member
        while len(sent) > _MOST_SPANS:
            del sent[next(iter(sent))]

    def _forget_lost(self, members: Sequence[int]) -> None:
        lost = sum(1 << member for member in self._members if member not in members)
        self._members = tuple(members)
        if lost:
            kept = ((content, holders & ~lost) for content, holders in self._sent.items())
            self._sent = {content: holders for content, holders in kept if holders}


class KvAware:
    """Where the least is to be computed and held, as Dynamo's KV router weighs it.

    The cost of a member is the number of blocks that wait to be computed there, this request's missing ones
    among them, and of those that would be in use. What each member holds is looked up in its cache at that
    moment; Dynamo's router learns it from events, a little later.
    """

    def __init__(self, _rng: Generator) -> None:
        self._holders: dict[int, Holder] = {}

    def observe(self, member: int, holder: Holder) -> None:
        """Look into an instance from now on."""
        self._holders[member] = holder

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:
        """Return the member with the lowest cost, then the lowest load."""
        holders = self._holders
        costs = [
            (_cost(holders[member], request) if member in holders else 0, load)
            for member, load in zip(members, loads, strict=True)
        ]
        return costs.index(min(costs))


def _cost(holder: Holder, request: Request) -> float:
    """Return the blocks to be computed and in use if a request came to an instance."""
    here, idle = holder.find(request)
    queued, used, block_tokens = holder.load()
    wanted = (queued + request.tokens) / block_tokens
    return (wanted - here) + (used + wanted - (here - idle))
