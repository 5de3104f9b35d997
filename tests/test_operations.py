"""Instances die, come back and change pools while they serve: nothing is lost, and macro-steps change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import tree_of_prompts
from serving import Deployment, OpenLoop, gaps_of
from test_engine_macro_steps import assert_same, requests, serve_both

from simulator.incidents import OperationsTable
from simulator.network import KvTransfer
from simulator.router import ROUTERS
from simulator.schedulers import SCHEDULERS

MS = 1_000_000

transfers = st.sampled_from(
    [
        {},
        {"decode_chosen": "arrival"},
        {"direction": "push"},
        {"mode": "layerwise"},
        {"timeout_s": 0.002},
        {"timeout_s": 0.002, "on_timeout": "fail"},
        {"timeout_s": 0.002, "mode": "layerwise"},
    ]
)


@st.composite
def incidents(draw) -> list[dict]:
    found = []
    for _ in range(draw(st.integers(0, 5))):
        at = {"at_s": draw(st.integers(0, 60)) / 1000}
        if draw(st.booleans()):
            restart = draw(st.sampled_from([None, 0.001, 0.02]))
            pool, instance = draw(st.sampled_from(["prefill", "decode", "mixed"])), draw(st.integers(0, 2))
            found.append(at | {"kind": "instance_down", "pool": pool, "instance": instance})
            if restart is not None:
                found[-1]["restart_after_s"] = restart
        else:
            pool, to = draw(st.permutations(["prefill", "decode", "mixed"]))[:2]
            found.append(at | {"kind": "switch", "pool": pool, "to": to, "delay_s": draw(st.sampled_from([0.0, 0.01]))})
    return found


@st.composite
def deployments(draw) -> dict:
    block_tokens = draw(st.sampled_from([3, 16]))
    least = -(-480 // block_tokens)
    max_sequences = draw(st.sampled_from([2, 7, 64]))
    table = {"incident": draw(incidents()), "lost_requests": draw(st.sampled_from(["recompute", "fail"]))}
    if draw(st.booleans()):
        table["switching"] = {"between": ("prefill", "decode"), "every_s": 0.007, "delay_s": 0.001, "least_load": 2.0}
    return {
        "block_tokens": block_tokens,
        "blocks": least + draw(st.sampled_from([0, 5, 10_000])),
        "decode_blocks": least + draw(st.sampled_from([0, 5, 10_000])),
        "max_sequences": max_sequences,
        "max_tokens": max(max_sequences, draw(st.sampled_from([64, 2048]))),
        "replicas": draw(st.integers(1, 3)),
        "decode_replicas": draw(st.integers(1, 3)),
        "helpers": draw(st.integers(1, 2)),
        "helps_above": draw(st.sampled_from([0, 3])),
        "ranks": draw(st.sampled_from([1, 1, 3])),
        "lockstep": draw(st.booleans()),
        "transfer_ns_per_token": draw(st.sampled_from([0, 1000, 40_000])),
        "terms": KvTransfer.model_validate(draw(transfers)),
        "operations": OperationsTable.model_validate(table),
    }


@settings(max_examples=200, deadline=None)
@given(requests, deployments())
def test_nothing_is_lost_and_macro_steps_change_nothing(rows, deployment):
    """``serve`` checks every law: requests, tokens, blocks and loads are conserved whatever dies."""
    rows = sorted(rows)
    arrivals = OpenLoop([row[0] for row in rows])
    runs = [
        Deployment(**deployment).serve(arrivals, [r[1] for r in rows], [r[2] for r in rows], macro_steps=macro)
        for macro in (True, False)
    ]
    assert_same(*runs)
    failed = runs[0].ledger.column("failed").astype(bool)
    assert (failed == (runs[0].ledger.column("finish_ns") < 0)).all()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.sampled_from([300_000, 2_000_000]),
    deployments(),
    st.sampled_from(sorted(ROUTERS)),
)
def test_nothing_is_lost_where_prefixes_are_cached(seed, size, gap_ns, deployment, router):
    """Blocks that others hold, or that are found where KV is handed over, are neither lost nor counted twice."""
    rng = np.random.default_rng(seed)
    identities, prompts, outputs = tree_of_prompts(rng, size)
    longer = -(-600 // deployment["block_tokens"])
    deployment |= {"caching": True, "identities": identities}
    deployment |= {name: deployment[name] + longer for name in ("blocks", "decode_blocks")}
    arrivals = OpenLoop(np.cumsum(rng.exponential(gap_ns, size)).astype(int).tolist())
    assert_same(*serve_both(deployment, arrivals, prompts, outputs, router))


@pytest.mark.parametrize("policy", SCHEDULERS)
@settings(max_examples=60, deadline=None)
@given(
    rows=requests,
    at_ms=st.integers(0, 60),
    pool=st.sampled_from(["prefill", "decode"]),
    spare=st.integers(0, 40),
    ranks=st.sampled_from([1, 2]),
)
def test_every_policy_survives_the_death_of_one_of_two_instances(policy, rows, at_ms, pool, spare, ranks):
    """Standstills that a death cuts short are counted, too: gaps add up to the time between first and last tokens."""
    rows = sorted(rows)
    found = []
    for split in (2, 0):
        table = operations(down(pool if split else "prefill", at_ms, 5.0))
        deployment = {"policy": policy, "blocks": 30 + spare, "decode_blocks": 30 + spare, "max_sequences": 7}
        deployment |= {"replicas": 2, "decode_replicas": split, "operations": table, "max_tokens": 512}
        deployment["ranks"] = ranks
        arrivals, prompts, outputs = OpenLoop([r[0] for r in rows]), [r[1] for r in rows], [r[2] for r in rows]
        runs = [
            Deployment(**deployment).serve(arrivals, prompts, outputs, macro_steps=macro) for macro in (True, False)
        ]
        assert_same(*runs)
        found.append(runs[0])
    for run in found:
        gaps = gaps_of(run)
        spent = run.ledger.column("finish_ns") - run.ledger.column("first_token_ns")
        assert (gaps.count > 0).all()
        assert int((gaps.gap_ns * gaps.count).sum()) == int(spent.sum())


def steady(size: int = 200, gap: int = 3 * MS):
    return OpenLoop([gap * i for i in range(size)]), [300] * size, [30] * size


def down(pool: str, at_ms: float, restart_ms: float | None = None, instance: int = 0) -> dict:
    found = {"kind": "instance_down", "at_s": at_ms / 1000, "pool": pool, "instance": instance}
    return found if restart_ms is None else found | {"restart_after_s": restart_ms / 1000}


def operations(*incident: dict, **others: object) -> OperationsTable:
    return OperationsTable.model_validate({"incident": incident} | others)


def test_requests_of_a_dead_instance_go_on_elsewhere():
    table = operations(down("prefill", 200))
    run = Deployment(replicas=2, operations=table).serve(*steady())
    ledger = run.ledger
    assert (ledger.column("finish_ns") >= 0).all()
    restarted = ledger.column("restarts") > 0
    assert 0 < restarted.sum() < 30
    assert (ledger.column("instance")[restarted] == 1).all()
    assert (ledger.column("instance")[ledger.column("arrival_ns") > 200 * MS] == 1).all()
    assert run.recomputed > 300 * (restarted.sum() - 1)


def test_an_instance_dies_once():
    table = operations(down("prefill", 200), down("prefill", 250))
    run = Deployment(replicas=2, operations=table).serve(*steady())
    assert [instance.ended_ns for instance in run.instances[:2]] == [200 * MS, -1]


def test_requests_fail_where_that_is_asked_for():
    table = operations(down("prefill", 200), lost_requests="fail")
    run = Deployment(replicas=2, operations=table).serve(*steady())
    failed = run.ledger.column("failed")
    assert 0 < failed.sum() < 30
    assert run.lost_output_tokens > 0


def test_where_nobody_is_left_requests_fail_at_once_and_wait_for_who_comes_back():
    gone = Deployment(operations=operations(down("prefill", 200))).serve(*steady())
    late = gone.ledger.column("arrival_ns") > 200 * MS
    assert (gone.ledger.column("failed")[late] == 1).all()
    back = Deployment(operations=operations(down("prefill", 200, 50))).serve(*steady())
    assert not back.ledger.column("failed").any()
    waited = (back.ledger.column("arrival_ns") > 200 * MS) & (back.ledger.column("arrival_ns") < 250 * MS)
    assert (back.ledger.column("admitted_ns")[waited] >= 250 * MS).all()


def test_kv_on_its_way_from_a_dead_instance_is_computed_again_and_to_a_dead_one_sent_again():
    slow = {"replicas": 2, "decode_replicas": 2, "transfer_ns_per_token": 100_000}
    lost = Deployment(**slow, operations=operations(down("prefill", 200))).serve(*steady())
    assert lost.hand_over.given_up > 0
    assert lost.recomputed > 0
    sent = Deployment(**slow, operations=operations(down("decode", 200))).serve(*steady())
    assert sent.hand_over.given_up > 0
    for run in (lost, sent):
        assert (run.ledger.column("finish_ns") >= 0).all()


def test_a_transfer_whose_time_is_up_is_recomputed_where_it_should_have_gone():
    terms = KvTransfer(timeout_s=0.001)
    slow = {"decode_replicas": 1, "transfer_ns_per_token": 10_000, "terms": terms}
    run = Deployment(**slow).serve(*steady(20, 50 * MS))
    assert run.hand_over.timed_out == 20
    assert run.hand_over.recomputed == 20 * 301
    assert (run.ledger.column("kv_ready_ns") == -1).all()
    assert (run.ledger.column("decode_instance") == 1).all()


def test_an_instance_switches_once_it_is_empty_and_after_its_delay():
    table = operations({"kind": "switch", "at_s": 0.2, "pool": "prefill", "to": "decode", "delay_s": 0.05})
    run = Deployment(replicas=2, decode_replicas=1, operations=table).serve(*steady())
    assert run.owners == [0, 0, 1, 1]
    left, joined = next(i for i in run.instances[:2] if i.ended_ns >= 0), run.instances[3]
    steps = run.logs[left.number].table()
    assert joined.started_ns == left.ended_ns
    assert joined.started_ns >= steps["start_ns"][-1] + steps["duration_ns"][-1] + 50 * MS
    assert run.logs[3].table()["steps"].sum() > 0


def test_instances_move_by_themselves_to_where_requests_queue():
    """Long outputs behind one decoding instance of seven sequences: prompts' instances come to help."""
    table = operations(switching={"between": ("prefill", "decode"), "every_s": 0.05, "delay_s": 0.01})
    slow = {"replicas": 3, "decode_replicas": 1, "max_sequences": 7}
    arrivals = OpenLoop([2 * MS * i for i in range(300)])
    load = (arrivals, [100] * 300, [60] * 300)
    moved, fixed = Deployment(**slow, operations=table).serve(*load), Deployment(**slow).serve(*load)
    assert sum(owner == 1 for owner in moved.owners) > 1
    assert max(moved.ledger.finish_ns) < 0.7 * max(fixed.ledger.finish_ns)


