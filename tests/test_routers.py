"""Routers: what all of them promise, and what those that look at prefixes and sessions do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import affinity
from simulator.request import Request
from simulator.router import ROUTERS, ObservingRouter


@dataclass
class Shelf:
    """An instance as a KV-aware router sees it."""

    here: int = 0
    idle: int = 0
    queued: int = 0
    used: int = 0

    def find(self, request) -> tuple[int, int]:
        return (self.here, self.idle) if request.prefix else (0, 0)

    def load(self) -> tuple[int, int, int]:
        return self.queued, self.used, 16


def a_router(name: str, shelves=None, seed: int = 9):
    router = ROUTERS[name](np.random.default_rng(seed))
    if isinstance(router, ObservingRouter):
        for member, shelf in enumerate(shelves or [Shelf() for _ in range(64)]):
            router.observe(member, shelf)
    return router


def asking(index: int = 0, *, tokens: int = 100, session: int = -1, spans=(), named: bool = False) -> Request:
    request = Request(index, tokens)
    request.session, request.named = session, named
    request.prefix = tuple(content for content, _ in spans)
    request.prefix_ends = tuple(end for _, end in spans)
    return request


def choices(name: str, loads: list[int], times: int) -> list[int]:
    router = a_router(name)
    return [router.choose(loads, range(len(loads)), asking(i)) for i in range(times)]


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_uses_existing_instances_and_repeats_itself(name):
    loads = [3, 0, 2, 0]
    assert choices(name, loads, 20) == choices(name, loads, 20)
    assert set(choices(name, loads, 200)) <= set(range(4))
    assert choices(name, [5], 1) == [0]


events = st.lists(
    st.tuples(
        st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True),
        st.integers(-1, 5),
        st.integers(0, 3),
        st.integers(0, 90),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("name", ROUTERS)
@settings(max_examples=60, deadline=None)
@given(events)
def test_every_router_copes_with_members_that_come_and_go(name, events):
    runs = []
    for _ in range(2):
        router, chosen = a_router(name), []
        for index, (members, session, depth, load) in enumerate(events):
            spans = [(session * 10 + level, 30 * (level + 1)) for level in range(depth)]
            request = asking(index, session=session, spans=spans)
            loads = [load * (member + index) % 97 for member in members]
            chosen.append(router.choose(loads, members, request))
            assert 0 <= chosen[-1] < len(members)
        runs.append(chosen)
    assert runs[0] == runs[1]


def test_routers_do_what_their_names_say():
    assert choices("round_robin", [9, 0, 0], 5) == [0, 1, 2, 0, 1]
    assert choices("least_loaded", [2, 1, 1], 1) == [1]
    counts = np.bincount(choices("power_of_two", [0, 9, 9, 9], 2000), minlength=4)
    assert counts[0] / 2000 == pytest.approx(1 - (3 / 4) ** 2, abs=0.05)
    counts = np.bincount(choices("random", [0, 9, 9, 9], 4000), minlength=4)
    assert (np.abs(counts / 4000 - 0.25) < 0.04).all()


@pytest.mark.parametrize("name", ["session", "prefix_affinity", "kv_aware"])
def test_without_anything_shared_the_least_loaded_instance_is_chosen(name):
    assert choices(name, [2, 1, 0, 0], 3) == [2, 2, 2]


def conversation(number: int, turn: int) -> Request:
    """Return a turn of a conversation whose prompt is all its own but for what was said before."""
    spans = [(1000 * number + level, 100 * (level + 1)) for level in range(turn + 1)]
    return asking(number, tokens=100 * (turn + 1), session=number, spans=spans)


@pytest.mark.parametrize("name", ["session", "prefix_affinity"])
def test_a_conversation_stays_and_only_those_of_a_lost_member_move(name):
    router, members = a_router(name), list(range(6))
    rng = np.random.default_rng(1)

    def places(turn: int) -> list[int]:
        found = []
        for number in range(60):
            # Loads that would send everyone elsewhere, but are not too far apart.
            loads = rng.integers(0, 40, len(members)).tolist()
            found.append(members[router.choose(loads, members, conversation(number, turn))])
        return found

    first = places(0)
    assert len(set(first)) == 6
    assert places(1) == first
    members.remove(2)
    second = places(2)
    assert [b for a, b in zip(first, second, strict=True) if a != 2] == [a for a in first if a != 2]
    assert 2 not in second
    members.insert(0, 2)
    assert places(3) == second


def test_loads_far_apart_overrule_a_prefix():
    router, shared = a_router("prefix_affinity"), [(7, 90)]
    assert router.choose([1, 0], [0, 1], asking(0, spans=shared)) == 1
    assert router.choose([0, 64], [0, 1], asking(1, spans=shared)) == 1
    assert router.choose([100, 150], [0, 1], asking(2, spans=shared)) == 1
    assert router.choose([0, 65], [0, 1], asking(3, spans=shared)) == 0
    # Now both have it, and of these the less loaded is taken.
    assert router.choose([9, 8], [0, 1], asking(4, spans=shared)) == 1
    assert router.choose([8, 9], [0, 1], asking(5, spans=shared)) == 0


def test_a_short_prefix_does_not_decide():
    router, shared = a_router("prefix_affinity"), [(7, 30)]
    assert router.choose([1, 0], [0, 1], asking(0, spans=shared)) == 1
    assert router.choose([0, 1], [0, 1], asking(1, tokens=100, spans=shared)) == 0
    assert router.choose([1, 0], [0, 1], asking(2, tokens=99, spans=shared)) == 1


def test_the_longest_prefix_wins_and_an_answer_is_part_of_it():
    router = a_router("prefix_affinity")
    assert router.choose([0, 1, 1], [4, 5, 6], asking(0, tokens=50, spans=[(1, 50)], named=True)) == 0
    assert router.choose([9, 1, 0], [4, 5, 6], asking(1, tokens=200, spans=[(1, 50), (2, 200)])) == 2
    assert router.choose([1, 0, 0], [4, 5, 6], asking(2, tokens=90, spans=[(1, 50), (-1, 80)])) == 0
    assert router.choose([0, 0, 1], [4, 5, 6], asking(3, tokens=300, spans=[(1, 50), (2, 200), (3, 300)])) == 2


def test_what_a_router_remembers_is_bounded(monkeypatch):
    monkeypatch.setattr(affinity, "_MOST_SPANS", 10)
    router = a_router("prefix_affinity")
    for index in range(100):
        router.choose([0, 0], [0, 1], asking(index, spans=[(index, 50), (1000 + index, 90)]))
    assert len(router._sent) == 10


def test_the_kv_aware_router_weighs_blocks_to_compute_against_blocks_in_use():
    request = asking(0, tokens=160, spans=[(1, 160)])
    # Ten blocks: seven of them here and free, or none at all and fewer in use.
    assert a_router("kv_aware", [Shelf(), Shelf(here=7, idle=7, used=6)]).choose([0, 0], [0, 1], request) == 1
    assert a_router("kv_aware", [Shelf(), Shelf(here=7, idle=7, used=8)]).choose([0, 0], [0, 1], request) == 0
    # Blocks that somebody uses count twice: they are neither computed nor taken.
    assert a_router("kv_aware", [Shelf(), Shelf(here=7, idle=0, used=13)]).choose([0, 0], [0, 1], request) == 1
    assert a_router("kv_aware", [Shelf(), Shelf(here=7, idle=0, used=15)]).choose([0, 0], [0, 1], request) == 0
    # A queue counts twice too: it will be computed, and then be in use.
    assert a_router("kv_aware", [Shelf(queued=160), Shelf(used=19)]).choose([0, 0], [0, 1], request) == 1
    assert a_router("kv_aware", [Shelf(queued=160), Shelf(used=21)]).choose([0, 0], [0, 1], request) == 0
    assert a_router("kv_aware", [Shelf(), Shelf()]).choose([1, 0], [0, 1], request) == 1
