"""Prompts and decoding over pipeline stages: micro-batches under way at once, from one queue and one KV cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import tree_of_prompts
from serving import Deployment, OpenLoop, Ranked, Users, linear_prices, times
from test_engine_macro_steps import requests
from test_operations import incidents

from perfdb.step_prices import StepPrices
from simulator.clock import Clock
from simulator.engine_parts import EngineParts
from simulator.incidents import OperationsTable
from simulator.instance import Instance
from simulator.lookout import Lookout
from simulator.pipeline_stages import PipelineStages
from simulator.pipelined import PipelinedInstance
from simulator.records import Ledger, StepLog
from simulator.request import Request
from simulator.router import ROUTERS
from simulator.run import run_scenario
from simulator.scenario import load_scenario
from simulator.schedulers import SCHEDULERS, Limits
from simulator.schedulers.state import EngineState
from simulator.server import Server, cores_of
from simulator.surroundings import Surroundings

MS = 1_000_000


@st.composite
def deployments(draw) -> dict:
    block_tokens = draw(st.sampled_from([1, 3, 16]))
    max_sequences = draw(st.sampled_from([1, 2, 7, 64]))
    rules = {"chunk_tokens": st.sampled_from([5, 64]), "by_priority": st.booleans(), "interval": st.integers(1, 4)}
    return {
        "block_tokens": block_tokens,
        "blocks": -(-600 // block_tokens) + draw(st.sampled_from([0, 1, 5, 40, 10_000])),
        "max_sequences": max_sequences,
        "max_tokens": max(max_sequences, draw(st.sampled_from([16, 64, 333, 2048]))),
        "reserve_full_prompt": draw(st.booleans()),
        "rules": draw(st.fixed_dictionaries({}, optional=rules)),
        "caching": draw(st.booleans()),
        "make": PipelinedInstance,
        "identities": Ranked(),
    }


@settings(max_examples=150, deadline=None)
@given(requests, deployments())
def test_one_stage_is_the_plain_engine(rows, deployment):
    """Nothing of what micro-batches share, take over and leave may show where there is one of them."""
    rows = sorted(rows)
    arrivals, prompts, outputs = OpenLoop([r[0] for r in rows]), [r[1] for r in rows], [r[2] for r in rows]
    piped = Deployment(**deployment).serve(arrivals, prompts, outputs)
    plain = Deployment(**deployment | {"make": None}).serve(arrivals, prompts, outputs, macro_steps=False)
    assert times(piped) == times(plain)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.sampled_from([0, 300_000, 2_000_000]),
    deployments(),
    st.integers(2, 5),
    st.sampled_from(sorted(ROUTERS)),
)
def test_laws_hold_however_short_of_memory(seed, size, gap_ns, deployment, stages, router):
    """``serve`` checks that requests, tokens and blocks are conserved."""
    rng = np.random.default_rng(seed)
    identities, prompts, outputs = tree_of_prompts(rng, size)
    arrivals = OpenLoop(np.cumsum(rng.exponential(gap_ns, size)).astype(int).tolist())
    settings_ = deployment | {"identities": Ranked(identities), "ranks": stages, "replicas": 2}
    run = Deployment(**settings_, router=ROUTERS[router](np.random.default_rng(1))).serve(arrivals, prompts, outputs)
    assert not any(run.ledger.failed)


@settings(max_examples=150, deadline=None)
@given(requests, deployments(), st.integers(2, 4), incidents(), st.sampled_from(["recompute", "fail"]))
def test_nothing_is_lost_when_instances_die(rows, deployment, stages, found, lost):
    rows = sorted(rows)
    table = OperationsTable.model_validate({"incident": found, "lost_requests": lost})
    others = {"ranks": stages, "replicas": 2, "decode_replicas": 2, "helpers": 1, "operations": table}
    arrivals = OpenLoop([r[0] for r in rows])
    Deployment(**deployment | others).serve(arrivals, [r[1] for r in rows], [r[2] for r in rows])


def test_a_starved_cache_preempts_and_everything_completes():
    rng = np.random.default_rng(1)
    size = 400
    arrivals = OpenLoop(np.sort(rng.integers(0, 2_000_000_000, size)).tolist())
    prompts, outputs = rng.integers(1, 200, size), rng.integers(100, 400, size)
    starved = {"blocks": 60, "max_sequences": 64, "max_tokens": 512, "make": PipelinedInstance, "ranks": 3}
    run = Deployment(**starved).serve(arrivals, prompts, outputs)
    assert sum(run.ledger.preemptions) > 500


def instance(make, stages=1) -> Server:
    parts = EngineParts(
        scheduler=SCHEDULERS["vllm"](Limits(2048, 64)),
        prices=linear_prices(),
        blocks=100,
        block_tokens=16,
        max_tokens=1600,
        replicas=1,
        ranks=stages,
    )
    ledger = Ledger(np.full(5, 100), np.full(5, 10))
    return make(Surroundings(Clock(), 0, ledger, StepLog(), None), parts)


def test_a_router_counts_the_queue_and_the_cache_of_all_micro_batches_once():
    for found in (instance(Instance), instance(PipelinedInstance, 3)):
        for index in range(5):
            found.submit(Request(index, 100))
        assert Lookout(found).load() == (500, 0, 16)
        found.cores[0].state.pool.take(7)
        assert Lookout(found).load() == (500, 7, 16)


def test_a_router_sees_what_a_state_says_of_itself():
    """An engine whose queue and blocks are elsewhere, such as the installed vLLM's, tells its load in its own way."""

    class Elsewhere(EngineState):
        def load(self):
            return 7, 3, 16

    found = instance(Instance)
    found.state = Elsewhere(100, 16)
    assert Lookout(found).load() == (7, 3, 16)


