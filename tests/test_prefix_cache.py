"""Prefix caching by runs of blocks equals a model with real tokens, one block at a time."""

from __future__ import annotations

import numpy as np
from caching_oracle import CachingOracle
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import tree_of_prompts
from serving import Deployment, OpenLoop, linear_prices

PRICES = linear_prices()


def compare(arrivals, identities, prompts, outputs, *, answers_at_once=False, **limits):
    known = [spans[-1][1] if spans else 0 for spans in identities.spans]
    texts = [identities.text(row, prompt) for row, prompt in enumerate(prompts)]
    oracle = CachingOracle(PRICES, **limits, answers_at_once=answers_at_once)
    sequences = oracle.run(arrivals, texts, known, outputs)
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


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
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
