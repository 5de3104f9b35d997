"""KV blocks against what vLLM logged, and the laws of the memory plan."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import SHARED
from published_kv import LOGS, found_tokens

from hardware.catalogue import load_chip
from hardware.errors import CapacityError
from perfdb.layout import Layout
from perfdb.load_model import load_model, model_from_config, presets
from perfdb.memory import DRIVER_RESERVE_BYTES, GRAPH_BYTES_PER_LAYER, LIBRARY_BYTES, MemoryBudget, plan_memory
from simulator.engines import ENGINES

BUDGET = MemoryBudget(utilization=0.9, step_tokens=2048, step_sequences=128, block_tokens=16, graphs=0)
CODE_LLAMA_34B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 22016,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 16384,
}
MODELS = {
    "meta-llama/Llama-2-7b-hf": load_model("Llama-2-7B"),
    "meta-llama/Llama-2-70b-hf": load_model("Llama-2-70B"),
    "mistralai/Mixtral-8x7B-v0.1": load_model("Mixtral-8x7B"),
    "codellama/CodeLlama-34b-Instruct-hf": model_from_config("CodeLlama-34B", CODE_LLAMA_34B),
    "meta-llama/Llama-3.1-8B": load_model("Llama-3.1-8B"),
}


def measured(name):
    path = SHARED / "validation" / name
    if not path.is_file():
        pytest.skip(f"the shared {name} is not beside this checkout")
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["model"] in MODELS and row["kv_blocks"]]


def found_blocks(engine, chip, row):
    """Return the blocks we find for a measured case, started as it was, over those its log shows."""
    engine, chip, model, layout = ENGINES[engine], load_chip(chip), MODELS[row["model"]], Layout(int(row["tp"]))
    options = engine.options(
        gpu_memory_utilization=float(row["gpu_mem_util"]),
        max_num_batched_tokens=int(row["max_num_batched_tokens"]),
        max_num_seqs=int(row["max_num_seqs"]),
        block_size=int(row["block_size"]),
    )
    plan = engine.filled(options, chip, model.max_tokens, "pool", layout).plan(prefills=True)
    return plan_memory(model, layout, chip, engine.memory_budget(plan)).blocks / float(row["kv_blocks"])


# --- against measurements ----------------------------------------------------------------------------


def test_blocks_are_within_one_percent_of_what_vllm_logged_on_h100():
    rows = measured("blis_training_vllm_h100.csv")
    assert {row["model"] for row in rows} == set(MODELS) - {"meta-llama/Llama-3.1-8B"}
    for row in rows:
        assert found_blocks("vllm@0.15", "h100_sxm", row) == pytest.approx(1, rel=0.01)


def test_blocks_are_within_two_percent_of_what_vllm_logged_on_a_small_card():
    rows = [row for row in measured("llmservingsim_bench.csv") if row["gpu"] == "RTX4090"]
    assert len(rows) == 1
    assert found_blocks("vllm@0.19", "rtx_4090", rows[0]) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("log", LOGS, ids=lambda log: f"{log.engine}-{log.model}-{log.chip}")
def test_the_cache_is_as_large_as_the_engine_logged(log):
    assert found_tokens(log) == pytest.approx(log.tokens, rel=log.within)


# --- laws --------------------------------------------------------------------------------------------

budgets = st.builds(
    MemoryBudget,
    utilization=st.floats(0.05, 1.0),
    step_tokens=st.integers(1, 32_768),
    step_sequences=st.integers(1, 2048),
    block_tokens=st.sampled_from([8, 16, 32, 64]),
    graphs=st.integers(0, 100),
)
layouts = st.builds(Layout, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]))
chips = st.sampled_from(["h200_sxm", "h100_sxm", "l4", "b200_sxm", "rtx_4090"]).map(load_chip)
models = st.sampled_from(["Llama-3.1-8B", "Qwen3-32B", "Llama-3.1-70B", "OPT-13B", "Qwen2.5-3B"]).map(load_model)


def blocks_of(model, layout, chip, budget):
    try:
        return plan_memory(model, layout, chip, budget).blocks
    except CapacityError:
        return 0


@given(models, layouts, chips, budgets)
def test_the_parts_of_a_plan_fill_the_budget_up_to_one_block(model, layout, chip, budget):
    if not blocks_of(model, layout, chip, budget):
        return
    plan = plan_memory(model, layout, chip, budget)
    taken = plan.weights + plan.activations + plan.collectives + plan.context + plan.graphs
    assert 0 <= plan.budget - taken - plan.blocks * plan.block < plan.block
    assert plan.budget == int((chip.visible_memory_bytes - DRIVER_RESERVE_BYTES) * budget.utilization)
    assert plan.context == LIBRARY_BYTES
    assert plan.graphs == budget.graphs * -(-model.layers // layout.pipeline) * GRAPH_BYTES_PER_LAYER


@given(models, layouts, chips, budgets, st.floats(0, 0.5))
def test_more_memory_or_smaller_steps_never_leave_fewer_blocks(model, layout, chip, budget, more):
    blocks = blocks_of(model, layout, chip, budget)
    assert blocks_of(model, layout, chip, replace(budget, utilization=budget.utilization + more)) >= blocks
    assert blocks_of(model, layout, chip, replace(budget, step_tokens=budget.step_tokens // 2 + 1)) >= blocks
    assert blocks_of(model, layout, chip, replace(budget, step_sequences=budget.step_sequences // 2 + 1)) >= blocks
    assert blocks_of(model, layout, chip, replace(budget, graphs=0)) >= blocks
    assert blocks_of(replace(model, weights="fp8"), layout, chip, budget) >= blocks
    assert blocks_of(replace(model, kv_cache="fp8"), layout, chip, budget) >= blocks


@pytest.mark.parametrize("name", tuple(presets()))
@pytest.mark.parametrize("chip", ["h200_sxm", "h100_sxm", "l4"])
def test_more_chips_never_hold_fewer_blocks(name, chip):
    model, memory = load_model(name), load_chip(chip)
    tensors = [tensor for tensor in (1, 2, 4, 8, 16) if model.indivisible(tensor) is None]
    blocks = [blocks_of(model, Layout(tensor), memory, BUDGET) for tensor in tensors]
    assert blocks == sorted(blocks)


@given(models, layouts)
def test_the_weights_of_all_chips_are_at_least_the_model(model, layout):
    plan = plan_memory(model, layout, load_chip("gb300"), replace(BUDGET, utilization=1.0))
    assert plan.weights * layout.chips >= model.weight_bytes * (1 - 1e-6) - layout.chips
    if layout.pipeline == 1:
        assert plan.weights == model.weight_bytes // layout.tensor


@given(models, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 16, 32]))
def test_a_block_holds_the_kv_of_its_tokens(model, tensor, block_tokens):
    budget = replace(BUDGET, block_tokens=block_tokens, utilization=1.0)
    plan = plan_memory(model, Layout(tensor), load_chip("gb300"), budget)
    copies = max(1, tensor // model.stack[0].mixer.kv_heads)
    assert plan.block * tensor == copies * block_tokens * model.kv_bytes_per_token


# --- what does not fit -------------------------------------------------------------------------------


def refusal(name, chip, tensor=1, budget=BUDGET):
    with pytest.raises(CapacityError) as problem:
        plan_memory(load_model(name), Layout(tensor), load_chip(chip), budget)
    text = str(problem.value)
    assert "\n" not in text
    assert text.startswith(load_model(name).name)
    assert f"at tensor_parallel = {tensor}, but {chip} leaves" in text
    return text


@pytest.mark.parametrize(
    ("name", "chip", "tensor", "budget"),
    [
        ("Llama-3.1-70B", "h100_sxm", 1, BUDGET),
        ("Llama-3.1-70B", "l4", 1, BUDGET),
        ("Llama-3.1-70B", "l4", 4, BUDGET),
        ("Llama-3.1-405B", "h200_sxm", 4, BUDGET),
        ("Qwen3-32B", "h100_sxm", 1, replace(BUDGET, utilization=0.8, step_tokens=32_768)),
        ("Llama-3.1-8B", "l4", 1, replace(BUDGET, step_tokens=131_072)),
        ("Qwen2.5-7B", "l4", 1, replace(BUDGET, utilization=0.6)),
    ],
)
def test_a_model_that_does_not_fit_is_told_the_least_tensor_parallelism_that_does(name, chip, tensor, budget):
    found = re.search(r"use tensor_parallel = (\d+),", refusal(name, chip, tensor, budget))
    advised = int(found.group(1))
    model = load_model(name)
    assert advised > tensor
    assert model.stack[0].mixer.heads % advised == 0
    assert blocks_of(model, Layout(advised), load_chip(chip), budget) >= 1
    assert blocks_of(model, Layout(advised // 2), load_chip(chip), budget) == 0


@pytest.mark.parametrize(("name", "chip", "utilization"), [("Falcon-180B", "l4", 0.9), ("Llama-3.1-8B", "l4", 0.02)])
def test_a_model_no_tensor_parallelism_can_fit_is_told_so(name, chip, utilization):
    text = refusal(name, chip, 8, replace(BUDGET, utilization=utilization))
    assert "use a larger chip" in text


def test_a_refusal_names_no_more_memory_than_the_chip_has():
    budget = MemoryBudget(0.9, 8192, 256, 32, 0, of_free=True)
    with pytest.raises(CapacityError) as refused:
        plan_memory(load_model("deepseek-ai/DeepSeek-V3"), Layout(1), load_chip("h200_sxm"), budget)
    found = re.search(r"leaves the engine ([\d.]+) GB", str(refused.value))
    assert found is not None
    assert float(found[1]) * 1e9 < load_chip("h200_sxm").visible_memory_bytes


def test_an_instance_that_holds_the_encoder_has_less_room_for_kv():
    model, chip = load_model("Qwen2.5-VL-7B"), load_chip("h100_sxm")
    both, alone = (plan_memory(model, Layout(2), chip, replace(BUDGET, encoder=held)) for held in (True, False))
    assert both.weights - alone.weights == model.encoder.weight_bytes
    assert alone.weights == model.weight_bytes // 2
    assert both.blocks < alone.blocks
    cut = plan_memory(model, Layout(2), chip, replace(BUDGET, encoder_tensor=2))
    assert cut.weights - alone.weights == model.encoder.weight_bytes // 2
    text = load_model("Qwen2.5-7B")
    assert plan_memory(text, Layout(), chip, BUDGET) == plan_memory(
        text, Layout(), chip, replace(BUDGET, encoder=False)
    )


def test_a_large_run_of_the_encoder_may_hold_more_than_a_step():
    model, chip = load_model("Qwen2.5-VL-7B"), load_chip("h100_sxm")
    plan = plan_memory(model, Layout(), chip, replace(BUDGET, encoder_patches=65_536))
    # The residual and the rows into the MLP, gate, up and product: 16 bits each.
    assert plan.activations == 2 * (2 * 1280 + 3 * 3420) * 65_536
    assert plan_memory(model, Layout(), chip, BUDGET).activations < plan.activations


def test_an_encoder_alone_leaves_its_room_to_features():
    model, chip = load_model("Qwen3-VL-8B"), load_chip("h100_sxm")
    plan = plan_memory(model, Layout(), chip, replace(BUDGET, language=False, encoder_patches=16_384))
    assert plan.weights == model.encoder.weight_bytes
    assert (plan.collectives, plan.graphs) == (0, 0)
    assert plan.block == 16 * model.encoder.feature_bytes(1)
    taken = plan.weights + plan.activations + plan.context
    assert 0 <= plan.budget - taken - plan.blocks * plan.block < plan.block


@pytest.mark.parametrize(
    ("model", "changes", "match"),
    [
        ("Qwen3-8B", {}, "Qwen/Qwen3-8B has no encoder; expected a multimodal model for the stage encode"),
        (
            "InternVL3-78B",
            {"utilization": 0.1},
            r"needs 11\.4 GB of weights .* leaves the engine 8\.5 GB; use a larger",
        ),
    ],
)
def test_an_encoder_that_is_not_there_or_does_not_fit_is_one_sentence(model, changes, match):
    with pytest.raises(CapacityError, match=match):
        plan_memory(load_model(model), Layout(), load_chip("h100_sxm"), replace(BUDGET, language=False, **changes))
