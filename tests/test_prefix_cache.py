"""Prefix caching by runs of blocks equals a model with real tokens, one block at a time."""

from __future__ import annotations

import numpy as np
import pytest
from caching_oracle import CachingOracle
from goldens import SCENARIOS, missing_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import Spans, tree_of_prompts
from serving import Deployment, OpenLoop, linear_prices

from hardware.errors import LawError
from simulator.identity import KnownIdentities
from simulator.laws import check_laws
from simulator.network import KvTransfer
from simulator.prefix_cache import PrefixCache
from simulator.request import Request
from simulator.run import run_scenario
from simulator.scenario import load_scenario
from workloads.prefixes import prefixes_of
from workloads.statistics import prefix_hit_tokens
from workloads.synthetic import Synthetic, synthesize
from workloads.traces import read_trace

PRICES = linear_prices()


def compare(arrivals, identities, prompts, outputs, **limits):
    texts = [identities.text(row, prompt) for row, prompt in enumerate(prompts)]
    oracle = CachingOracle(PRICES, **limits)
    sequences = oracle.run(arrivals, texts, outputs)
    deployment = Deployment(**limits, prices=PRICES, caching=True, identities=identities)
    cluster = deployment.serve(OpenLoop(arrivals), prompts, outputs)
    expected = {
        "admitted_ns": [s.admitted_ns for s in sequences],
        "cached_tokens": [s.cached for s in sequences],
        "first_token_ns": [s.first_ns for s in sequences],
        "finish_ns": [s.finish_ns for s in sequences],
        "preemptions": [s.preemptions for s in sequences],
    }
    assert {name: cluster.ledger.column(name).tolist() for name in expected} == expected
    return cluster


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.sampled_from([300_000, 5_000_000, 100_000_000]),
    st.sampled_from([1, 4, 16]),
    st.sampled_from([0, 2, 9, 200]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from([20, 100, 1000]),
    st.booleans(),
)
def test_any_workload(seed, size, gap_ns, block_tokens, spare, max_sequences, max_tokens, reserve):
    rng = np.random.default_rng(seed)
    identities, prompts, outputs = tree_of_prompts(rng, size)
    arrivals = np.cumsum(rng.exponential(gap_ns, size)).astype(int).tolist()
    longest = max(p + o for p, o in zip(prompts, outputs, strict=True))
    compare(
        arrivals,
        identities,
        prompts,
        outputs,
        blocks=-(-longest // block_tokens) + spare,
        block_tokens=block_tokens,
        max_tokens=max_tokens,
        max_sequences=max_sequences,
        reserve_full_prompt=reserve,
    )


def chat(seed: int, *, think_s: float):
    """Return twelve conversations of four turns as (arrivals, identities, prompts, outputs)."""
    spec = {
        "requests": 48,
        "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
        "prompt_tokens": {"kind": "uniform", "low": 1, "high": 90},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 60},
        "shared_prefix_tokens": 37,
        "sessions": {"turns": 4, "think_time_s": {"kind": "exponential", "mean": think_s}},
    }
    found = synthesize(Synthetic.model_validate(spec), seed)
    identities = KnownIdentities(prefixes_of(found), found.session)
    return found, identities, found.prompt_tokens.tolist(), found.output_tokens.tolist()


def written_out(found) -> Spans:
    prefixes = found.prefixes
    pairs = list(zip(prefixes.contents.tolist(), prefixes.ends.tolist(), strict=True))
    cuts = zip(prefixes.offsets[:-1].tolist(), prefixes.offsets[1:].tolist(), strict=True)
    return Spans([pairs[a:b] for a, b in cuts], found.session.tolist())


