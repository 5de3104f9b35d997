"""Decoding over pipeline stages: a round is the pass of the largest micro-batch, checked against a flow shop."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pricing import LIMITS, prefill_ns
from serving import Deployment, OpenLoop, linear_prices
from test_engine_macro_steps import assert_same, requests
from test_perfdb_compile import HOST, random_log

from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from perfdb.compile import compile_costs
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import step_operators
from perfdb.pipeline import RoundPrices
from perfdb.shares import time_by_origin
from perfdb.sources import source_chain
from simulator.build import build_pools
from simulator.scenario import load_scenario


def flow_shop_period(batches, stages, stage_ns, rounds=60):
    """Return the time per round of micro-batches that pass the stages in turn, one at a time per stage.

    ``stage_ns(batch, stage)`` is the time of a batch on a stage. Nothing is shared with the prices but their numbers.
    """
    free = [0] * stages
    ready = [0] * len(batches)
    ends = []
    for _ in range(rounds):
        for number, batch in enumerate(batches):
            for stage in range(stages):
                ready[number] = free[stage] = max(ready[number], free[stage]) + stage_ns(batch, stage)
        ends.append(ready[-1])
    return (ends[-1] - ends[rounds // 2 - 1]) / (rounds - rounds // 2)


def dealt(sequences, stages):
    return [sequences // stages + (i < sequences % stages) for i in range(min(stages, sequences))]


@given(st.integers(1, 200), st.integers(2, 8), st.integers(0, 10**6), st.integers(0, 10**4))
def test_a_round_of_equal_stages_is_the_pass_of_the_largest_micro_batch(sequences, stages, constant, each):
    """Exactly, whatever the sizes: the flow shop repeats itself every ``stages * slowest`` nanoseconds."""
    batches = dealt(sequences, stages)
    period = flow_shop_period(batches, stages, lambda batch, _: constant + each * batch)
    assert period == stages * (constant + each * -(-sequences // stages))


@given(st.integers(2, 200), st.integers(2, 6), st.integers(1, 1000), st.integers(0, 300))
def test_a_longer_last_stage_costs_at_most_what_decision_011_says(sequences, stages, layer, extra):
    batches = dealt(sequences, stages)
    period = flow_shop_period(batches, stages, lambda batch, stage: layer * batch + extra * (stage == stages - 1))
    priced = stages * layer * max(batches) + extra
    assert priced <= period <= priced + (stages - 1) * extra


def test_a_round_is_priced_by_its_largest_micro_batch():
    passes = linear_prices()
    prices = RoundPrices(passes, 3)
    for sequences in (1, 2, 3, 4, 7, 300):
        largest = -(-sequences // 3)
        assert prices.decode_ns(sequences, 70, 400) == passes.decode_ns(largest, 70, 400)
        assert prices.steps_covering(sequences, 70, 10**9, 900) == passes.steps_covering(largest, 70, 10**9, 900)


def test_fetched_sequences_are_dealt_and_a_recomputed_context_passes_whole():
    passes = linear_prices()
    prices = RoundPrices(passes, 2)
    assert prefill_ns(prices, *[(99, 1)] * 4, completed=4) == prefill_ns(passes, *[(99, 1)] * 2, completed=2)
    assert prefill_ns(prices, (0, 500), completed=1) == prefill_ns(passes, (0, 500), completed=1)
    assert prefill_ns(prices, (0, 500), (99, 1)) == prefill_ns(passes, (0, 500), (99, 1))


@settings(max_examples=60, deadline=None)
@given(requests, st.integers(2, 4), st.sampled_from([0, 5, 1000]))
def test_runs_of_rounds_equal_single_rounds(rows, stages, spare):
    rows = sorted(rows)
    found = [
        Deployment(
            prices=RoundPrices(linear_prices(), stages), decode_replicas=1, decode_blocks=30 + spare, max_sequences=64
        ).serve(OpenLoop([r[0] for r in rows]), [r[1] for r in rows], [r[2] for r in rows], macro_steps=macro)
        for macro in (True, False)
    ]
    assert_same(*found)


@pytest.mark.parametrize("stages", [2, 4])
def test_time_by_origin_adds_up_to_the_rounds(stages):
    step = step_operators(load_model("OPT-66B"), Layout(2, stages))
    costs = compile_costs(step, source_chain(load_chip("a100_80_sxm"), "vllm", ("roofline",)), LIMITS, HOST, stages)
    log = random_log(costs.prices)
    found = time_by_origin(costs, log)
    assert sum(found.values()) == pytest.approx(log["duration_ns"].sum(), rel=0.001)
    pure = log["prompts"] == 0
    rounds = {name: column[pure] for name, column in log.items()}
    host = HOST.step_ns + HOST.sequence_ns * -(-rounds["decodes"] // stages)
    assert time_by_origin(costs, rounds)["host"] == (host * rounds["steps"]).sum()


def test_stages_share_weights_and_cache():
    """Two stages of two chips hold about the KV of four chips, and a batch is served faster than on two."""
    pools = [
        {"name": "prefill", "stages": ["prefill"], "chip": "a100_80_sxm", "tensor_parallel": 4},
        {"name": "decode", "stages": ["decode"], "chip": "a100_80_sxm", "tensor_parallel": 2, "pipeline_parallel": 2},
    ]
    changes = {"model.name": "OPT-66B", "pool": pools, "network.topology": "hgx_a100"}
    changes |= {"workload.synthetic.prompt_tokens": {"kind": "fixed", "value": 500}}
    wide, piped = build_pools(load_scenario("prefill-decode", changes))
    assert piped.chips == 4
    assert piped.parts.blocks == pytest.approx(wide.parts.blocks, rel=0.05)
    passes = piped.costs.passes
    assert piped.costs.prices.decode_ns(64, 800) == passes.decode_ns(32, 800) < passes.decode_ns(64, 800)


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"pipeline_parallel": 2, "engine": "sglang"}, "computes prompts"),
        ({"stages": ["decode"], "pipeline_parallel": 3}, "does not divide the 64 layers"),
        ({"pipeline_parallel": 2, "data_parallel": 2}, "beside data_parallel"),
        ({"pipeline_parallel": 2, "engine_options": {"kv_offloading_size": 8.0}}, "and kv_offloading_size"),
    ],
)
def test_what_cannot_be_right_is_refused(pool, said):
    pools = [{"stages": ["prefill"], "chip": "h200_sxm"}] if "stages" in pool else []
    with pytest.raises(ScenarioError, match=said):
        build_pools(load_scenario("quickstart", {"pool": [*pools, {"chip": "h200_sxm", **pool}]}))
