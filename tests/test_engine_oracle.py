"""The engine decides as each real one does: every time equals that of an independent token-by-token oracle."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from baselines_oracle import ReservingOracle, SarathiOracle
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, linear_prices
from vllm_oracle import Oracle
from whole_prompts_oracle import WholePromptOracle

from simulator.token_gaps import token_gaps

PRICES = linear_prices()

WORKLOADS = {
    "light": {"gap_ns": 80_000_000, "prompt": 300, "output": 60, "blocks": 1000},
    "saturated": {"gap_ns": 2_000_000, "prompt": 300, "output": 60, "blocks": 400},
    "starved": {"gap_ns": 3_000_000, "prompt": 100, "output": 200, "blocks": 30},
    "long prompts": {"gap_ns": 30_000_000, "prompt": 1500, "output": 30, "blocks": 300},
    "single tokens": {"gap_ns": 1_000_000, "prompt": 40, "output": 1, "blocks": 60},
}


ORACLES = {
    "vllm": Oracle,
    "vllm_v0": WholePromptOracle,
    "distserve": partial(WholePromptOracle, watermark=0.0, free_block_each=False),
    "splitwise": partial(WholePromptOracle, watermark=0.0, free_block_each=False, mixed=True),
    "sarathi": SarathiOracle,
    "orca": ReservingOracle,
    "static": partial(ReservingOracle, joins_running=False),
}
#: Policies that hold blocks back for every answer, and so never preempt.
RESERVING = {"orca", "static"}


def compare(policy, arrivals, prompts, outputs, **limits) -> int:
    sequences = ORACLES[policy](PRICES, **limits).run(arrivals, prompts, outputs)
    cluster = Deployment(**limits, prices=PRICES, policy=policy).serve(OpenLoop(arrivals), prompts, outputs)
    expected = {
        "admitted_ns": [s.admitted_ns for s in sequences],
        "first_token_ns": [s.first_ns for s in sequences],
        "finish_ns": [s.finish_ns for s in sequences],
        "preemptions": [s.preemptions for s in sequences],
    }
    assert {name: cluster.ledger.column(name).tolist() for name in expected} == expected
    every = np.concatenate([np.diff(s.token_ns) for s in sequences]).astype(int)
    gaps = token_gaps(cluster.logs, [PRICES], cluster.ledger)
    assert np.repeat(gaps.gap_ns, gaps.count).tolist() == np.sort(every).tolist()
    return sum(cluster.ledger.preemptions)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("block_tokens", [1, 16])
@pytest.mark.parametrize("policy", ORACLES)
def test_times_equal_the_oracle(policy, name, block_tokens):
    shape = WORKLOADS[name]
    rng = np.random.default_rng(7)
    size = 250
    arrivals = np.cumsum(rng.exponential(shape["gap_ns"], size)).astype(int).tolist()
    prompts = rng.integers(1, 2 * shape["prompt"], size).tolist()
    outputs = rng.integers(1, 2 * shape["output"], size).tolist()
    blocks = max(shape["blocks"], -(-2 * (shape["prompt"] + shape["output"]) // 16)) * 16 // block_tokens
    limits = {"max_tokens": 512, "max_sequences": 48, "block_tokens": block_tokens, "blocks": blocks}
    preemptions = compare(policy, arrivals, prompts, outputs, **limits)
    assert (preemptions == 0) if policy in RESERVING else (preemptions > 250 or name != "starved")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30_000_000), st.integers(1, 250), st.integers(1, 60)), min_size=1, max_size=30),
    st.sampled_from([1, 4, 16]),
    st.sampled_from([0, 2, 9, 200]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from([20, 100, 1000]),
    st.booleans(),
    st.sampled_from(sorted(ORACLES)),
)
def test_any_workload(rows, block_tokens, spare, max_sequences, max_tokens, reserve, policy):
    rows = sorted(rows)
    arrivals, prompts, outputs = (list(column) for column in zip(*rows, strict=True))
    compare(
        policy,
        arrivals,
        prompts,
        outputs,
        blocks=-(-310 // block_tokens) + spare,
        block_tokens=block_tokens,
        max_tokens=max_tokens,
        max_sequences=max_sequences,
        reserve_full_prompt=reserve,
    )