@pytest.mark.parametrize("block_tokens", [1, 16])
@pytest.mark.parametrize("spare", [0, 20, 20_000])
def test_conversations_are_served_as_vllm_serves_them(block_tokens, spare):
    """Turns come long after the answers before them, so that no request looks for an answer being written."""
    found, _, prompts, outputs = chat(5, think_s=30.0)
    limits = {"blocks": 700 // block_tokens + spare, "block_tokens": block_tokens}
    cluster = compare(
        found.arrival_ns.tolist(),
        written_out(found),
        prompts,
        outputs,
        **limits,
        max_tokens=128,
        max_sequences=8,
    )
    cached, latest = cluster.ledger.column("cached_tokens").tolist(), {}
    assert sum(cached) > 0
    for row, number in enumerate(found.session.tolist() if spare == 20_000 else []):
        if number in latest:
            # With room for all, a turn finds what was said before it, but for the last token, which was not computed.
            said = prompts[latest[number]] + outputs[latest[number]]
            assert cached[row] == (said - 1) // block_tokens * block_tokens
        latest[number] = row


def test_identities_of_a_workload_equal_its_spans():
    found, identities, prompts, _ = chat(6, think_s=1.0)
    spans = written_out(found)
    for row, prompt in enumerate(prompts):
        one, other = Request(row, prompt), Request(row, prompt)
        identities.identify(one)
        spans.identify(other)
        for name in ("prefix", "prefix_ends", "session", "named"):
            assert getattr(one, name) == getattr(other, name)


def handed_over(*, caching, terms=None):
    found, identities, prompts, outputs = chat(7, think_s=2.0)
    outputs = [output + 1 for output in outputs] if terms else outputs
    deployment = Deployment(
        decode_replicas=1,
        caching=caching,
        identities=identities,
        prices=PRICES,
        transfer_ns_per_token=10_000,
        terms=KvTransfer(**(terms or {})),
    )
    cluster = deployment.serve(OpenLoop(found.arrival_ns.tolist()), prompts, outputs)
    return cluster, prompts, outputs


def test_blocks_that_a_decode_instance_holds_are_not_fetched():
    plain, prompts, outputs = handed_over(caching=False)
    cached, *_ = handed_over(caching=True)
    handed = [i for i, output in enumerate(outputs) if output > 1]
    state = cached.instances[1].state
    assert state.queried == sum(prompts[i] for i in handed)
    assert sum(plain.carrier.fetched) == state.queried
    # Turns after the first find what was said before, in whole blocks, where the last answer was written.
    assert sum(cached.carrier.fetched) == state.queried - state.hits
    assert state.hits > 0.5 * state.queried
    waits = [(c.ledger.column("kv_ready_ns") - c.ledger.column("first_token_ns"))[handed] for c in (plain, cached)]
    assert waits[1].sum() < 0.6 * waits[0].sum()


@pytest.mark.parametrize("terms", [{"direction": "push"}, {"mode": "layerwise"}, {"decode_chosen": "arrival"}])
def test_what_is_held_is_not_sent_while_prompts_are_computed_either(terms):
    cluster, prompts, _ = handed_over(caching=True, terms=terms)
    prefilling, decoding = (instance.state for instance in cluster.instances)
    assert decoding.queried == sum(prompts)
    assert 0 < decoding.hits < decoding.queried
    assert prefilling.hits > 0
    assert sum(cluster.carrier.fetched) == decoding.queried - decoding.hits


def test_hits_are_counted_once_and_computed_never():
    rng = np.random.default_rng(11)
    identities, prompts, outputs = tree_of_prompts(rng, 200)
    arrivals = OpenLoop(np.cumsum(rng.exponential(2_000_000, 200)).astype(int).tolist())
    deployment = Deployment(blocks=90, caching=True, identities=identities, max_sequences=40, max_tokens=256)
    cluster = deployment.serve(arrivals, prompts, outputs)
    state, cached = cluster.instances[0].state, cluster.ledger.column("cached_tokens")
    assert state.hits == cached.sum() > 0
    assert state.queried == sum(prompts)
    assert state.preemptions > 20
    assert state.reused > state.hits
    assert (cached < prompts).all()
    computed = int(cluster.logs[0].table()["tokens"].sum())
    assert computed == sum(prompts) - state.reused + state.recomputed


def test_a_prompt_that_is_all_there_computes_its_last_block():
    identities = Spans([[(0, 64)], [(0, 64)], [(0, 64)]], [-1] * 3)
    cluster = Deployment(caching=True, identities=identities).serve(
        OpenLoop([0, 10**9, 2 * 10**9]), [64, 64, 65], [2] * 3
    )
    assert cluster.ledger.column("cached_tokens").tolist() == [0, 48, 64]


@pytest.mark.parametrize("block_tokens", [8, 16, 48, 128])
def test_blocks_need_not_be_those_of_the_trace(block_tokens):
    """Hashes of 48 tokens: found are the full blocks of the engine inside the tokens two prompts share."""
    identities = Spans([[(0, 480), (1, 528)], [(0, 480), (2, 528)]], [-1] * 2)
    deployment = Deployment(caching=True, identities=identities, block_tokens=block_tokens)
    cluster = deployment.serve(OpenLoop([0, 10**9]), [528, 528], [2, 2])
    assert cluster.ledger.column("cached_tokens").tolist() == [0, 480 // block_tokens * block_tokens]


def test_a_leak_in_the_cache_stops_the_run():
    identities = Spans([[(0, 64)], [(0, 64)]], [-1] * 2)
    cluster = Deployment(caching=True, identities=identities).serve(OpenLoop([0, 5]), [64, 70], [2, 2])
    check_laws(cluster)
    cluster.instances[0].state.cache.blank -= 1
    with pytest.raises(LawError, match="blocks blank"):
        check_laws(cluster)


def test_taking_more_blocks_than_there_are_is_a_broken_law():
    cache = PrefixCache(4, 16)
    cache.take(3)
    with pytest.raises(LawError, match="KV blocks were taken"):
        cache.take(2)


@pytest.mark.skipif(missing_trace("mooncake-conversation") is not None, reason="the trace is not shipped")
def test_an_endless_cache_finds_what_the_trace_shares():
    endless = {"pool.0.replicas": 1, "pool.0.limits.kv_blocks": 20_000_000}
    scenario = load_scenario("mooncake-conversation", SCENARIOS["mooncake-conversation"] | endless)
    result = run_scenario(scenario)
    trace = read_trace(scenario.workload.trace)
    there = np.minimum(prefix_hit_tokens(trace.blocks, trace.prompt_tokens), trace.prompt_tokens - 1) // 16 * 16
    assert result.requests["cached_tokens"].tolist() == there.tolist()
    assert result.summary["prefix_cache_hit_rate"] == pytest.approx(0.374, abs=0.001)
