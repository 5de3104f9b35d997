"""Advancing unchanged decode steps in one event changes nothing but the number of events."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import tree_of_prompts
from serving import Deployment, OpenLoop, Ranked, Users, gaps_of, linear_prices, times

from simulator.balancers import BALANCERS
from simulator.network import KvTransfer
from simulator.prompt_balance import PromptBalance
from simulator.router import ROUTERS
from simulator.schedulers import SCHEDULERS
from simulator.schedulers.capacity import CAPACITY
from simulator.schedulers.chunking import CHUNKING
from simulator.schedulers.sglang_order import ORDERS
from simulator.server import cores_of

#: Ways in which the ranks of TensorRT-LLM wait for each other's prompts.
BALANCES = [None, *(partial(PromptBalance, timeout, wait, 7) for timeout, wait in [(0, 0), (1, 3), (4, 2), (50, 0)])]

#: Ways of handing KV over.
TERMS = [
    {},
    {"direction": "push"},
    {"mode": "layerwise"},
    {"decode_chosen": "arrival"},
    {"timeout_s": 0.02},
    {"timeout_s": 0.02, "on_timeout": "fail"},
]

requests = st.lists(
    st.tuples(st.integers(0, 40_000_000), st.integers(1, 400), st.integers(1, 80)), min_size=1, max_size=40
)


#: Policies of engines that may plan a step while another runs.
PLANS_AHEAD = {"vllm", "sglang", "trtllm"}
#: What policies may be told besides.
RULES = {
    "vllm": {
        "chunk_tokens": st.sampled_from([5, 20, 64]),
        "chunk_share": st.booleans(),
        "by_priority": st.booleans(),
        "interval": st.integers(1, 6),
        "watermark": st.sampled_from([0.05, 0.3]),
        "uncapped_alone": st.booleans(),
        "loan_reserves": st.booleans(),
        "goes_on": st.booleans(),
    },
    "trtllm": {
        "capacity": st.sampled_from(sorted(CAPACITY)),
        "chunking": st.sampled_from(sorted(CHUNKING)),
        "prefix_aware": st.booleans(),
        "wait_steps": st.integers(1, 6),
        "wait_share": st.sampled_from([0.1, 1.0]),
    },
    "sglang": {
        "max_prefill_tokens": st.sampled_from([40, 300]),
        "max_prompts": st.sampled_from([0, 2]),
        "schedule_policy": st.sampled_from(sorted(ORDERS)),
        "conservativeness": st.sampled_from([0.0, 0.3, 1.4]),
        "mixed": st.booleans(),
        "interval": st.integers(0, 4),
        "interval_batch": st.sampled_from([0, 3]),
        "ranked": st.booleans(),
        "preempts": st.booleans(),
        "threshold": st.sampled_from([0, 1]),
        "retracts_by_priority": st.booleans(),
        "ignore_eos": st.booleans(),
    },
}

#: Rules with which a policy pauses requests, if it does not by itself.
PAUSING = {"trtllm": {"capacity": "MAX_UTILIZATION"}, "sglang": {"conservativeness": 0.0}}


@st.composite
def deployments(draw) -> dict:
    block_tokens = draw(st.sampled_from([1, 3, 16]))
    # At least one longest sequence (480 tokens) fits; often little more, so that preemption is common.
    least = -(-480 // block_tokens)
    max_sequences = draw(st.sampled_from([1, 2, 7, 64]))
    policy = draw(st.sampled_from(sorted(SCHEDULERS)))
    ahead = policy in PLANS_AHEAD and draw(st.booleans())
    rules = draw(st.fixed_dictionaries({}, optional=RULES.get(policy, {})))
    polls_every = draw(st.sampled_from([1, 2, 10])) if policy == "sglang" else 1
    if policy == "sglang":
        # SGLang asks for a little more than the longest sequence takes.
        rules, least = rules | {"overlap": ahead}, least + 4 + 4 // block_tokens
    return {
        "block_tokens": block_tokens,
        "blocks": least + draw(st.sampled_from([0, 1, 5, 40, 10_000])),
        "max_sequences": max_sequences,
        "max_tokens": max(max_sequences, draw(st.sampled_from([16, 64, 333, 2048]))),
        "replicas": draw(st.integers(1, 3)),
        "reserve_full_prompt": draw(st.booleans()),
        "policy": policy,
        "rules": rules,
        "chunked": policy != "trtllm" or draw(st.booleans()),
        "plans_ahead": ahead,
        "polls_every": polls_every,
        "ranks": draw(st.sampled_from([1, 2, 3])),
        "balancer": draw(st.sampled_from(sorted(BALANCERS))),
        "lockstep": draw(st.booleans()),
        # Only vLLM has ranks that look again once the step of all is over.
        "idle_ranks_lag": policy != "vllm" or draw(st.booleans()),
        "prompt_balance": draw(st.sampled_from(BALANCES)) if policy == "trtllm" else None,
        "waits_ns": draw(st.sampled_from([0, 0, 400_000, 1_100_000, 9_000_000])) if policy == "trtllm" else 0,
        "identities": Ranked(),
    }


@st.composite
def split_deployments(draw) -> dict:
    found = draw(deployments())
    if found["policy"] == "sglang":
        found["rules"] |= {"reserved_tokens": draw(st.sampled_from([1, 7, 60])), "extra_rows": draw(st.integers(0, 3))}
    if found["policy"] == "vllm":
        found |= {"helpers": draw(st.integers(0, 2)), "helps_above": draw(st.sampled_from([0, 2]))}
    return found | {
        "waits_ns": 0,
        "decode_replicas": draw(st.integers(1, 3)),
        "decode_blocks": -(-480 // found["block_tokens"]) + draw(st.sampled_from([0, 1, 5, 10_000])),
        "transfer_ns_per_token": draw(st.sampled_from([0, 1, 1000, 400_000])),
    }


@st.composite
def caching_deployments(draw) -> dict:
    found = draw(st.one_of(deployments(), split_deployments()))
    # The longest of these sequences are a little longer.
    longer = -(-600 // found["block_tokens"])
    found["blocks"] += longer
    if "decode_blocks" in found:
        found["decode_blocks"] += longer
        terms = draw(st.sampled_from(TERMS))
        if found["policy"] == "sglang" and "timeout_s" in terms:
            # An instance that only decodes computes no prompts.
            terms = terms | {"on_timeout": "fail"}
        found["terms"] = KvTransfer(**terms)
    if found["policy"] == "vllm" and draw(st.booleans()):
        found |= {
            "host_blocks": draw(st.sampled_from([1, 30, 10_000])),
            "host_block_ns": draw(st.sampled_from([1, 9e5])),
        }
    return found | {"caching": True, "blank_first": draw(st.booleans())}


def serve_both(settings_, arrivals, prompts, outputs, router="round_robin"):
    found = []
    for macro_steps in (True, False):
        routers = (ROUTERS[router](np.random.default_rng(seed)) for seed in (5, 6))
        deployment = Deployment(**settings_, router=next(routers), decode_router=next(routers))
        found.append(deployment.serve(arrivals, prompts, outputs, macro_steps=macro_steps))
    return found


def assert_same(macro, single):
    assert times(macro) == times(single)
    gaps = [gaps_of(run) for run in (macro, single)]
    for name in ("gap_ns", "count", "seconds", "per_second"):
        assert getattr(gaps[0], name).tolist() == getattr(gaps[1], name).tolist()
    for column in ("steps", "duration_ns", "tokens", "completed", "pairs"):
        sums = [[int(core.log.table()[column].sum()) for core in cores_of(run.instances)] for run in (macro, single)]
        assert sums[0] == sums[1], column
    for one, other in zip(cores_of(macro.instances), cores_of(single.instances), strict=True):
        assert one.state.pool.least_free == other.state.pool.least_free
        for count in ("allocated", "blank"):
            assert getattr(one.state.pool, count, 0) == getattr(other.state.pool, count, 0)
        for count in ("queried", "hits", "reused"):
            assert getattr(one.state, count) == getattr(other.state, count)
        if one.state.host is not None:
            assert (one.state.host.read, one.state.host.written) == (other.state.host.read, other.state.host.written)
    # What cuts a run leaves the wake-up behind that it had: no more than one for an arrival, or for KV that arrives.
    assert macro.events <= single.events + 2 * len(macro.ledger)


@settings(max_examples=250, deadline=None)
@given(requests, deployments(), st.sampled_from(sorted(ROUTERS)))
def test_open_loop(rows, deployment, router):
    rows = sorted(rows)
    arrivals = OpenLoop([row[0] for row in rows])
    macro, single = serve_both(deployment, arrivals, [r[1] for r in rows], [r[2] for r in rows], router)
    assert_same(macro, single)


few = st.lists(st.tuples(st.just(0), st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=12)
late = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from([-1, 0, 1, 500_000]), st.integers(1, 5), st.integers(1, 6)),
    min_size=1,
    max_size=2,
)


@settings(max_examples=150, deadline=None)
@given(few, late, st.one_of(deployments(), split_deployments()))
def test_arrivals_at_the_ends_of_steps(first, then, deployment):
    """A nanosecond more or less decides which step of a run a request is in time for."""
    _, alone = serve_both(deployment, OpenLoop([0] * len(first)), [r[1] for r in first], [r[2] for r in first])
    logs = [core.log.table() for core in cores_of(alone.instances)]
    ends = sorted({int(end) for log in logs for end in log["start_ns"] + log["duration_ns"]})
    rows = first + sorted((max(0, ends[place % len(ends)] + off), *tokens) for place, off, *tokens in then)
    rows.sort(key=lambda row: row[0])
    arrivals = OpenLoop([row[0] for row in rows])
    assert_same(*serve_both(deployment, arrivals, [r[1] for r in rows], [r[2] for r in rows]))


@settings(max_examples=120, deadline=None)
@given(requests, deployments(), st.integers(1, 12), st.sampled_from([0, 1, 5_000_000]))
def test_closed_loop(rows, deployment, concurrency, think):
    concurrency = min(concurrency, len(rows))
    users = Users(concurrency, [think * (i % 3) for i in range(len(rows) - concurrency)])
    macro, single = serve_both(deployment, users, [r[1] for r in rows], [r[2] for r in rows], "least_loaded")
    assert_same(macro, single)


@settings(max_examples=200, deadline=None)
@given(requests, split_deployments(), st.sampled_from(sorted(ROUTERS)))
def test_prompts_and_decoding_on_different_instances(rows, deployment, router):
    rows = sorted(rows)
    arrivals = OpenLoop([row[0] for row in rows])
    macro, single = serve_both(deployment, arrivals, [r[1] for r in rows], [r[2] for r in rows], router)
    assert_same(macro, single)
    handed = macro.ledger.column("kv_ready_ns") >= 0
    # What helpers compute stays with them.
    assert deployment.get("helpers") or (handed == (macro.ledger.column("output_tokens") > 1)).all()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.sampled_from([300_000, 2_000_000, 20_000_000]),
    caching_deployments(),
    st.sampled_from(sorted(ROUTERS)),
)
def test_shared_prefixes(seed, size, gap_ns, deployment, router):
    rng = np.random.default_rng(seed)
    identities, prompts, outputs = tree_of_prompts(rng, size)
    arrivals = OpenLoop(np.cumsum(rng.exponential(gap_ns, size)).astype(int).tolist())
    macro, single = serve_both(deployment | {"identities": Ranked(identities)}, arrivals, prompts, outputs, router)
    assert_same(macro, single)


def test_kv_that_is_noticed_in_a_step_makes_room_in_the_next():
    """SGLang has twice as many places for KV that comes as rows, and gives one back once it has looked."""
    deployment = {
        "policy": "sglang",
        "rules": {"overlap": False, "reserved_tokens": 1, "extra_rows": 2},
        "max_sequences": 1,
        "decode_replicas": 1,
        "transfer_ns_per_token": 0,
        "terms": KvTransfer(direction="push"),
    }
    macro, single = serve_both(deployment, OpenLoop([0, 600_000, 700_000]), [3, 20, 32], [51, 38, 31])
    assert_same(macro, single)
    # The second prompt has left when the third begins, long before the first answer ends.
    assert macro.ledger.admitted_ns[2] == macro.ledger.kv_ready_ns[1]


@pytest.mark.parametrize("policy", SCHEDULERS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_arrivals_exactly_at_step_boundaries(policy, seed):
    """Prices of whole milliseconds and arrivals on the same grid: every tie there can be."""
    rng = np.random.default_rng(seed)
    prices = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)
    size = 30
    arrivals = OpenLoop(sorted((rng.integers(0, 60, size) * 1_000_000).tolist()))
    prompts, outputs = rng.integers(1, 50, size), rng.integers(1, 40, size)
    runs = [
        Deployment(blocks=20, max_tokens=64, max_sequences=8, replicas=2, prices=prices, policy=policy).serve(
            arrivals, prompts, outputs, macro_steps=macro
        )
        for macro in (True, False)
    ]
    assert_same(*runs)


#: Policies that hold blocks back for every answer, and so never preempt.
RESERVING = {"orca", "static"}


@pytest.mark.parametrize("policy", sorted(set(SCHEDULERS) - RESERVING))
def test_a_starved_cache_preempts_thousands_of_times_and_still_agrees(policy):
    rng = np.random.default_rng(1)
    size = 600
    arrivals = OpenLoop(np.sort(rng.integers(0, 2_000_000_000, size)).tolist())
    prompts, outputs = rng.integers(1, 200, size), rng.integers(100, 400, size)
    starved = {"blocks": 60, "max_sequences": 64, "max_tokens": 512, "policy": policy, "rules": PAUSING.get(policy, {})}
    macro, single = serve_both(starved, arrivals, prompts, outputs)
    # SGLang learns from the first retractions how much to keep free.
    assert sum(macro.ledger.preemptions) > (0 if policy == "sglang" else 1000)
    assert_same(macro, single)


def test_a_light_load_takes_few_events():
    rng = np.random.default_rng(2)
    size = 2000
    arrivals = OpenLoop(np.cumsum(rng.exponential(50_000_000, size)).astype(int).tolist())
    cluster = Deployment().serve(arrivals, rng.integers(1, 500, size), rng.integers(1, 400, size))
    steps = sum(int(log.table()["steps"].sum()) for log in cluster.logs)
    assert cluster.events / size < 6
    assert steps / size > 20


def test_an_arrival_that_makes_shares_smaller_lets_the_head_of_the_queue_in():
    """With an adaptive threshold the first of those who wait needs fewer blocks, the more there are."""
    prompts, outputs = [1, 1, 277, 204, *[1] * 9], [1, 3, 3, *[1] * 10]
    rules = {"reserve_full_prompt": False, "rules": {"chunk_tokens": 5, "chunk_share": True}}
    deployment = {"block_tokens": 1, "blocks": 480, "max_sequences": 2, "max_tokens": 2048} | rules
    assert_same(*serve_both(deployment, Users(11, [0, 0]), prompts, outputs, "least_loaded"))


def test_kv_that_is_asked_for_at_once_stays_behind_those_who_came_before():
    """A plan made ahead knows of KV to be fetched a step sooner than of prompts, but not of earlier ones."""
    arrivals = OpenLoop([at * 1_000_000 for at in (27, 47, 48, 51, 52, 56)])
    prompts, outputs = [27, 52, 25, 32, 42, 59], [24, 22, 13, 17, 23, 26]
    deployment = {"plans_ahead": True, "max_sequences": 1, "helpers": 1, "decode_replicas": 1}
    assert_same(*serve_both(deployment, arrivals, prompts, outputs))
