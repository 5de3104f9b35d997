"""Speculative decoding: what acceptance makes of a step, and what tokens cost by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from perfdb.compile import Drafter, HostTime, StepLimits, compile_costs
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import draft_operators, step_operators
from perfdb.shares import time_by_origin
from perfdb.sources import source_chain
from perfdb.speculation import Speculation
from simulator import load_scenario, simulate
from simulator.build import build_pools
from simulator.run import run_scenario

MODEL, CHIP, LIMITS = load_model("Qwen3-8B"), load_chip("h200_sxm"), StepLimits(2048, 64, 8192)
CHAIN = source_chain(CHIP, "vllm", ["roofline"])
HOST = HostTime(1_000_000, 10_000)


def costs(speculation: Speculation | None = None, layout: Layout | None = None):
    layout = layout or Layout()
    drafter = speculation and Drafter(speculation, draft_operators(MODEL, layout), CHIP)
    return compile_costs(step_operators(MODEL, layout), CHAIN, LIMITS, HOST, 1, drafter)


def scenario(speculation: dict[str, object] | None = None, **changes: object):
    pool = {"chip": "h200_sxm", "cost_sources": ["roofline"], **changes}
    if speculation:
        pool["speculation"] = speculation
    return load_scenario("quickstart", {"model.name": "Qwen3-8B", "pool": [pool]})


@given(st.integers(1, 8), st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_between_none_and_all_drafts_are_accepted(drafts, shares):
    accepted = Speculation.accepting(drafts, shares).accepted
    assert 0 <= accepted <= drafts
    assert accepted <= Speculation.accepting(drafts + 1, shares).accepted + 1e-12
    assert Speculation.accepting(drafts, [1.0]).accepted == drafts
    assert accepted <= sum(shares[0] for _ in range(drafts)) + 1e-9


def test_drafts_are_accepted_as_long_as_those_before_were():
    assert Speculation.accepting(3, [0.8]).accepted == pytest.approx(0.8 + 0.64 + 0.512)
    assert Speculation.accepting(3, [0.9, 0.5]).accepted == pytest.approx(0.9 + 0.45 + 0.225)
    assert Speculation.accepting(1, [0.7, 0.1]).tokens_per_step == pytest.approx(1.7)


@given(st.integers(1, 64), st.integers(0, 8000), st.integers(1, 3), st.floats(0, 1))
def test_a_token_costs_the_verification_and_the_drafts_of_its_part_of_a_step(sequences, context, drafts, share):
    speculation = Speculation.accepting(drafts, [share])
    priced = costs(speculation)
    rows = sequences * speculation.rows
    passes, draft = priced.passes, priced.prices.draft
    verified = passes.token_ns[rows] + passes.sample_ns[rows] + passes.host_ns[sequences]
    verified += passes.generation_curve(sequences).between(context, context + 1)
    # The first pass takes all tokens of the step in.
    whole = verified + drafts * draft.decode_ns(sequences, context) + draft.token_ns[rows] - draft.token_ns[sequences]
    found = priced.prices.decode_ns(sequences, context)
    assert found == pytest.approx(whole / speculation.tokens_per_step, rel=1e-3, abs=20)
    assert passes.token_ns[rows] == pytest.approx(costs().prices.token_ns[rows], abs=1) if rows <= 2048 else True


def test_what_drafts_takes_all_tokens_of_a_step_in_first():
    speculation = Speculation.accepting(7, [0.8])
    priced = costs(speculation)
    passes, draft = priced.passes, priced.prices.draft
    verified = passes.token_ns[512] + passes.sample_ns[512] + passes.host_ns[64]
    verified += passes.generation_curve(64).between(1000, 1001)
    taking_in = (
        priced.prices.decode_ns(64, 1000) * speculation.tokens_per_step - verified - 7 * draft.decode_ns(64, 1000)
    )
    assert taking_in == pytest.approx(draft.token_ns[512] - draft.token_ns[64], rel=0.02)
    assert taking_in > 0.2 * draft.token_ns[64]


def test_many_tokens_of_a_sequence_read_its_cache_once():
    plain, verified = costs(), costs(Speculation(3, 2.0))
    # Few queries share a key: attention of Qwen3-8B stays bound by memory.
    one, four = (c.passes.generation_curve(32).between(4000, 4001) for c in (plain, verified))
    assert one <= four < 1.2 * one


def test_nothing_accepted_is_dearer_than_no_drafts_and_all_accepted_is_cheaper():
    plain = costs().prices.decode_ns(8, 1000)
    none, every = (costs(Speculation.accepting(2, [share])).prices.decode_ns(8, 1000) for share in (0.0, 1.0))
    assert every < plain < none


def test_beside_prompts_sequences_get_all_tokens_of_the_step():
    prices = costs(Speculation.accepting(2, [0.8])).prices
    chunk = {"prompts": 1, "pairs": 1000**2, "reach": 1000, "context": 2000}
    alone = prices.mixed_ns(tokens=1000, samples=1, decodes=0, **chunk)
    mixed = prices.mixed_ns(tokens=1008, samples=9, decodes=8, **chunk)
    later = 1.44 * prices.decode_ns(8, 2000)
    # The step itself, and then its other tokens, take as long as the real step, which is longer than the prompt alone.
    assert mixed + later > alone
    assert mixed < alone + prices.decode_ns(8, 2000) * 2.44


def test_origins_add_up_to_the_time():
    priced = costs(Speculation.accepting(1, [0.7]))
    duration = priced.prices.decode_ns(8, 1000, 50)
    row = {"steps": 50, "decodes": 8, "context": 1000, "duration_ns": duration}
    names = ("tokens", "prompts", "completed", "pairs", "reach")
    found = time_by_origin(priced, {name: np.array([row.get(name, 0)]) for name in (*row, *names)})
    assert sum(found.values()) == pytest.approx(duration)
    assert found["host"] > 0
    assert found["roofline"] > found["host"]


# --- pools ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_a_run_of_steps_is_the_same_taken_at_once_or_one_by_one(engine):
    asked = scenario({"draft_tokens": 2, "acceptance": [0.8, 0.6]}, engine=engine)
    once, singly = (run_scenario(asked, macro_steps=macro) for macro in (True, False))
    assert once.requests.equals(singly.requests)
    assert once.summary["steps"] == singly.summary["steps"]
    assert once.summary["events"] < singly.summary["events"]


def test_accepted_drafts_shorten_the_time_between_tokens_and_rejected_ones_lengthen_it():
    plain = simulate(scenario()).summary["mean_tpot_ms"]
    good, bad = (
        simulate(scenario({"draft_tokens": 1, "acceptance": share})).summary["mean_tpot_ms"] for share in (0.9, 0.0)
    )
    assert good < 0.8 * plain < plain < bad


def test_no_drafts_are_no_speculation():
    plain, off = (simulate(scenario(s)) for s in (None, {"draft_tokens": 0, "acceptance": 0.5}))
    assert plain.requests.equals(off.requests)


def test_the_layer_that_drafts_takes_memory():
    plain, more = (build_pools(scenario(s))[0] for s in (None, {"draft_tokens": 1, "acceptance": 0.8}))
    layer = MODEL.with_drafting_layer.weight_bytes - MODEL.weight_bytes
    assert more.memory.weights - plain.memory.weights == pytest.approx(layer, rel=0.01)
    assert more.memory.block == plain.memory.block * 37 // 36
    assert more.parts.blocks < plain.parts.blocks
    assert replace(MODEL.drafting_layer, stack=MODEL.stack) == replace(MODEL, encoder=None)


@pytest.mark.parametrize(
    ("pool", "sentence"),
    [
        ({"engine": "orca"}, "engine 'orca' does not decode speculatively here; expected vllm, sglang"),
        ({"stages": ["decode"], "pipeline_parallel": 2}, "speculation and pipeline_parallel"),
        ({"speculation": {"draft_tokens": -1, "acceptance": 0.5}}, "draft_tokens' is -1"),
        ({"speculation": {"draft_tokens": 1, "acceptance": 1.5}}, "acceptance"),
        ({"speculation": {"draft_tokens": 1}}, "acceptance' is missing"),
    ],
)
def test_impossible_speculation_is_one_sentence(pool, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        scenario(**{"speculation": {"draft_tokens": 1, "acceptance": 0.8}, **pool})
