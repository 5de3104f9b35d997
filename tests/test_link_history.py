"""What links carried over time: exactly what asking at each instant says, whatever is sent, dropped or degraded."""

from __future__ import annotations

import numpy as np
import pytest
from flowing import Checked, Run, any_flow, closed_loop
from fluid_oracle import Change
from hypothesis import given
from hypothesis import strategies as st

from perfdb.tables import installed_root
from simulator import load_scenario, simulate
from simulator.clock import Clock, Urgent
from simulator.link_history import LinkHistory
from simulator.transfer import Network

GB = 1e9
LINKS = 4


@st.composite
def loads(draw):
    """Flows over links, some dropped on the way, and changes of capacity; the last one mends every link."""
    flow = any_flow(LINKS, [float("inf"), 2.5 * GB], dropped_ns=st.none() | st.integers(500, 900))
    change = st.builds(
        Change, time_ns=st.integers(1, 900), link=st.integers(0, LINKS - 1), bytes_per_s=st.sampled_from([0.0, GB / 3])
    )
    capacity = [value * GB for value in draw(st.lists(st.integers(1, 20), min_size=LINKS, max_size=LINKS))]
    mended = [Change(1000, link, capacity[link]) for link in range(LINKS)]
    return draw(st.lists(flow, min_size=1, max_size=8)), capacity, [*draw(st.lists(change, max_size=4)), *mended]


class Often(Checked):
    """A network that samples every few nanoseconds and keeps few samples."""

    interval_ns, most = 7, 16

    def __init__(self, env, capacity):
        super().__init__(env, capacity)
        self._history = LinkHistory(self.interval_ns, self.most)


def asked(load, instants):
    """Return what a network says that nobody samples, when it is asked at instants: bytes, and time busy."""

    class Asked(Network):
        def __init__(self, env, capacity):
            super().__init__(env, capacity)
            self.answers = {}
            for time_ns in instants:
                # After everything else of its instant.
                Urgent(env, time_ns).callbacks.append(lambda _: Clock.timeout(env, 0).callbacks.append(self.answer))

        def answer(self, _):
            use = self.link_use()
            self.answers[self.env.now] = (use.carried_bytes, use.busy_ns)

    return Run(*load, kind=Asked).network.answers


@given(loads())
def test_samples_are_what_every_link_had_carried_by_their_instants(load):
    series = Run(*load, kind=Often).network.link_series()
    answers = asked(load, [int(time_ns) for time_ns in series.times_ns])
    for time_ns, carried, busy_ns in zip(series.times_ns, series.carried_bytes, series.busy_ns, strict=True):
        expected, expected_busy_ns = answers[int(time_ns)]
        assert carried.tolist() == expected[series.links].tolist()
        assert busy_ns == pytest.approx(expected_busy_ns[series.links], rel=1e-9, abs=1e-6)
    used = {link for flow in load[0] for link in flow.links}
    assert series.links.tolist() == sorted(used)


@given(loads())
def test_no_link_is_busy_for_longer_than_time_passes(load):
    network = Run(*load, kind=Often).network
    series, use = network.link_series(), network.link_use()
    parts, busy = np.diff(series.carried_bytes, axis=0), np.diff(series.busy_ns, axis=0)
    assert (parts >= 0).all()
    assert (busy <= np.diff(series.times_ns)[:, None] * (1 + 1e-12) + 1e-6).all()
    # The last sample is the present, and all parts together are what was carried.
    assert series.carried_bytes[-1].tolist() == use.carried_bytes[series.links].tolist()
    assert parts.sum(axis=0) == pytest.approx(use.carried_bytes[series.links], rel=1e-12)


@given(loads())
def test_a_history_moves_no_end_and_adds_no_event(load):
    watched, plain = Run(*load, kind=Often), Run(*load, kind=Network)
    assert watched.finished_ns == plain.finished_ns
    assert watched.events == plain.events


@given(st.integers(1, 20_000), st.integers(1, 50))
def test_a_long_time_costs_few_samples_and_keeps_them_regular(end_ns, interval_ns):
    history = LinkHistory(interval_ns, 16)
    history.catch_up(end_ns)
    times_ns = history.series(end_ns).times_ns
    assert times_ns[0] == 0
    assert times_ns[-1] == end_ns
    assert len(times_ns) <= 18
    steps = np.diff(times_ns)
    assert (steps > 0).all()
    assert (steps[:-1] == steps[0]).all()
    # Never fewer than half of them once there were enough.
    assert len(times_ns) >= min(8, end_ns // interval_ns)


def test_a_busy_cluster_keeps_a_few_hundred_samples():
    rng = np.random.default_rng(3)
    paths = [type("Path", (), {"links": (i, 4 + j), "latency_ns": 0}) for i in range(4) for j in range(4)]
    network, _ = closed_loop(paths, 2000, 30, rng, capacity=np.full(8, GB))
    series = network.link_series()
    assert 256 <= len(series.times_ns) <= 514
    assert series.carried_bytes[-1].tolist() == network.link_use().carried_bytes.tolist()
    assert series.carried_bytes[-1][:4].sum() == network.bytes_received


def test_an_instant_without_time_has_one_sample():
    assert LinkHistory().series(0).times_ns.tolist() == [0]


def test_a_run_hands_over_what_its_links_say():
    if installed_root() is None:
        pytest.skip("the kernel tables (aiconfigurator-core) are not installed on this platform")
    run = simulate(load_scenario("prefill-decode", {"workload.synthetic.requests": 200})).run
    series, use = run.cluster.carrier.link_series(), run.cluster.carrier.link_use()
    assert series.carried_bytes[-1].tolist() == use.carried_bytes[series.links].tolist()
    assert series.busy_ns[-1] == pytest.approx(use.busy_ns[series.links], rel=1e-12)
    assert use.carried_bytes[series.links].sum() == use.carried_bytes.sum() > 0
