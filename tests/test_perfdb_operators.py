"""The operators of a step hold every weight once, however the model is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perfdb.expert_operators import RoutedExperts
from perfdb.layout import Layout
from perfdb.load_model import load_model, presets
from perfdb.operators import AllReduce, Elementwise, Gemm, LatentProjections, Overlapped, PointToPoint, step_operators
from perfdb.parts import GroupedQuery, Mlp

CUTS = (1, 2, 4, 8)


def dense(group):
    return isinstance(group.mixer, GroupedQuery) and isinstance(group.feed_forward, Mlp)


DENSE = tuple(name for name in presets() if all(dense(group) for group in load_model(name).stack))


def divides(model, tensor):
    kv_heads = [group.mixer.kv_heads for group in model.stack if isinstance(group.mixer, GroupedQuery)]
    return model.indivisible(tensor) is None and all(part % tensor == 0 for part in (model.vocab, *kv_heads))


CASES = [(name, tensor) for name in presets() for tensor in CUTS if divides(load_model(name), tensor)]


def gemms(operators):
    return [operator for operator in operators if isinstance(operator, Gemm)]


def weights(operators):
    """Return the weights that one chip holds."""
    found = 0
    for operator in operators:
        if isinstance(operator, Gemm):
            found += operator.n * operator.k * operator.count
        elif isinstance(operator, LatentProjections):
            found += operator.count * weights(operator.gemms)
        elif isinstance(operator, RoutedExperts):
            found += operator.held * operator.weights_of_one * operator.count
        elif isinstance(operator, Overlapped):
            found += operator.count * weights((operator.experts, *operator.beside))
    return found


def on_every_chip(model):
    """Return the weights that are not split: what picks experts, and projections into latents."""
    matrices = [(group.count, role, n) for group in model.stack for role, n in group.matrices(model.hidden)]
    return sum(count * n for count, role, n in matrices if role in {"latent", "router"})


@pytest.mark.parametrize(("name", "tensor"), CASES)
def test_projections_of_all_chips_multiply_each_token_with_every_weight(name, tensor):
    model = load_model(name)
    operators = step_operators(model, Layout(tensor))
    # Two operations per weight and token: the same law in FLOPs.
    # A gate of one column is no product of matrices.
    gates = sum(group.count * getattr(group.feed_forward, "shared_gate", 0) for group in model.stack) * model.hidden
    held = model.matrix_parameters - gates + (tensor - 1) * (on_every_chip(model) - gates)
    assert tensor * weights(operators.per_token) == held
    assert tensor * weights(operators.per_sample) == model.vocab * model.hidden


def test_most_presets_divide_among_eight_chips():
    assert sum(tensor == 8 for name, tensor in CASES if name in DENSE) >= 0.75 * len(DENSE)


@pytest.mark.parametrize("tensor", [4, 8, 16])
def test_with_more_chips_than_kv_heads_each_chip_holds_one(tensor):
    model = load_model("Qwen3-32B")
    (group,) = model.stack
    model = replace(model, stack=(replace(group, mixer=replace(group.mixer, kv_heads=2)),))
    operators = step_operators(model, Layout(tensor))
    replicated = (
        model.layers * 2 * (tensor - model.stack[0].mixer.kv_heads) * model.stack[0].mixer.head_dim * model.hidden
    )
    assert tensor * weights(operators.per_token) == model.matrix_parameters + replicated
    for attention in (*operators.context, *operators.generation):
        assert (attention.heads, attention.kv_heads) == (model.stack[0].mixer.heads // tensor, 1)


@pytest.mark.parametrize("tensor", CUTS)
def test_attention_of_all_chips_reads_every_cached_byte(tensor):
    for kv_cache in ("bf16", "fp8"):
        model = load_model("Llama-3.1-70B", kv_cache=kv_cache)
        (attention,) = step_operators(model, Layout(tensor)).generation
        assert tensor * attention.count * attention.kv_bytes_per_token == model.kv_bytes_per_token
        assert tensor * attention.heads == model.stack[0].mixer.heads
        assert attention.head_dim == model.stack[0].mixer.head_dim


@pytest.mark.parametrize("name", DENSE)
def test_every_projection_and_attention_runs_once_per_layer(name):
    model = load_model(name)
    operators = step_operators(model, Layout(1))
    assert [gemm.name for gemm in gemms(operators.per_token)] == ["qkv", "attention_out", "mlp_in", "mlp_out"]
    assert {gemm.count for gemm in gemms(operators.per_token)} == {model.layers}
    assert [kernel.count for kernel in (*operators.context, *operators.generation)] == [model.layers] * 2
    counts = {op.name: op.count for op in operators.per_token if isinstance(op, Elementwise)}
    assert counts == {
        "embedding": 1,
        "norm": model.family.norms_per_layer * model.layers,
        "rotary": model.layers,
        "activation": model.layers,
        "final_norm": 1,
    }


def test_projections_have_the_weight_format_and_the_head_keeps_16_bits():
    operators = step_operators(load_model("Qwen3-32B", weights="fp8_block"), Layout(2))
    assert {gemm.weights for gemm in gemms(operators.per_token)} == {"fp8_block"}
    assert {gemm.weights for gemm in gemms(operators.per_sample)} == {"bf16"}


def test_tensor_parallelism_adds_two_all_reduces_per_layer_and_one_for_the_embedding():
    model = load_model("Llama-3.1-8B")
    found = [op for op in step_operators(model, Layout(4)).per_token if isinstance(op, AllReduce)]
    assert [(op.width, op.chips, op.count) for op in found] == [(4096, 4, 64), (4096, 4, 1)]
    assert not [op for op in step_operators(model, Layout(1)).per_token if isinstance(op, AllReduce)]


@pytest.mark.parametrize("tensor", [1, 4])
@pytest.mark.parametrize("stages", [2, 4])
def test_pipeline_parallelism_adds_hand_overs_and_nothing_else(tensor, stages):
    model = load_model("Llama-3.1-8B")
    alone, piped = (step_operators(model, Layout(tensor, pipeline)) for pipeline in (1, stages))
    added = [op for op in piped.per_token if op not in alone.per_token]
    assert added == [PointToPoint("hand_over", 2 * model.hidden, stages - 1, tensor)]
    assert [op for op in piped.per_token if op not in added] == list(alone.per_token)
    assert replace(piped, per_token=alone.per_token) == alone
    assert Layout(tensor, stages).chips == tensor * stages


def test_a_norm_reads_and_writes_two_rows_and_an_activation_reads_what_the_mlp_made():
    model = load_model("Llama-3.1-8B")
    moved = {
        op.name: op.bytes_per_row for op in step_operators(model, Layout(2)).per_token if hasattr(op, "bytes_per_row")
    }
    assert moved["norm"] == 4 * 2 * model.hidden
    assert moved["activation"] == 2 * (2 + 1) * model.stack[0].feed_forward.intermediate // 2
    assert moved["embedding"] == moved["final_norm"] == 2 * 2 * model.hidden


@pytest.mark.parametrize(
    ("name", "tensor", "launched"),
    [("Llama-2-70B", 1, 12), ("Llama-2-70B", 8, 14), ("OPT-13B", 1, 13), ("OPT-66B", 4, 15), ("BLOOM-176B", 8, 15)],
)
def test_an_eager_host_launches_so_many_operators_per_layer(name, tensor, launched):
    """Norms, projections, rotation, KV write, attention, activation, sums; biases apart; all-reduces of many chips."""
    model = load_model(name)
    assert step_operators(model, Layout(tensor)).launches == launched * model.layers