def test_a_mixed_pool_helps_whichever_side_is_short():
    size = 300
    arrivals = OpenLoop([MS * i for i in range(size)])
    split = {"replicas": 1, "decode_replicas": 1, "max_sequences": 16, "max_tokens": 512}
    for prompts, outputs, column in (
        ([400] * size, [2] * size, "instance"),
        ([20] * size, [60] * size, "decode_instance"),
    ):
        alone = Deployment(**split).serve(arrivals, prompts, outputs)
        helped = Deployment(**split, helpers=1, helps_above=2).serve(arrivals, prompts, outputs)
        assert (helped.ledger.column(column) == 2).sum() > size / 5
        assert max(helped.ledger.finish_ns) < 0.9 * max(alone.ledger.finish_ns)
    idle = Deployment(**split, helpers=1, helps_above=50).serve(arrivals, [20] * size, [2] * size)
    assert not (idle.ledger.column("instance") == 2).any()


def test_a_full_decode_side_holds_prompts_back_where_kv_is_pushed():
    size = 40
    full = {"decode_replicas": 1, "decode_blocks": 30}
    load = (OpenLoop([0] * size), [200] * size, [50] * size)
    pushed = Deployment(**full, terms=KvTransfer(direction="push")).serve(*load).ledger
    pulled = Deployment(**full).serve(*load).ledger
    # Pulled, every prompt is computed at once and its KV waits; pushed, the prompts wait and KV never does.
    assert np.diff(pulled.column("admitted_ns")).max() < 10 * MS < np.diff(pushed.column("admitted_ns")).max()
    waits = [run.column("kv_ready_ns") - run.column("first_token_ns") for run in (pushed, pulled)]
    assert waits[0].max() < MS < waits[1].max()


def test_room_made_for_a_request_of_one_token_is_given_back():
    run = Deployment(decode_replicas=1, terms=KvTransfer(direction="push")).serve(OpenLoop([0, 5]), [90, 90], [1, 1])
    assert run.hand_over.joins == 0
    assert run.instances[1].state.pool.allocated > 0
