"""``expert_parallel`` of a pool: what it must divide, and what it does to memory and time."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.memory import MemoryBudget, plan_memory
from simulator.build import build_pools
from simulator.scenario import load_scenario

BUDGET = MemoryBudget(utilization=0.9, step_tokens=8192, step_sequences=256, block_tokens=16, graphs=0)


def built(model, **pool):
    pool = {"chip": "h200_sxm", "cost_sources": ["roofline"], **pool}
    return build_pools(load_scenario("quickstart", {"model.name": str(model), "pool": [pool]}))[0]


@pytest.mark.parametrize("expert", [3, 8])
def test_expert_parallelism_divides_the_chips_that_share_a_layer(expert):
    said = "which does not divide the 4 chips that share a layer; use 1 or 2 or 4"
    with pytest.raises(ScenarioError, match=rf"^pool\.pool0\.expert_parallel is {expert}, {said}$"):
        built("Qwen3-30B-A3B", tensor_parallel=4, expert_parallel=expert)


def test_a_model_without_experts_has_none_to_deal():
    with pytest.raises(ScenarioError, match=r"expert_parallel is 2, but Qwen/Qwen3-8B has no experts; leave it out"):
        built("Qwen3-8B", expert_parallel=2)


def small(folder, **changes):
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 1024,
        "moe_intermediate_size": 516,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_experts": 12,
        "num_experts_per_tok": 2,
        "intermediate_size": 1024,
        "vocab_size": 32000,
        "max_position_embeddings": 20_000,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_chips_that_cannot_share_an_expert_can_hold_different_ones(tmp_path):
    with pytest.raises(ScenarioError, match=r"leaves 8 chips to share one of 516 columns; use 2 or 4$"):
        built(small(tmp_path), tensor_parallel=8)
    assert built(small(tmp_path), tensor_parallel=8, expert_parallel=4).layout == Layout(8, expert=4)


def test_second_copies_fill_chips_evenly_and_take_memory(tmp_path):
    with pytest.raises(ScenarioError, match=r"does not divide the 12 experts of .* and 3 redundant ones, or"):
        built(small(tmp_path), tensor_parallel=8, expert_parallel=2, redundant_experts=3)
    layout = {"tensor_parallel": 8, "expert_parallel": 8}
    assert built(small(tmp_path, moe_intermediate_size=512), **layout, redundant_experts=4).layout.redundant == 4
    plain, more = (built("Qwen3-30B-A3B", **layout, redundant_experts=n) for n in (0, 64))
    experts = load_model("Qwen3-30B-A3B").expert_bytes / 8
    assert more.memory.weights - plain.memory.weights == pytest.approx(experts / 2, rel=0.01)


def test_experts_that_cannot_be_dealt_are_named(tmp_path):
    with pytest.raises(ScenarioError, match=r"does not divide the 12 experts of .*; use 2 or 4$"):
        built(small(tmp_path), tensor_parallel=8, expert_parallel=8)
    with pytest.raises(ScenarioError, match=r"use fewer chips$"):
        built(small(tmp_path, num_experts=3, moe_intermediate_size=515), tensor_parallel=2)


def test_many_sequences_decode_faster_where_chips_hold_whole_experts():
    """Whole experts are read as often, and the busiest chip waits for none of narrow columns: the bound is the same."""
    cut, dealt = (built("Qwen3-30B-A3B", tensor_parallel=4, expert_parallel=n) for n in (1, 4))
    assert dealt.parts.blocks == pytest.approx(cut.parts.blocks, rel=0.05)
    assert dealt.costs.prices.decode_ns(64, 1000) == pytest.approx(cut.costs.prices.decode_ns(64, 1000), rel=0.1)


# --- memory ------------------------------------------------------------------------------------------


@given(tensor=st.sampled_from([1, 2, 4]), data=st.sampled_from([1, 2, 4]))
def test_chips_together_hold_every_expert_once_and_the_rest_once_per_rank(tensor, data):
    model, chip = load_model("Qwen3-30B-A3B"), load_chip("gb300")
    plan = plan_memory(model, Layout(tensor, 1, data, tensor * data), chip, BUDGET)
    rest = model.weight_bytes - model.expert_bytes - model.whole_bytes
    held = data * rest + model.expert_bytes + tensor * data * model.whole_bytes
    assert plan.weights * tensor * data == pytest.approx(held, rel=1e-6)


def test_rows_sorted_by_expert_take_memory_as_they_are_chosen():
    """Every choice of a token has a row of its own: eight of them here, of the hidden width, beside what is inside."""
    model = load_model("Qwen3-30B-A3B")
    (part,) = {group.feed_forward for group in model.stack}
    assert part.working(2048, Layout(1)) == 8 * (2048 + 768)
    assert part.working(2048, Layout(1, 1, 4, 4)) == 4 * part.working(2048, Layout(1))
    assert part.working(2048, Layout(4)) == 8 * (2048 + 768 // 4)
