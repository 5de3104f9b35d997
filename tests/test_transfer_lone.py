"""A flow that finds its links idle ends when it would among others, whatever happens on the way."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from flowing import Run
from fluid_oracle import Change, Sent, finish_times
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.clock import Clock, Urgent
from simulator.fair_share import BYTE
from simulator.transfer import Network

GB = 1e9


@st.composite
def sparse(draw):
    """Few flows on few links, so that most of them meet at most one other."""
    capacity = draw(st.lists(st.sampled_from([GB, 2 * GB, 5 * GB]), min_size=2, max_size=5))
    link = st.integers(0, len(capacity) - 1)
    flow = st.builds(
        Sent,
        sent_ns=st.integers(0, 6000),
        links=st.lists(link, min_size=1, max_size=2, unique=True).map(tuple),
        size_bytes=st.integers(1, 2000),
        latency_ns=st.sampled_from([0, 1, 300]),
        cap_bytes_per_s=st.sampled_from([inf, inf, 0.7 * GB]),
        dropped_ns=st.none(),
    )
    change = st.builds(
        Change, time_ns=st.integers(0, 7000), link=link, bytes_per_s=st.sampled_from([0.0, GB / 2, 3 * GB])
    )
    changes = draw(st.lists(change, max_size=3, unique_by=lambda change: (change.time_ns, change.link)))
    return draw(st.lists(flow, min_size=1, max_size=6)), capacity, changes


@settings(max_examples=400, deadline=None)
@given(sparse())
def test_flows_that_rarely_meet_end_at_the_nanosecond_of_the_oracle(drawn):
    sent, capacity, changes = drawn
    assert Run(sent, capacity, changes).finished_ns == finish_times(sent, capacity, changes)


@settings(max_examples=50, deadline=None)
@given(sparse(), st.lists(st.integers(0, 8000), max_size=4))
def test_looking_at_what_links_have_carried_changes_nothing(drawn, looks):
    sent, capacity, _ = drawn
    env = Clock()
    network = Network(env, np.array(capacity))
    ends = [-1] * len(sent)
    seen = []
    for time_ns in sorted(looks):
        Urgent(env, time_ns).callbacks.append(lambda _: seen.append(network.link_use()))
    for i, flow in enumerate(sent):
        Urgent(env, flow.sent_ns).callbacks.append(
            lambda _, i=i, flow=flow: network.send(
                flow.links,
                flow.size_bytes,
                latency_ns=flow.latency_ns,
                cap_bytes_per_s=flow.cap_bytes_per_s,
                on_done=lambda: ends.__setitem__(i, env.now),
            )
        )
    env.run()
    assert ends == finish_times(sent, capacity)
    carried = [use.carried_bytes.sum() for use in seen]
    assert carried == sorted(carried)


def test_flows_that_meet_none_are_never_shared():
    sent = [Sent(10_000 * i, (i % 2, 2), 1000, latency_ns=50) for i in range(20)]
    run = Run(sent, [GB, GB, GB])
    assert run.network.sharings == 0
    assert run.network.link_use().peak_flows.tolist() == [1, 1, 1]
    assert run.network.link_use().busy_ns.tolist() == [10_000.0, 10_000.0, 20_000.0]
    # One event to send each, one to end it.
    assert run.events == 40


def test_what_a_lone_flow_has_carried_is_seen_halfway():
    env = Clock()
    network = Network(env, np.array([GB]))
    network.send((0,), 1000, latency_ns=100, on_done=lambda: None)
    seen = []
    for time_ns in (50, 100, 600):
        Urgent(env, time_ns).callbacks.append(lambda _: seen.append(network.link_use().carried_bytes[0]))
    env.run()
    assert seen == [0, 0, 500]
    assert env.now == 1100


# --- stripes and occupancy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stripes", [1, 4])
@pytest.mark.parametrize("occupancy", [1.0, 2.5])
def test_stripes_divide_the_time_and_occupancy_multiplies_it(stripes, occupancy):
    env = Clock()
    network = Network(env, np.array([GB]))
    ends = []
    for _ in range(2):
        network.send((0,), 10_000, stripes=stripes, occupancy=occupancy, on_done=lambda: ends.append(env.now))
    env.run()
    use = network.link_use()
    assert ends == [2 * 10_000 * occupancy / stripes] * 2
    assert use.busy_ns[0] == pytest.approx(ends[0])
    assert use.carried_bytes[0] == pytest.approx(2 * 10_000 / stripes)
    assert network.bytes_received == network.bytes_sent == 20_000


@settings(max_examples=100, deadline=None)
@given(sparse(), st.integers(0, 6000), st.integers(1, 2000))
def test_passing_a_link_twice_is_two_flows_of_half_each(drawn, time_ns, size):
    sent, capacity, changes = drawn
    # The two halves have links of their own beside the one they share.
    own = len(capacity)
    halves = [Sent(time_ns, (0, own + i), size) for i in range(2)]
    expected = finish_times([*sent, *halves], [*capacity, GB, GB], changes)
    env = Clock()
    network = Network(env, np.array([*capacity, GB]))
    ends = [None] * (len(sent) + 1)

    def at(when_ns, action):
        Urgent(env, when_ns).callbacks.append(lambda _: action())

    def send(i, links, size_bytes, **terms):
        network.send(links, size_bytes, on_done=lambda: ends.__setitem__(i, env.now), **terms)

    for change in changes:
        at(change.time_ns, lambda change=change: network.set_capacity(change.link, change.bytes_per_s))
    for i, flow in enumerate(sent):
        terms = {"latency_ns": flow.latency_ns, "cap_bytes_per_s": flow.cap_bytes_per_s}
        at(flow.sent_ns, lambda i=i, flow=flow, terms=terms: send(i, flow.links, flow.size_bytes, **terms))
    at(time_ns, lambda: send(len(sent), (0, own, 0), 2 * size, stripes=2))
    env.run()
    assert [*ends, ends[-1]] == expected
    moved = size * BYTE * 2 if ends[-1] is not None else 0
    assert network._links[0].carried >= moved


def test_two_flows_of_small_messages_share_the_rate_of_messages():
    """Half the link's rate is all that messages this small reach, and two flows of them reach it together."""
    env = Clock()
    network = Network(env, np.array([GB]))
    ends = []
    for occupancy in (2.0, 2.0, 1.0):
        network.send((0,), 3000, occupancy=occupancy, on_done=lambda: ends.append(env.now))
    env.run()
    # Three on the link: the large messages are over when 3000 have passed of each; the small ones need 6000.
    assert ends == [9000, 15_000, 15_000]