# --- times ---------------------------------------------------------------------------------------------


def flat_prices(step_ns: int = 40 * MS, host_ns: int = 0, sample_ns: int = 0) -> StepPrices:
    """Return prices of steps that all last as long."""
    plain = linear_prices(step_ns=step_ns, token_ns=0, context_ns=0.0, pair_ns=0.0)
    size = len(plain.sample_ns)
    return StepPrices(
        plain.token_ns, [sample_ns] * size, [0, *[host_ns] * (size - 1)], plain.decode_curve, plain.context_curve
    )


def piped(stages: int, **others: object) -> Deployment:
    return Deployment(make=PipelinedInstance, ranks=stages, **others)


@pytest.mark.parametrize("stages", [2, 4])
def test_a_request_alone_takes_the_time_of_whole_passes(stages):
    run = piped(stages, prices=flat_prices(host_ns=MS, sample_ns=3 * MS)).serve(OpenLoop([0]), [100], [5])
    assert run.ledger.first_token_ns[0] == 44 * MS
    assert run.ledger.finish_ns[0] == 5 * 44 * MS


@pytest.mark.parametrize(("stages", "chunks"), [(2, 1), (2, 5), (4, 3), (4, 9)])
def test_chunks_of_a_prompt_follow_each_other_through_the_stages(stages, chunks):
    """The classical fill and drain: k chunks leave p stages after (k + p - 1) stage times."""
    run = piped(stages, prices=flat_prices(), max_tokens=100, max_sequences=8).serve(OpenLoop([0]), [100 * chunks], [1])
    assert run.ledger.first_token_ns[0] == (chunks + stages - 1) * 40 * MS // stages


def test_as_many_micro_batches_as_stages_decode_at_once():
    """Prompts fill a step each, so that each is in another micro-batch; then a token comes every pass, of each."""
    stages, users = 4, 4
    settings_ = {"prices": flat_prices(), "max_tokens": 100, "max_sequences": 8}
    run = piped(stages, **settings_).serve_at_once([100] * users, [50] * users)
    finished = sorted(run.ledger.finish_ns)
    assert finished == [50 * 40 * MS + i * 10 * MS for i in range(users)]
    one = Deployment(**settings_).serve_at_once([100] * users, [50] * users)
    assert max(one.ledger.finish_ns) > 49 * 40 * MS + users * 40 * MS


def test_requests_that_came_together_stay_in_one_micro_batch():
    """vLLM deals nothing anew: what one step admits decodes together, and other stages rest meanwhile."""
    run = piped(2, prices=flat_prices()).serve_at_once([10] * 6, [20] * 6)
    logs = [core.log.table()["steps"].sum() for core in cores_of(run.instances)]
    assert logs == [20, 0]


def test_the_most_sequences_are_of_all_micro_batches_together():
    settings_ = {"prices": flat_prices(), "max_tokens": 100, "max_sequences": 2}
    run = piped(2, **settings_).serve_at_once([100] * 4, [10] * 4)
    admitted = sorted(run.ledger.admitted_ns)
    first_over = min(run.ledger.finish_ns)
    assert admitted[1] < first_over <= admitted[2]


