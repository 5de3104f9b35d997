"""Laws of flows over shared links: fairness, conservation, and what can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import inf

import numpy as np
import pytest
from flowing import Checked, Run, any_flow
from fluid_oracle import Change, Sent
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.errors import LawError, ScenarioError
from simulator.clock import Clock
from simulator.fair_share import BYTE, rate_of
from simulator.transfer import Network

GB = 1e9


def ends(sent, capacity=(GB,), changes=()):
    return Run(sent, list(capacity), changes).finished_ns


@st.composite
def loads(draw, links=4, size=12, least=1):
    """Flows over links whose capacities are whole bytes per nanosecond, and those capacities."""
    capacity = draw(st.lists(st.integers(1, 40), min_size=links, max_size=links))
    flow = any_flow(links, [inf, inf, 2.5 * GB, 17 * GB], least)
    return draw(st.lists(flow, min_size=1, max_size=size)), [value * GB for value in capacity]


# --- by hand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flows", [1, 2, 3, 7, 10, 1000])
def test_flows_on_one_link_take_so_many_times_as_long(flows):
    assert ends([Sent(0, (0,), 1_000_003)] * flows) == [1_000_003 * flows] * flows


def test_flows_on_disjoint_paths_take_as_long_as_one():
    sent = [Sent(0, links, 12_345_678) for links in ((0, 1), (2,), (3, 4, 5))]
    assert ends(sent, [GB] * 6) == [12_345_678] * 3


def test_a_flow_that_comes_later_slows_the_first_from_then_on():
    # 400 of 1000 bytes are through when it comes; 200 each in the next 400 ns; then the first is alone again.
    assert ends([Sent(0, (0,), 1000), Sent(400, (0,), 200)]) == [1200, 800]


def test_latency_comes_before_the_share():
    assert ends([Sent(0, (0,), 1000, latency_ns=250), Sent(0, (0,), 100)]) == [1250, 100]


def test_what_a_capped_flow_leaves_is_for_the_others():
    assert ends([Sent(0, (0,), 100, cap_bytes_per_s=0.1 * GB), Sent(0, (0,), 900)]) == [1000, 1000]


def test_a_long_path_gets_the_share_of_its_narrowest_link():
    # Three on the middle link get 1/3 each; the one beside the long path on each side gets what is left, 2/3.
    sent = [
        Sent(0, (0, 1, 2), 1000),
        Sent(0, (1,), 1000),
        Sent(0, (1,), 1000),
        Sent(0, (0,), 2000),
        Sent(0, (2,), 2000),
    ]
    assert ends(sent, [GB] * 3) == [3000] * 5


def test_a_part_of_a_nanosecond_counts_as_a_whole_one():
    assert ends([Sent(0, (0,), 1)], [3 * GB]) == [1]
    assert ends([Sent(0, (0,), 10)], [3 * GB]) == [4]
    assert ends([Sent(0, (0,), 9)], [3 * GB]) == [3]


def test_no_bytes_are_there_after_the_latency():
    assert ends([Sent(5, (0,), 0, latency_ns=7), Sent(0, (0,), 1000)]) == [12, 1000]
    assert ends([Sent(5, (), 0), Sent(5, (0,), 0)]) == [5, 5]


def test_an_empty_path_is_limited_by_the_cap_alone():
    sent = [Sent(3, (), 1000, latency_ns=2, cap_bytes_per_s=2 * GB), Sent(3, (), 10**12, latency_ns=2)]
    assert ends(sent) == [505, 5]


def test_a_dead_link_stalls_its_flows_until_it_is_back():
    sent = [Sent(0, (0,), 1000), Sent(600, (0,), 100), Sent(0, (1,), 1000)]
    changes = [Change(500, 0, 0.0), Change(10_500, 0, GB / 2)]
    # 500 bytes and 100 are left: the two share until the second is over.
    assert ends(sent, [GB, GB], changes) == [11_700, 10_900, 1000]
    run = Run(sent, [GB, GB], changes[:1])
    assert run.finished_ns == [None, None, 1000]
    assert run.network.flows_sent - run.network.flows_finished == 2
    assert run.network.link_use().carried_bytes.tolist() == [500.0, 1000.0]


def test_a_degraded_link_is_busy_when_all_that_is_left_of_it_is():
    run = Run([Sent(0, (0,), 1000)], [GB], [Change(500, 0, GB / 4)])
    use = run.network.link_use()
    assert run.finished_ns == [2500]
    assert use.carried_bytes.tolist() == [1000.0]
    assert use.busy_ns.tolist() == [2500.0]
    assert run.network.queueing_ns == 1500


def test_a_link_with_a_capped_flow_is_partly_busy():
    run = Run([Sent(0, (0,), 1000, cap_bytes_per_s=GB / 4)], [GB])
    assert run.finished_ns == [4000]
    assert run.network.link_use().busy_ns.tolist() == [1000.0]
    assert run.network.queueing_ns == 0


def test_queueing_is_the_time_beyond_what_a_flow_takes_alone():
    run = Run([Sent(0, (0,), 1000), Sent(0, (0,), 1000, latency_ns=500)], [GB])
    assert run.finished_ns == [1500, 2000]
    assert run.network.queueing_ns == 500 + 500
    assert run.network.link_use().peak_flows.tolist() == [2]


def test_the_most_flows_at_once_are_remembered():
    sent = [Sent(0, (0, 1), 100), Sent(0, (0,), 100), Sent(50, (0,), 100), Sent(1000, (0, 1), 100)]
    assert Run(sent, [GB, GB]).network.link_use().peak_flows.tolist() == [3, 1]


@pytest.mark.parametrize("bytes_per_s", [0.0, 0.1, 1.0, GB, 12.5 * GB, 1e12 / 3])
def test_rates_are_rounded_down_by_less_than_a_unit(bytes_per_s):
    assert 0 <= Fraction(bytes_per_s) / 10**9 - Fraction(rate_of(bytes_per_s), BYTE) < Fraction(1, BYTE)


def test_a_dropped_flow_leaves_its_share_to_the_others():
    sent = [
        Sent(0, (0,), 1000),
        Sent(0, (0,), 1000, dropped_ns=400),
        Sent(900, (0,), 10, latency_ns=50, dropped_ns=940),
    ]
    run = Run(sent, [GB])
    network = run.network
    assert run.finished_ns == [1200, None, None]
    assert (network.flows_dropped, network.bytes_dropped) == (2, 1010)
    assert network.link_use().carried_bytes.tolist() == [1200.0]
    assert not any(network.drop(flow) for flow in run.flows.values())


def test_ends_of_one_instant_are_told_in_the_order_of_sending():
    run = Run(
        [Sent(0, (1,), 500), Sent(0, (0,), 500), Sent(0, (), 0, latency_ns=500), Sent(0, (1,), 500)], [GB / 2, GB]
    )
    assert run.finished_ns == [1000, 1000, 500, 1000]
    assert run.order == [2, 0, 1, 3]


def test_a_flow_sent_by_the_end_of_another_starts_at_that_instant():
    env = Clock()
    network, seen = Checked(env, np.array([GB])), []

    def end() -> None:
        seen.append(env.now)
        if len(seen) < 3:
            network.send([0], 100, on_done=end)

    network.send([0], 100, on_done=end)
    assert not seen
    env.run()
    assert seen == [100, 200, 300]


# --- laws ------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(loads())
def test_bytes_sent_are_received_and_every_link_carried_its_part(drawn):
    sent, capacity = drawn
    network = Run(sent, capacity).network
    assert network.flows_finished == network.flows_sent == len(sent)
    assert network.bytes_received == network.bytes_sent == sum(flow.size_bytes for flow in sent)
    assert network.queueing_ns >= 0
    for link, part in enumerate(network._links):
        assert part.carried == sum(flow.size_bytes for flow in sent if link in flow.links) * BYTE
        assert (part.flows, part.used, len(part.bundles), len(part.held)) == (0, 0, 0, 0)


@settings(max_examples=100, deadline=None)
@given(loads(links=1))
def test_a_link_works_while_there_is_work(drawn):
    """Whoever gets what, uncapped flows are all through when a queue would be; each end rounds up once."""
    sent, (capacity,) = drawn
    through_ns = 0.0
    for flow in sorted(sent, key=lambda flow: flow.start_ns):
        through_ns = max(through_ns, flow.start_ns) + flow.size_bytes / capacity * 1e9
    last_ns = max(Run([replace(flow, cap_bytes_per_s=inf) for flow in sent], [capacity]).finished_ns)
    assert through_ns - 1e-6 <= last_ns < through_ns + len(sent)


@settings(max_examples=100, deadline=None)
@given(loads(), st.sampled_from([2, 3, 1024]))
def test_so_many_times_the_capacity_carries_so_many_times_the_bytes(drawn, factor):
    sent, capacity = drawn
    larger = [
        replace(flow, size_bytes=flow.size_bytes * factor, cap_bytes_per_s=flow.cap_bytes_per_s * factor)
        for flow in sent
    ]
    assert Run(larger, [value * factor for value in capacity]).finished_ns == Run(sent, capacity).finished_ns


@settings(max_examples=100, deadline=None)
@given(loads())
def test_twice_the_capacity_takes_half_the_time(drawn):
    """But for what rounding up to a nanosecond adds, here to hundredths of a second and more."""
    sent, capacity = drawn
    sent = [
        replace(flow, sent_ns=0, latency_ns=0, cap_bytes_per_s=inf, size_bytes=flow.size_bytes * 10**9) for flow in sent
    ]
    once, twice = (Run(sent, [value * factor for value in capacity]).finished_ns for factor in (1, 2))
    assert np.array(twice) * 2 == pytest.approx(np.array(once), rel=0, abs=4 * len(sent))


@settings(max_examples=100, deadline=None)
@given(loads(), st.randoms(use_true_random=False))
def test_the_order_of_sending_and_of_links_decides_nothing(drawn, random):
    sent, capacity = drawn
    base = Run(sent, capacity)
    order = random.sample(range(len(sent)), len(sent))
    mixed = [replace(sent[i], links=tuple(random.sample(sent[i].links, len(sent[i].links)))) for i in order]
    assert Run(mixed, capacity).finished_ns == [base.finished_ns[i] for i in order]
    again = Run(sent, capacity)
    assert (again.finished_ns, again.order, again.events) == (base.finished_ns, base.order, base.events)
    assert np.array_equal(again.network.link_use().busy_ns, base.network.link_use().busy_ns)


@settings(max_examples=100, deadline=None)
@given(loads(least=0))
def test_no_flow_is_faster_than_alone(drawn):
    sent, capacity = drawn
    run = Run(sent, capacity)
    alone = [Run([flow], capacity).finished_ns[0] for flow in sent]
    assert all(end >= first for end, first in zip(run.finished_ns, alone, strict=True))
    assert run.network.queueing_ns == sum(run.finished_ns) - sum(alone)


@settings(max_examples=60, deadline=None)
@given(loads(), st.integers(1, 4000))
def test_what_links_have_carried_can_be_read_at_any_time(drawn, step_ns):
    """Looking changes nothing, what was carried never shrinks, and no link was busier than time allows."""
    sent, capacity = drawn
    watched = Watched(sent, capacity, step_ns)
    assert watched.finished_ns == Run(sent, capacity).finished_ns
    for (earlier_ns, before), (now_ns, now) in pairwise(watched.seen):
        assert (now.carried_bytes >= before.carried_bytes).all()
        assert (now.busy_ns - before.busy_ns <= (now_ns - earlier_ns) * (1 + 1e-12)).all()


class Watched(Run):
    """A run whose links are read every so often."""

    def __init__(self, sent, capacity, step_ns):
        self.step_ns, self.seen = step_ns, []
        super().__init__(sent, capacity)

    def _send(self, i, flow):
        super()._send(i, flow)
        for times in range(4):
            self._at(self.step_ns * times, self._look)

    def _look(self):
        self.seen.append((self.env.now, self.network.link_use()))


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_bytes": -1},
        {"latency_ns": -1},
        {"cap_bytes_per_s": 0.0},
        {"cap_bytes_per_s": float("nan")},
        {"stripes": 0},
        {"occupancy": 0.5},
        {"links": [2]},
        {"links": [-1]},
    ],
)
def test_a_flow_that_cannot_be_is_a_bug(wrong):
    network = Network(Clock(), np.array([GB, GB]))
    with pytest.raises(LawError):
        network.send(**({"links": [0], "size_bytes": 1, "on_done": list} | wrong))


def test_sizes_may_be_integers_of_numpy_but_not_floats():
    env = Clock()
    network, seen = Network(env, np.array([GB])), []
    network.send([np.int64(0)], np.int64(2**40), latency_ns=np.int32(5), on_done=lambda: seen.append(env.now))
    env.run()
    assert seen == [2**40 + 5]
    with pytest.raises(TypeError):
        network.send([0], 1.5, on_done=list)


@pytest.mark.parametrize("capacity", [0.0, -1.0, inf, float("nan")])
def test_a_link_without_capacity_is_refused(capacity):
    with pytest.raises(ScenarioError, match=r"link 1 has .*; expected"):
        Network(Clock(), np.array([GB, capacity]))


@pytest.mark.parametrize(("link", "capacity"), [(0, -1.0), (0, inf), (0, float("nan")), (1, GB), (-1, GB)])
def test_a_capacity_that_cannot_be_is_refused(link, capacity):
    with pytest.raises(ScenarioError, match="expected"):
        Network(Clock(), np.array([GB])).set_capacity(link, capacity)
