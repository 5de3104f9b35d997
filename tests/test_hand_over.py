"""Prompts on one instance, tokens on another: what is waited for, what is paid, what is lost (nothing)."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, linear_prices

from hardware.catalogue import load_node
from hardware.topology import build_topology
from simulator.carrier import KvCarrier
from simulator.clock import Clock
from simulator.lanes import Endpoint, Lanes
from simulator.network import KvTransfer
from simulator.token_gaps import token_gaps
from simulator.transfer import Network


def chunk(prices, past, new, samples=1):
    end = past + new
    sums = {"prompts": 1, "pairs": end * end - past * past, "reach": end, "decodes": 0, "context": 0}
    return prices.mixed_ns(tokens=new, samples=samples, **sums)


@pytest.mark.parametrize(("prompt", "output"), [(100, 2), (700, 50), (1, 2)])
def test_one_request_takes_its_closed_form_to_the_nanosecond(prompt, output):
    prices = linear_prices()
    cluster = Deployment(prices=prices, decode_replicas=1).serve(OpenLoop([0]), [prompt], [output])
    ledger = cluster.ledger
    first = chunk(prices, 0, prompt)
    # A nanosecond to hand over, and the links of the test: a nanosecond and a microsecond per token.
    ready = first + 1 + 1 + 1000 * prompt
    assert ledger.first_token_ns[0] == first
    assert ledger.kv_ready_ns[0] == ready
    assert ledger.finish_ns[0] == ready + prices.decode_ns(1, prompt, output - 1)


def test_a_request_of_one_token_is_never_handed_over():
    cluster = Deployment(decode_replicas=1).serve(OpenLoop([0, 5]), [100, 100], [1, 2])
    assert cluster.ledger.column("kv_ready_ns")[0] == -1
    assert cluster.ledger.column("decode_instance").tolist() == [0, 1]


def test_decoding_elsewhere_is_never_interrupted_by_prompts():
    rng = np.random.default_rng(3)
    size = 300
    arrivals = OpenLoop(np.cumsum(rng.exponential(4_000_000, size)).astype(int).tolist())
    cluster = Deployment(decode_replicas=1).serve(arrivals, rng.integers(100, 900, size), np.full(size, 40))
    decode = cluster.logs[1].table()
    assert not decode["tokens"].any()
    assert decode["joined"].sum() == size
    assert not cluster.logs[0].table()["decodes"].any()


def test_a_full_decode_instance_holds_kv_back_and_prompts_with_it():
    """Ten blocks for prompts and ten for decoding: each stage waits for the next, and everything is served."""
    size = 30
    deployment = Deployment(blocks=20, decode_replicas=1, decode_blocks=20, transfer_ns_per_token=10_000)
    cluster = deployment.serve(OpenLoop([0] * size), [100] * size, [100] * size)
    ledger = cluster.ledger
    waits = ledger.column("kv_ready_ns") - ledger.column("first_token_ns")
    assert waits.max() > 20 * waits.min()
    queued = ledger.column("admitted_ns") - ledger.column("arrival_ns")
    alone = Deployment(blocks=20).serve(OpenLoop([0]), [100], [1]).ledger.finish_ns[0]
    assert queued.max() > 20 * alone


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([40, 1000]))
def test_gaps_between_tokens_include_the_hand_over(seed, blocks):
    rng = np.random.default_rng(seed)
    size = 60
    arrivals = OpenLoop(np.cumsum(rng.exponential(4_000_000, size)).astype(int).tolist())
    deployment = Deployment(blocks=1000, decode_blocks=blocks, decode_replicas=2)
    cluster = deployment.serve(arrivals, rng.integers(1, 400, size), rng.integers(1, 60, size))
    ledger = cluster.ledger
    gaps = token_gaps(cluster.logs, [i.prices for i in cluster.instances], ledger)
    assert int(gaps.count.sum()) == int((ledger.column("output_tokens") - 1).sum())
    assert int((gaps.gap_ns * gaps.count).sum()) == int(
        (ledger.column("finish_ns") - ledger.column("first_token_ns")).sum()
    )


def carried(pairs, tokens=1000, kv_bytes=100_000):
    """Return when transfers that start together between (source, target) chips of one HGX H200 end, ns."""
    topology = build_topology(load_node("hgx_h200"))
    endpoints = [Endpoint((chip,), kv_bytes) for chip in topology.chips]
    env = Clock()
    lanes = Lanes(topology, endpoints)
    network = Network(env, lanes.channels.capacity_bytes_per_s)
    carrier = KvCarrier(env, network, lanes, transfer=KvTransfer(handshake_us=1))
    ends: dict[tuple[int, int], int] = {}
    for pair in pairs:
        carrier.open(*pair, lambda pair=pair: ends.__setitem__(pair, env.now)).send(tokens)
    env.run()
    assert len(carrier.log.table()["start_ns"]) == len(pairs)
    return [ends[pair] for pair in pairs]


def test_transfers_that_are_over_are_forgotten_without_the_collector_of_cycles():
    def left(transfers):
        gc.collect()
        gc.disable()
        try:
            carried([(0, number % 7 + 1) for number in range(transfers)])
            return gc.collect()
        finally:
            gc.enable()

    assert left(70) - left(7) < 63


def test_an_instance_sleeps_on_when_kv_has_left_it_and_nobody_waits():
    size = 20
    arrivals = OpenLoop([number * 10**9 for number in range(size)])
    cluster = Deployment(blocks=1000, decode_blocks=1000, decode_replicas=1).serve(arrivals, [100] * size, [2] * size)
    assert cluster.events / size < 8.5


def test_two_transfers_over_one_link_take_twice_as_long_and_over_two_links_as_long_as_one():
    (alone,) = carried([(0, 1)])
    latency = alone - round(1e9 * 1000 * 100_000 / 450e9)
    shared = carried([(0, 1), (0, 2)])
    assert carried([(0, 1), (2, 3)]) == [alone, alone]
    for end in shared:
        assert end - latency == pytest.approx(2 * (alone - latency), abs=2)


def test_tensor_ranks_move_their_shares_side_by_side():
    topology = build_topology(load_node("hgx_h200"), nodes=2)
    for senders, receivers in ((2, 2), (1, 4), (4, 2)):
        env = Clock()
        endpoints = [Endpoint(topology.chips[:senders], 1), Endpoint(topology.chips[8 : 8 + receivers], 4096)]
        lanes = Lanes(topology, endpoints)
        done: list[int] = []
        network = Network(env, lanes.channels.capacity_bytes_per_s)
        carrier = KvCarrier(env, network, lanes, transfer=KvTransfer(handshake_us=0))
        carrier.open(0, 1, lambda done=done, env=env: done.append(env.now)).send(1001)
        env.run()
        assert len(done) == 1
        use = carrier.link_use()
        into_chips = [link.id for link in topology.links if link.target in topology.chips[8 : 8 + receivers]]
        assert use.carried_bytes[into_chips].sum() == pytest.approx(1001 * 4096)
