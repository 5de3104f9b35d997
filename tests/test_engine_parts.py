"""Small parts of the engine: blocks, routers, what a policy can see, laws that fire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Deployment, OpenLoop

from hardware.errors import LawError
from simulator.kvcache import BlockPool
from simulator.laws import check_laws
from simulator.request import Request
from simulator.router import ROUTERS
from simulator.schedulers import SCHEDULERS, Limits
from simulator.schedulers.state import EngineState


@given(
    st.integers(1, 20), st.lists(st.integers(-50, 50), min_size=1, max_size=20), st.integers(0, 60), st.integers(0, 90)
)
def test_blocks_needed_equal_a_count_of_every_sequence_and_step(block_tokens, anchors, step, steps):
    pool = BlockPool(10_000, block_tokens)
    for anchor in anchors:
        pool.join(anchor)
    expected = sum((anchor + later) % block_tokens == 0 for anchor in anchors for later in range(step, step + steps))
    assert pool.needed(step, steps) == expected


@given(
    st.integers(1, 20),
    st.lists(st.integers(-50, 50), min_size=1, max_size=20),
    st.integers(0, 60),
    st.integers(0, 90),
    st.integers(0, 2),
)
def test_free_blocks_last_as_long_as_is_said(block_tokens, anchors, step, free, spare):
    pool = BlockPool(free + spare, block_tokens)
    for anchor in anchors:
        pool.join(anchor)
    steps = pool.lasting(step, spare)
    assert pool.needed(step, steps) <= free
    if free < len(anchors):
        assert pool.needed(step, steps + 1) > free
    else:
        assert steps >= block_tokens


def test_least_loaded_counts_running_requests_and_waiting_ones():
    """One long request on instance 0 and an empty instance 1: the next request goes to instance 1."""
    router = ROUTERS["least_loaded"](np.random.default_rng(0))
    cluster = Deployment(replicas=2, max_sequences=1, router=router).serve(
        OpenLoop([0, 1_000_000_000 // 100, 11_000_000, 12_000_000]), [10] * 4, [400] * 4
    )
    assert cluster.ledger.column("instance").tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_policy_admits_serves_and_never_overfills(name):
    scheduler = SCHEDULERS[name](Limits(64, 4))
    state = EngineState(12, 16)
    scheduler.begin(state)
    for i in range(6):
        state.waiting.append(Request(i, 30 + i, 60))
    plan = scheduler.plan(state)
    assert plan.chunks
    assert sum(new for _, new in plan.chunks) <= 64
    assert len(state.running) <= 4
    assert state.pool.free >= 0


def test_a_policy_cannot_see_how_many_tokens_a_request_will_produce():
    assert not any("output" in name for name in Request.__slots__)
    assert not hasattr(Request(0, 5), "__dict__")


BREAKAGES = {
    "requests in = finished": lambda cluster: cluster.ledger.finish_ns.__setitem__(1, -1),
    "nothing is left": lambda cluster: cluster.instances[0].state.waiting.append(Request(0, 1)),
    "blocks allocated = freed": lambda cluster: cluster.instances[0].state.pool.give(1),
    "tokens produced": lambda cluster: cluster.logs[0].add((0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0)),
    "prompt tokens computed": lambda cluster: cluster.logs[0].add((0, 1, 1, 0, 0, 7, 1, 0, 49, 7, 0)),
    "clock never backwards": lambda cluster: cluster.ledger.first_token_ns.__setitem__(2, 0),
}


@pytest.mark.parametrize("law", BREAKAGES)
def test_a_broken_law_stops_the_run(law):
    cluster = Deployment().serve(OpenLoop([5, 6, 7]), [10, 20, 30], [4, 4, 4])
    BREAKAGES[law](cluster)
    with pytest.raises(LawError, match=law):
        check_laws(cluster)