def test_prompts_that_begin_alike_find_each_other_across_micro_batches():
    """The cache is one: what another micro-batch computed is found, as on an engine without stages."""
    rng = np.random.default_rng(7)
    identities, prompts, outputs = tree_of_prompts(rng, 60)
    arrivals = OpenLoop([i * 3_000 * MS for i in range(60)])
    settings_ = {"prices": flat_prices(), "caching": True, "identities": identities, "blocks": 10_000}
    found = [piped(3, **settings_), Deployment(**settings_)]
    hits = [each.serve(arrivals, prompts, outputs).ledger.cached_tokens.tolist() for each in found]
    assert hits[0] == hits[1]
    assert sum(hits[0]) > 0


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 1000), st.integers(0, 100)), min_size=1, max_size=30),
    st.integers(1, 6),
)
def test_stages_are_a_flow_shop_in_order(passes, stages):
    """Against the textbook recurrence over (pass, stage); no pass is faster than alone, none overtakes."""
    pipeline, now, free, last = PipelineStages(stages), 0, [0] * stages, 0
    for gap, layers, sampling in passes:
        now += gap
        left = pipeline.enter(now, layers + sampling, sampling)
        ready = now
        for stage in range(stages):
            part = layers * (stage + 1) // stages - layers * stage // stages + sampling * (stage == stages - 1)
            ready = free[stage] = max(ready, free[stage]) + part
        assert left == ready >= now + layers + sampling
        assert left >= last
        last = left


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(2, 4), st.integers(1, 30))
def test_stages_gain_at_most_their_number(users, stages, output):
    """Full stages are as many engines of one stage's chips, and a pass is no longer than it was."""
    load = Users(users, [0] * 20)
    rows = users + 20
    settings_ = {"prices": flat_prices(), "max_tokens": 64, "max_sequences": 8}
    one = Deployment(**settings_).serve(load, [64] * rows, [output] * rows)
    many = piped(stages, **settings_).serve(load, [64] * rows, [output] * rows)
    ends = [max(run.ledger.finish_ns) for run in (many, one)]
    assert ends[1] <= ends[0] * stages


# --- scenarios ------------------------------------------------------------------------------------------

FEW = {"workload.synthetic.requests": 120, "pool.0.cost_sources": ["roofline"], "pool.1.cost_sources": ["roofline"]}


def test_kv_leaves_the_stages_of_a_prompt_over_lanes_of_their_own():
    """The KV of each stage's layers is on its own chips; all of it arrives, and laws hold with prompts in pieces."""
    changes = FEW | {"pool.0.tensor_parallel": 1, "pool.0.pipeline_parallel": 4, "pool.0.replicas": 1}
    run = run_scenario(load_scenario("prefill-decode", changes))
    assert run.summary["completed"] == 120
    assert run.summary["transfers"]["count"] == 120


def test_stages_hold_what_one_group_of_as_many_chips_holds_and_serve_prompts_as_fast():
    """Where a step is full of prompts all stages work; their traffic is the hand-over alone."""
    pool = {"chip": "h100_sxm", "cost_sources": ["roofline"]}
    full = {"requests": 300, "arrivals": {"kind": "constant", "rate_per_s": 1000.0}}
    full |= {"prompt_tokens": {"kind": "fixed", "value": 2048}, "output_tokens": {"kind": "fixed", "value": 1}}
    found = []
    for layout in ({"tensor_parallel": 4}, {"pipeline_parallel": 4}):
        changes = {"pool": [pool | layout], "workload.synthetic": full, "model.name": "Qwen/Qwen3-32B"}
        run = run_scenario(load_scenario("quickstart", changes))
        found.append(run.summary)
    wide, deep = found
    blocks = [next(iter(summary["pools"].values()))["kv_blocks"] for summary in found]
    assert blocks[0] == pytest.approx(blocks[1], rel=0.1)
    assert deep["duration"] < 1.1 * wide["duration"]


def test_power_is_of_the_chips_there_are():
    pool = {"chip": "h100_sxm", "cost_sources": ["roofline"], "pipeline_parallel": 4}
    run = run_scenario(load_scenario("quickstart", {"pool": [pool], "workload.synthetic.requests": 100}))
    chips = run.summary["provisioned_power_w"]
    assert run.summary["chips"] == 4
    assert 0.1 * chips < run.summary["mean_power_w"] < chips
