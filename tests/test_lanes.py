"""Which chip sends what to which, and that following one of many equal stripes changes no time."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.catalogue import load_node
from hardware.errors import LawError
from hardware.topology import build_cluster, build_topology
from simulator.carrier import KvCarrier
from simulator.clock import Clock, Urgent
from simulator.lanes import Endpoint, Lanes
from simulator.network import KvTransfer
from simulator.transfer import Network

# Divisible by every number of lanes here, as KV of a whole number of heads and layers is.
KV_BYTES = 64 * 27_720


@cache
def topology(name, nodes, oversubscription=1.0):
    return build_topology(load_node(name), nodes, oversubscription)


def endpoint(names, start, size, stages=1):
    return Endpoint(names[start : start + size], KV_BYTES, (1,) * stages)


def sent_between(lanes, links, source=0, target=1):
    """Return what each pair of chips exchanges on a route, as shares of it."""
    found = {}
    for lane in lanes.between(source, target).lanes:
        pair = links[lane.links[0]].source, links[lane.links[-1]].target
        found[pair] = found.get(pair, 0) + lane.share
    return found


def served(lanes, transfers, changes=()):
    """Return when each (start, source, target, tokens) is over, and the use of links."""
    env = Clock()
    network = Network(env, lanes.channels.capacity_bytes_per_s)
    carrier = KvCarrier(env, network, lanes, transfer=KvTransfer(handshake_us=0.7))
    ends = [-1] * len(transfers)

    def at(time_ns, action):
        Urgent(env, time_ns).callbacks.append(lambda _: action())

    for number, (time_ns, *what) in enumerate(transfers):
        at(time_ns, lambda n=number, w=what: carrier.open(*w[:2], lambda: ends.__setitem__(n, env.now)).send(w[2]))
    for time_ns, link, rate in changes:
        at(time_ns, lambda link=link, rate=rate: network.set_capacity(int(lanes.channels.of_link[link]), rate))
    env.run()
    assert network.bytes_received == network.bytes_sent == sum(t[3] for t in transfers) * KV_BYTES
    return ends, carrier.link_use()


# --- who sends what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("senders", "receivers", "pairs"),
    [
        (2, 2, {(0, 0): "1/2", (1, 1): "1/2"}),
        (1, 2, {(0, 0): "1/2", (0, 1): "1/2"}),
        (4, 2, {(0, 0): "1/4", (1, 0): "1/4", (2, 1): "1/4", (3, 1): "1/4"}),
        (2, 3, {(0, 0): "1/3", (0, 1): "1/6", (1, 1): "1/6", (1, 2): "1/3"}),
    ],
)
def test_each_rank_gets_the_heads_it_stores_from_those_that_hold_them(senders, receivers, pairs):
    found = topology("hgx_h200", 2)
    ends = [endpoint(found.chips, 0, senders), endpoint(found.chips, 8, receivers)]
    expected = {(f"n0/gpu{a}", f"n1/gpu{b}"): Fraction(share) for (a, b), share in pairs.items()}
    assert sent_between(Lanes(found, ends, merged=False), found.links) == expected


def test_each_pipeline_stage_gets_its_own_layers():
    """Three stages of 4, 4 and 2 layers send to two of 5 and 5, each of one rank."""
    found = topology("hgx_h200", 2)
    ends = [Endpoint(found.chips[:3], KV_BYTES, (4, 4, 2)), Endpoint(found.chips[8:10], KV_BYTES, (5, 5))]
    shares = sent_between(Lanes(found, ends, merged=False), found.links)
    expected = {(0, 0): 4, (1, 0): 1, (1, 1): 3, (2, 1): 2}
    assert shares == {(f"n0/gpu{a}", f"n1/gpu{b}"): Fraction(n, 10) for (a, b), n in expected.items()}


def test_heads_copied_over_ranks_are_sent_as_often_as_they_are_stored():
    """Qwen3-235B on eight ranks stores each of its four heads twice: 12.62 GB of 32,768 tokens, not 6.31."""
    found = topology("hgx_h20", 2)
    ends = [Endpoint(found.chips[start : start + 8], 2 * 192_512) for start in (0, 8)]
    lanes, tokens = Lanes(found, ends), 32_768
    env = Clock()
    network = Network(env, lanes.channels.capacity_bytes_per_s)
    KvCarrier(env, network, lanes, transfer=KvTransfer(handshake_us=0)).open(0, 1, lambda: None).send(tokens)
    env.run()
    assert network.bytes_received == 12_616_466_432


@given(st.integers(0, 10**12), st.integers(1, 8), st.integers(1, 8), st.integers(1, 3))
def test_every_byte_is_sent_once(size, senders, receivers, stages):
    found = topology("hgx_h200", 6)
    ends = [endpoint(found.chips, 0, senders * stages, stages), endpoint(found.chips, 24, receivers)]
    for merged in (True, False):
        route = Lanes(found, ends, merged=merged).between(0, 1)
        parts = route.parts(size)
        assert sum(parts) == size
        assert all(abs(part - size * lane.share) < 1 for part, lane in zip(parts, route.lanes, strict=True))


# --- rails ------------------------------------------------------------------------------------------------


def test_all_rails_take_one_chip_from_the_rate_of_its_nic_to_that_of_its_port():
    found = topology("hgx_h200", 2)
    ends = [endpoint(found.chips, 0, 1), endpoint(found.chips, 8, 1)]
    times = {rails: served(Lanes(found, ends, rails=rails), [(0, 0, 1, 2000)])[0][0] for rails in ("own", "all")}
    size = 2000 * KV_BYTES
    assert times["own"] == pytest.approx(size / 50, abs=3000)
    assert times["all"] == pytest.approx(size / 64, abs=5000)


def test_all_rails_use_every_nic_alike_and_cross_no_spine():
    found = topology("hgx_h200", 2)
    ends = [endpoint(found.chips, 0, 1), endpoint(found.chips, 8, 1)]
    _, use = served(Lanes(found, ends, rails="all"), [(0, 0, 1, 1000)])
    out = [use.carried_bytes[link.id] for link in found.links if link.kind == "leaf" and link.source.startswith("n0/")]
    assert out == pytest.approx([1000 * KV_BYTES / 8] * 8)
    assert not any(use.carried_bytes[link.id] for link in found.links if link.kind == "spine")


# --- merging ----------------------------------------------------------------------------------------------


@st.composite
def deployments(draw):
    """Instances of a few sizes on some nodes, one after the other, and transfers between them."""
    kind = draw(st.sampled_from(["hgx_h200", "hgx_h20", "a100_pcie_pairs", "l40s_pcie"]))
    found = topology(kind, 4, draw(st.sampled_from([1.0, 4.0])))
    in_node = len(found.chips) // 4
    sizes = st.sampled_from([size for size in (1, 2, 4, 8) if size <= in_node])
    ends, used = [], 0
    for _ in range(draw(st.integers(2, 5))):
        size = draw(sizes)
        used += -used % size
        if used + size <= len(found.chips):
            ends.append(endpoint(found.chips, used, size))
            used += size
    numbers = st.integers(0, len(ends) - 1)
    pairs = st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1])
    sent = st.tuples(st.integers(0, 3_000_000), pairs, st.integers(1, 100)).map(lambda t: (t[0], *t[1], t[2]))
    transfers = draw(st.lists(sent, min_size=1, max_size=12))
    return found, ends, transfers, draw(st.sampled_from(["own", "own", "all"]))


def assert_same_use(one, other):
    assert one.carried_bytes == pytest.approx(other.carried_bytes, rel=1e-12)
    assert one.busy_ns == pytest.approx(other.busy_ns, rel=1e-12)
    assert one.peak_flows.tolist() == other.peak_flows.tolist()


@settings(max_examples=60, deadline=None)
@given(deployments())
def test_merged_stripes_end_at_the_same_nanosecond(drawn):
    found, ends, transfers, rails = drawn
    times, use = served(Lanes(found, ends, rails=rails), transfers)
    expected, links = served(Lanes(found, ends, rails=rails, merged=False), transfers)
    assert times == expected
    assert_same_use(use, links)


@settings(max_examples=30, deadline=None)
@given(deployments(), st.data())
def test_a_link_that_changes_alone_is_told_apart(drawn, data):
    found, ends, transfers, _ = drawn
    separate = Lanes(found, ends, merged=False)
    passed = sorted({x for _, a, b, _ in transfers for lane in separate.between(a, b).lanes for x in lane.links})
    link = data.draw(st.sampled_from(passed))
    rate = found.links[link].capacity_bytes_per_s
    changes = [(500_000, link, rate / 5), (2_000_000, link, rate)]
    times, use = served(Lanes(found, ends, apart=[link]), transfers, changes)
    expected, links = served(separate, transfers, changes)
    assert times == expected
    assert_same_use(use, links)


def test_tensor_ranks_of_equal_instances_are_one_lane_over_few_channels():
    found = topology("hgx_h200", 2)
    ends = [endpoint(found.chips, start, 8) for start in (0, 8)]
    (lane,) = Lanes(found, ends).between(0, 1).lanes
    assert (lane.width, len(lane.links), lane.share) == (8, 1, 1)
    assert len(Lanes(found, ends, apart=[lane.links[0]]).between(0, 1).lanes) <= 8


@pytest.mark.parametrize(
    ("name", "senders", "receivers", "start", "times"),
    [("hgx_h200", 2, 4, 4, [1, 2]), ("hgx_h200", 4, 1, 4, [1, 4]), ("hgx_h20", 8, 8, 8, [1, 2])],
)
def test_lanes_that_share_links_alike_are_one_lane_that_passes_them_as_often(name, senders, receivers, start, times):
    """Over NVSwitch ranks share the ports of the fewer; between H20 nodes two share a NIC."""
    found = topology(name, 2)
    ends = [endpoint(found.chips, 0, senders), endpoint(found.chips, start, receivers)]
    (lane,) = Lanes(found, ends, [(0, 1)]).between(0, 1).lanes
    assert lane.width == max(senders, receivers)
    assert sorted(lane.links.count(link) for link in dict.fromkeys(lane.links)) == times


def test_a_degraded_stripe_is_a_lane_of_its_own():
    found = topology("hgx_h200", 2)
    ends = [endpoint(found.chips, start, 8) for start in (0, 8)]
    link = found.path("n0/gpu3", "n1/gpu3").links[2]
    assert sorted(lane.width for lane in Lanes(found, ends, apart=[link]).between(0, 1).lanes) == [1, 7]


def test_a_degraded_stripe_holds_its_transfer_up_and_a_dead_one_stalls_it():
    found = topology("hgx_h200", 2)
    ends = [endpoint(found.chips, start, 8) for start in (0, 8)]
    link = found.link_between("n0/nic3", "leaf3").id
    times = {}
    for share in (1.0, 0.5, 0.0):
        lanes = Lanes(found, ends, apart=[link])
        env = Clock()
        carrier = KvCarrier(
            env, Network(env, lanes.channels.capacity_bytes_per_s), lanes, transfer=KvTransfer(handshake_us=0)
        )
        carrier.set_capacity(link, share)
        carrier.open(0, 1, lambda share=share, env=env: times.__setitem__(share, env.now)).send(1000)
        env.run()
    assert times[0.5] == pytest.approx(2 * times[1.0], rel=1e-3)
    assert 0.0 not in times


def test_only_links_that_were_kept_apart_change():
    found = topology("hgx_h200", 2)
    lanes = Lanes(found, [endpoint(found.chips, start, 8) for start in (0, 8)])
    with pytest.raises(LawError, match="not kept apart"):
        lanes.own_channel(0)


def test_instances_of_different_nodes_are_told_apart_by_what_they_have():
    mixed = build_cluster([(load_node("hgx_h200"), 1), (load_node("hgx_a100"), 1)])
    ends = [endpoint(mixed.chips, start, 4) for start in (0, 8)]
    (lane,) = Lanes(mixed, ends).between(0, 1).lanes
    assert lane.width == 4


def test_kv_goes_only_where_lanes_were_laid():
    found = topology("hgx_h200", 2)
    ends = [endpoint(found.chips, start, 2) for start in (0, 2, 4)]
    with pytest.raises(LawError, match="between which no lanes"):
        Lanes(found, ends, [(0, 1)]).between(1, 2)


def test_beyond_the_most_lanes_nothing_is_merged(monkeypatch):
    monkeypatch.setattr("simulator.lanes._MOST_MERGED", 7)
    found = topology("hgx_h200", 2)
    ends = [endpoint(found.chips, start, 4) for start in (0, 8)]
    assert len(Lanes(found, ends).between(1, 0).lanes) == 4
    assert np.array_equal(Lanes(found, ends).channels.of_link, np.arange(len(found.links)))
