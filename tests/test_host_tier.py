"""KV that the host keeps after its blocks on the chips are gone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import Spans, tree_of_prompts
from serving import Deployment, OpenLoop, linear_prices

from hardware.catalogue import load_chip, load_node
from hardware.errors import ScenarioError
from simulator import load_scenario, simulate
from simulator.host_memory import copy_bytes_per_s, host_blocks
from simulator.host_store import HostStore
from simulator.incidents import OperationsTable
from simulator.request import Request

MS = 1_000_000
FREE = linear_prices(step_ns=MS, token_ns=0, context_ns=0.0, pair_ns=0.0)


def leave(store, index, spans, computed):
    request = Request(index, computed + 1)
    request.prefix, request.prefix_ends = tuple(s[0] for s in spans), tuple(s[1] for s in spans)
    request.computed = computed
    store.store(request)


def look(store, spans, tokens):
    request = Request(99, tokens)
    request.prefix, request.prefix_ends = tuple(s[0] for s in spans), tuple(s[1] for s in spans)
    return store.find(request)


def test_what_was_used_last_is_given_up_last():
    store = HostStore(4, 16)
    leave(store, 0, [(7, 32)], 32)
    leave(store, 1, [(8, 32)], 32)
    assert (look(store, [(7, 32)], 40), look(store, [(8, 32)], 40)) == (2, 2)
    visitor = Request(5, 40)
    visitor.prefix, visitor.prefix_ends = (7,), (32,)
    store.fetch(visitor, 2)
    leave(store, 2, [(9, 16)], 16)
    # One block had to go: the last one of the prompt that was not used since.
    assert (look(store, [(7, 32)], 40), look(store, [(8, 32)], 40), look(store, [(9, 16)], 40)) == (2, 1, 1)
    assert (store.written, store.read) == (5, 2)


def test_a_prompt_larger_than_the_host_is_kept_as_far_as_it_goes():
    store = HostStore(3, 16)
    leave(store, 0, [(7, 160)], 160)
    assert look(store, [(7, 160)], 161) == 3


def evicted_prefix(**changes):
    """A prompt, another one that takes its blocks, and the first one's again."""
    spans = [[(1, 160)], [(2, 320)], [(1, 160)]]
    setup = {"blocks": 22, "caching": True, "identities": Spans(spans, [-1] * 3), "prices": FREE, "max_sequences": 4}
    return Deployment(**setup | changes).serve(OpenLoop([0, 50 * MS, 100 * MS]), [170, 330, 170], [2, 2, 2])


def test_blocks_come_back_over_the_link_instead_of_being_computed():
    without, with_host = evicted_prefix(), evicted_prefix(host_blocks=100, host_block_ns=MS)
    assert without.ledger.column("cached_tokens").tolist() == [0, 0, 16]
    assert with_host.ledger.column("cached_tokens").tolist() == [0, 0, 160]
    state = with_host.instances[0].state
    # One block was still on the chip; nine are copied, a millisecond each, before the prompt's last step.
    assert (state.hits, state.host_hits, state.host.read) == (16, 144, 9)
    ttft = with_host.ledger.column("first_token_ns") - with_host.ledger.column("arrival_ns")
    assert ttft.tolist() == [MS, MS, 9 * MS + MS]


def test_copies_of_one_instance_queue():
    spans = [[(1, 160)], [(3, 160)], [(2, 320)], [(1, 160)], [(3, 160)]]
    deployment = Deployment(
        blocks=24, caching=True, identities=Spans(spans, [-1] * 5), prices=FREE, host_blocks=100, host_block_ns=MS
    )
    cluster = deployment.serve(OpenLoop([0, 20 * MS, 50 * MS, 100 * MS, 100 * MS]), [161, 161, 330, 161, 161], [2] * 5)
    ttft = (cluster.ledger.column("first_token_ns") - cluster.ledger.column("arrival_ns"))[3:]
    assert cluster.instances[0].state.host.read > 10
    assert ttft[1] - ttft[0] >= 9 * MS


