"""What connectors take and leave, against what was measured of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kv_transfer import (
    EFA_GB_PER_S,
    H20_SGLANG_MS,
    MOST_ERROR,
    QWEN3_235B_TP8_BYTES,
    efa_gb_per_s,
    h800_ms,
    measured_h800,
    sent_ms,
)
from hardware.catalogue import load_node
from hardware.topology import build_topology
from perfdb.tables import installed_root
from simulator.carrier import KvCarrier
from simulator.clock import Clock
from simulator.connectors import CONNECTORS
from simulator.lanes import Endpoint, Lanes
from simulator.network import KvTransfer
from simulator.transfer import Network

CASES = Path(__file__).parents[2] / "shared" / "validation" / "mooncake_kv_transfer_h800.csv"


def test_transfers_between_h800_nodes_take_what_was_measured():
    if not CASES.is_file():
        pytest.skip(f"the measured cases are not at hand: {CASES}")
    if installed_root() is None:
        pytest.skip("the kernel tables (aiconfigurator-core) are not installed on this platform")
    for tokens, measured_ms in measured_h800(CASES):
        assert h800_ms(tokens) == pytest.approx(measured_ms, rel=MOST_ERROR)


@pytest.mark.skipif(installed_root() is None, reason="the kernel tables are not installed on this platform")
def test_a_transfer_through_the_whole_simulator_takes_its_closed_form():
    """Eight ranks, eight NICs: set-up, propagation of 1.6 us, then all bytes at the rate of the fit."""
    size_bytes = 2048 * 147_456
    assert h800_ms(2048) == pytest.approx(0.38 + 0.0016 + size_bytes / 146.1e9 * 1e3, abs=1e-4)


@pytest.mark.parametrize(("tokens", "measured_ms"), H20_SGLANG_MS)
def test_transfers_between_h20_nodes_take_what_was_measured(tokens, measured_ms):
    """Two ranks share a NIC, and four heads on eight ranks are sent twice."""
    found = sent_ms("hgx_h20", "mooncake_sglang", QWEN3_235B_TP8_BYTES, tokens)
    assert found == pytest.approx(measured_ms, rel=0.07)


@pytest.mark.parametrize(("message_kib", "measured"), EFA_GB_PER_S)
def test_small_messages_are_limited_by_their_rate(message_kib, measured):
    """The least good is 256 KiB, where the measured curve bends: 10.2 %."""
    assert efa_gb_per_s(message_kib) == pytest.approx(measured, rel=0.103)


def test_two_transfers_of_small_messages_share_the_nic_and_not_each_a_rate_of_its_own():
    topology = build_topology(load_node("hgx_h200"), 2)
    ends = [Endpoint((topology.chips[i],), 1_000_000, piece_bytes_per_token=64) for i in (0, 8)]
    capacity = topology.capacity_bytes_per_s
    times = []
    for transfers in (1, 2):
        lanes = Lanes(topology, ends, capacity_bytes_per_s=capacity, messages_per_s=1e6)
        env = Clock()
        carrier = KvCarrier(
            env, Network(env, lanes.channels.capacity_bytes_per_s), lanes, transfer=KvTransfer(handshake_us=0)
        )
        for _ in range(transfers):
            carrier.open(0, 1, lambda: None).send(100)
        env.run()
        times.append(env.now)
        # Messages of 6,400 bytes at a million per second: 6.4 GB/s, of the 50 the NIC has.
        assert env.now == pytest.approx(transfers * 1e8 / 6.4, rel=1e-3)
        assert carrier.link_use().carried_bytes.max() == pytest.approx(transfers * 1e8)
        assert carrier.link_use().busy_ns.max() == pytest.approx(env.now, rel=1e-3)
    assert times[1] == pytest.approx(2 * times[0], rel=1e-3)


def test_blocks_one_by_one_are_slower_than_runs_of_them():
    topology = build_topology(load_node("hgx_h200"), 2)
    ends = [
        Endpoint((topology.chips[i],), 65_536, piece_bytes_per_token=512, block_tokens=block)
        for i, block in ((0, 32), (8, 16))
    ]
    for whole_runs, tokens in ((True, 2048), (False, 16)):
        lanes = Lanes(topology, ends, messages_per_s=1e6, whole_runs=whole_runs)
        ((_, _, occupancy),) = lanes.between(0, 1).parcels(2048, 2048 * 65_536)
        assert occupancy == pytest.approx(max(1, 50_000 / (512 * tokens)))


def test_messages_inside_a_node_are_not_limited():
    topology = build_topology(load_node("hgx_h200"), 1)
    ends = [Endpoint((topology.chips[i],), 65_536, piece_bytes_per_token=1) for i in (0, 1)]
    ((_, _, occupancy),) = Lanes(topology, ends, messages_per_s=1.0).between(0, 1).parcels(1, 65_536)
    assert occupancy == 1


@pytest.mark.parametrize("name", CONNECTORS)
def test_every_connector_is_possible_and_has_a_source(name):
    found = CONNECTORS[name]
    assert found.handshake_us >= 0
    assert 0 < found.network_efficiency <= 1
    assert 0 < found.local_efficiency <= 1
    assert len(found.source) > 30


def test_what_the_scenario_says_overrides_the_connector():
    given = KvTransfer(connector="mooncake_efa", handshake_us=0, efficiency=0.5, message="block")
    terms = given.terms
    assert (terms.handshake_us, terms.network_efficiency, terms.local_efficiency) == (0, 0.5, 0.5)
    assert (terms.message, terms.messages_per_s) == ("block", CONNECTORS["mooncake_efa"].messages_per_s)
    assert KvTransfer(connector="mooncake_efa").terms == CONNECTORS["mooncake_efa"]
