"""KV that leaves while the prompt is computed: what is left to wait for, in closed form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.catalogue import load_node
from hardware.topology import build_topology
from simulator.carrier import KvCarrier
from simulator.clock import Clock, soon
from simulator.lanes import Endpoint, Lanes
from simulator.network import KvTransfer
from simulator.transfer import Network

MS = 1_000_000
LINK = 450e9
LATENCY = build_topology(load_node("hgx_h200")).path("n0/gpu0", "n0/gpu1").latency_ns


def moved(chunks, layers, kv_bytes, *, rival_bytes=0, **terms):
    """Return when the KV of one prompt is there, and of a rival on the same port; chunks are (tokens, step ns)."""
    topology = build_topology(load_node("hgx_h200"))
    env, ends = Clock(), {}
    endpoints = [Endpoint((chip,), kv_bytes) for chip in topology.chips]
    lanes = Lanes(topology, endpoints, merged=False)
    network = Network(env, lanes.channels.capacity_bytes_per_s)
    carrier = KvCarrier(env, network, lanes, transfer=KvTransfer(**terms), layers=layers)
    shipment = carrier.open(0, 1, lambda: ends.__setitem__("done", env.now))
    if rival_bytes:
        links = topology.path("n0/gpu0", "n0/gpu2").links
        network.send(links, rival_bytes, on_done=lambda: ends.__setitem__("rival", env.now))
    tokens = sum(tokens for tokens, _ in chunks)
    start = 0
    for number, (new, step_ns) in enumerate(chunks):
        last = number == len(chunks) - 1
        if terms.get("mode", "blocking") != "blocking":
            soon(env, max(1, start), lambda n=new, d=step_ns, e=last: shipment.compute(n, d, last=e))
        start += step_ns
    if terms.get("mode", "blocking") == "blocking":
        soon(env, start, lambda: shipment.send(tokens))
    else:
        soon(env, start + 2, shipment.computed)
    env.run()
    assert network.bytes_received == network.bytes_sent == tokens * kv_bytes + rival_bytes
    assert carrier.log.table()["size_bytes"].tolist() == [tokens * kv_bytes]
    return ends


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 100),
    st.integers(1, 4000),
    st.floats(0.5, 200.0),
    st.floats(0.05, 0.95),
    st.sampled_from([0.0, 5.0, 380.0]),
)
def test_a_fast_link_leaves_the_last_layer_and_the_hand_shake(layers, tokens, step_ms, load, handshake_us):
    """Bytes are computed at ``load`` times the rate of the link: all but the last layer are hidden."""
    step_ns = round(step_ms * MS)
    kv_bytes = max(layers, round(load * LINK * step_ns / 1e9 / tokens))
    size = tokens * kv_bytes
    found = moved([(tokens, step_ns)], layers, kv_bytes, mode="layerwise", handshake_us=handshake_us)["done"]
    residue = size // layers / LINK * 1e9
    assert found == pytest.approx(1 + step_ns + handshake_us * 1e3 + LATENCY + residue, abs=3)
    blocking = moved([(tokens, step_ns)], layers, kv_bytes, handshake_us=handshake_us)["done"]
    assert blocking == pytest.approx(step_ns + handshake_us * 1e3 + LATENCY + size / LINK * 1e9, abs=3)


@pytest.mark.parametrize(
    ("layers", "group_layers", "last"), [(40, 8, 8), (40, 7, 5), (40, 40, 40), (40, 99, 40), (1, 1, 1)]
)
def test_a_last_group_of_layers_stays_visible(layers, group_layers, last):
    step_ns, kv_bytes = 20 * MS, 400_000
    terms = {"mode": "layerwise", "group_layers": group_layers, "handshake_us": 10.0}
    found = moved([(1000, step_ns)], layers, kv_bytes, **terms)["done"]
    assert found == pytest.approx(1 + step_ns + 10_000 + LATENCY + 1000 * kv_bytes * last / layers / LINK * 1e9, abs=3)


def test_a_slow_link_is_busy_from_the_first_layer_on():
    step_ns, layers, kv_bytes = 10 * MS, 10, 10_000_000
    found = moved([(1000, step_ns)], layers, kv_bytes, mode="layerwise", handshake_us=0.0)["done"]
    assert found == pytest.approx(1 + step_ns / layers + LATENCY + 1000 * kv_bytes / LINK * 1e9, abs=3)


def test_chunks_leave_as_they_are_computed():
    chunks, kv_bytes = [(600, 8 * MS), (600, 9 * MS), (300, 6 * MS)], 400_000
    found = moved(chunks, 40, kv_bytes, mode="layerwise", handshake_us=10.0)["done"]
    assert found == pytest.approx(23 * MS + 10_000 + LATENCY + 300 * kv_bytes // 40 / LINK * 1e9, abs=3)


def test_what_a_busy_link_delayed_flows_freely_once_it_is_idle():
    """The rival halves the port until it is done; from then on nothing but the link limits what is left."""
    step_ns, kv_bytes = 10 * MS, 3_600_000
    size = 1000 * kv_bytes
    rival = 3_000_000_000
    found = moved([(1000, step_ns)], 10, kv_bytes, rival_bytes=rival, mode="layerwise", handshake_us=0.0)
    # 360 GB/s are computed from 1 ms on, the port gives 225 of 450 GB/s until the rival is done.
    alone_ns = MS + 1
    rival_ns = alone_ns + (rival - alone_ns / 1e9 * LINK) / (LINK / 2) * 1e9
    assert found["rival"] == pytest.approx(rival_ns, abs=3)
    left = size - (rival_ns - alone_ns) / 1e9 * LINK / 2
    assert rival_ns > step_ns
    assert found["done"] == pytest.approx(rival_ns + left / LINK * 1e9 + LATENCY, abs=10)


@pytest.mark.parametrize("group_layers", [1, 3, 4, 8, 32])
@pytest.mark.parametrize("handshake_us", [0.0, 100.0, 2000.0])
def test_groups_go_one_after_another_each_after_its_hand_shake(group_layers, handshake_us):
    layers, step_ns, kv_bytes = 32, 32 * MS, 3_200_000
    terms = {"mode": "grouped", "group_layers": group_layers, "handshake_us": handshake_us}
    found = moved([(1000, step_ns)], layers, kv_bytes, **terms)["done"]
    free = 0.0
    for first in range(0, layers, group_layers):
        through = min(first + group_layers, layers)
        size = 1000 * kv_bytes * (through - first) / layers
        free = max(free, through * MS) + handshake_us * 1e3 + LATENCY + size / LINK * 1e9
    assert found == pytest.approx(1 + free, abs=2 * layers)


def test_a_costly_hand_shake_asks_for_large_groups_and_a_cheap_one_for_small():
    """EPD-Serve's reason for grouping: layer by layer the hand-shakes pile up, in one group nothing overlaps."""

    def exposed(group_layers, handshake_us):
        terms = {"mode": "grouped", "group_layers": group_layers, "handshake_us": handshake_us}
        return moved([(1000, 32 * MS)], 32, 3_200_000, **terms)["done"] - 32 * MS

    assert exposed(4, 2000.0) < exposed(1, 2000.0)
    assert exposed(4, 2000.0) < exposed(32, 2000.0)
    assert exposed(1, 10.0) < exposed(4, 10.0) < exposed(32, 10.0)