def test_blocks_that_two_ask_for_at_once_are_copied_once_and_others_go_first():
    spans = [[(1, 160)], [(2, 320)], [(1, 160)], [(1, 160), (3, 200)], []]
    arrivals = OpenLoop([0, 50 * MS, 100 * MS, 100 * MS, 102 * MS])
    # One is computed at once while blocks of the two before it are copied.
    setup = {"blocks": 40, "caching": True, "identities": Spans(spans, [-1] * 5), "prices": FREE, "max_sequences": 4}
    cluster = Deployment(**setup, host_blocks=100, host_block_ns=MS).serve(
        arrivals, [170, 600, 170, 210, 20], [2, 2, 2, 2, 1]
    )
    assert cluster.ledger.column("cached_tokens").tolist() == [0, 0, 160, 160, 0]
    ttft = cluster.ledger.column("first_token_ns") - cluster.ledger.column("arrival_ns")
    copies = cluster.instances[0].state.host.read
    assert 0 < copies <= 10
    assert ttft.tolist()[2:] == [copies * MS + MS, copies * MS + MS, MS]


def test_an_instance_that_dies_takes_its_host_with_it():
    down = {"kind": "instance_down", "at_s": 0.104, "pool": "prefill", "instance": 0, "restart_after_s": 0.01}
    dies = OperationsTable.model_validate({"incident": [down]})
    cluster = evicted_prefix(host_blocks=100, host_block_ns=MS, operations=dies)
    assert cluster.ledger.column("restarts").tolist() == [0, 0, 1]
    assert cluster.ledger.column("cached_tokens").tolist()[2] in {0, 160}
    assert (cluster.ledger.column("finish_ns") > 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 20, 10_000]), st.booleans())
def test_a_host_only_adds_hits(seed, blocks, plans_ahead):
    """Where requests come one at a time, what is found on chip and host is what an endless host would give, or less."""
    rng = np.random.default_rng(seed)
    identities, prompts, outputs = tree_of_prompts(rng, 20)
    arrivals = OpenLoop([10_000_000_000 * i for i in range(20)])
    common = {"blocks": 60, "caching": True, "identities": identities, "plans_ahead": plans_ahead}
    found = [
        Deployment(**common, host_blocks=size).serve(arrivals, prompts, outputs).ledger.column("cached_tokens")
        for size in (0, blocks, 1_000_000)
    ]
    assert (found[0] <= found[1]).all()
    assert (found[1] <= found[2]).all()
    endless = Deployment(**common | {"blocks": 1_000_000}).serve(arrivals, prompts, outputs)
    assert found[2].tolist() == endless.ledger.column("cached_tokens").tolist()


def test_grace_reads_its_memory_faster_than_pcie():
    h100 = load_chip("h100_sxm")
    assert copy_bytes_per_s(h100, load_node("hgx_h100")) == pytest.approx(0.85 * 64e9)
    assert copy_bytes_per_s(load_chip("gb200"), load_node("gb200_nvl72")) == pytest.approx(0.85 * 225e9)
    assert host_blocks(1.0, 2**20) == 1024


def test_a_scenario_with_a_host_tier():
    sessions = {
        "turns": 6,
        "think_time_s": {"kind": "exponential", "mean": 30},
        "wait_for_answer": True,
    }
    changes = {
        "workload.synthetic.requests": 600,
        "workload.synthetic.sessions": sessions,
        "pool.0.router": "session",
        "pool.0.limits.kv_blocks": 3000,
        "pool.0.engine_options.max_model_len": 40_000,
    }
    without = simulate(load_scenario("quickstart", changes)).summary
    found = simulate(load_scenario("quickstart", changes | {"pool.0.engine_options.kv_offloading_size": 500.0})).summary
    assert without["host_cache_hit_rate"] == 0
    assert found["host_cache_hit_rate"] > 0.2
    assert found["mean_ttft_ms"] < without["mean_ttft_ms"]


def test_a_host_tier_needs_prefix_caching():
    options = {"pool.0.engine_options": {"kv_offloading_size": 10.0, "enable_prefix_caching": False}}
    with pytest.raises(ScenarioError, match="kv_offloading_size needs enable_prefix_caching"):
        load_scenario("quickstart", options)
