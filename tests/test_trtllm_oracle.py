"""TensorRT-LLM's rules, each by a test of its own, and all of them against a model that takes everything one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import tree_of_prompts
from serving import Deployment, OpenLoop, gaps_of, linear_prices
from trtllm_oracle import TrtllmOracle

PRICES = linear_prices()

RULES = {
    "capacity": st.sampled_from(["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"]),
    "chunking": st.sampled_from(["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS", "FORCE_CHUNK"]),
    "prefix_aware": st.booleans(),
    "wait_steps": st.sampled_from([0, 0, 1, 5]),
    "wait_share": st.sampled_from([0.1, 0.5, 1.0]),
}


def compare(arrivals, prompts, outputs, *, identities=None, ahead=False, declared=0, rules=None, wait_ns=0, **limits):
    """Return the simulated cluster, whose every decision is the oracle's."""
    rules, size = rules or {}, len(prompts)
    known = [0] * size if identities is None else [spans[-1][1] if spans else 0 for spans in identities.spans]
    texts = [[(-1 - row, place) for place in range(prompt)] for row, prompt in enumerate(prompts)]
    if identities is not None:
        texts = [identities.text(row, prompt) for row, prompt in enumerate(prompts)]
    oracle = TrtllmOracle(PRICES, **limits, **rules, overlap=ahead, reuse=identities is not None, wait_ns=wait_ns)
    most = [max(declared, output) for output in outputs]
    rows = oracle.run(arrivals, texts, known, outputs, most)
    cluster = Deployment(
        **limits,
        prices=PRICES,
        policy="trtllm",
        rules=rules,
        plans_ahead=ahead,
        caching=identities is not None,
        identities=identities,
        declared_tokens=declared,
        waits_ns=wait_ns,
    ).serve(OpenLoop(arrivals), prompts, outputs)
    expected = {
        "admitted_ns": [row.admitted_ns for row in rows],
        "first_token_ns": [row.first_ns for row in rows],
        "finish_ns": [row.finish_ns for row in rows],
        "preemptions": [row.preemptions for row in rows],
        "cached_tokens": [row.hit for row in rows],
    }
    assert {name: cluster.ledger.column(name).tolist() for name in expected} == expected
    gaps = gaps_of(cluster)
    every = np.concatenate([np.diff(row.token_ns) for row in rows]).astype(int)
    assert np.repeat(gaps.gap_ns, gaps.count).tolist() == np.sort(every).tolist()
    return cluster


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 35),
    gap_ns=st.sampled_from([300_000, 5_000_000, 100_000_000]),
    block_tokens=st.sampled_from([1, 4, 16]),
    spare=st.sampled_from([0, 2, 9, 200]),
    max_sequences=st.sampled_from([1, 3, 20]),
    max_tokens=st.sampled_from([20, 100, 1000]),
    chunked=st.booleans(),
    caching=st.booleans(),
    ahead=st.booleans(),
    declared=st.sampled_from([0, 60, 100]),
    rules=st.fixed_dictionaries({}, optional=RULES),
    wait_ns=st.sampled_from([0, 0, 300_001, 1_200_000, 30_000_000]),
)
def test_any_workload(
    seed,
    size,
    gap_ns,
    block_tokens,
    spare,
    max_sequences,
    max_tokens,
    chunked,
    caching,
    ahead,
    declared,
    rules,
    wait_ns,
):
    rng = np.random.default_rng(seed)
    identities, prompts, outputs = tree_of_prompts(rng, size)
    arrivals = np.cumsum(rng.exponential(gap_ns, size)).astype(int).tolist()
    longest = max(p + max(o, declared) for p, o in zip(prompts, outputs, strict=True))
    compare(
        arrivals,
        prompts,
        outputs,
        identities=identities if caching else None,
        ahead=ahead,
        declared=declared,
        rules=rules,
        blocks=-(-longest // block_tokens) + spare,
        block_tokens=block_tokens,
        max_sequences=max_sequences,
        max_tokens=max_tokens,
        chunked=chunked,
        wait_ns=wait_ns,
    )


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("capacity", ["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"])
def test_a_starved_cache(capacity, ahead):
    rng = np.random.default_rng(7)
    arrivals = np.cumsum(rng.exponential(3_000_000, 250)).astype(int).tolist()
    prompts, outputs = rng.integers(1, 200, 250).tolist(), rng.integers(1, 400, 250).tolist()
    limits = {"blocks": 40, "block_tokens": 16, "max_tokens": 512, "max_sequences": 48}
    cluster = compare(arrivals, prompts, outputs, ahead=ahead, rules={"capacity": capacity}, **limits)
    assert (sum(cluster.ledger.preemptions) > 200) == (capacity == "MAX_UTILIZATION")
