"""Layers of experts: the laws of their operators, and where their prices come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import needs_tables

from hardware.catalogue import load_chip
from perfdb.audit import audit_table, table_files
from perfdb.estimate import Estimate, Origin
from perfdb.expert_operators import RoutedExperts
from perfdb.layout import Layout
from perfdb.load_model import load_model, model_from_config, presets
from perfdb.operators import AllReduce, Collective, Gemm, Overlapped, step_operators
from perfdb.parts import GroupedQuery
from perfdb.power_cap import capped_chain
from perfdb.roofline import EXPERTS_FLOOR_NS, RooflineSource
from perfdb.screening import Verdict
from perfdb.silicon import SiliconSource
from perfdb.sources import SourceChain, source_chain
from perfdb.speed_of_light import experts_bound, row_bound
from perfdb.step_work import step_work

MIXTURES = tuple({model.experts: model.name for model in map(load_model, presets()) if model.experts}.values())
#: Those whose attention is projected at once, in every layer.
PLAIN = tuple(name for name in MIXTURES if all(isinstance(g.mixer, GroupedQuery) for g in load_model(name).stack))
SHARED = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 1024,
    "moe_intermediate_size": 512,
    "intermediate_size": 2048,
    "shared_expert_intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_experts": 64,
    "num_experts_per_tok": 4,
    "vocab_size": 32000,
}
H200 = load_chip("h200_sxm")
LAYER = RoutedExperts("experts", 4096, 1536, 128, 8, "fp8_block")


def at(*rows):
    return np.array(rows, np.int64)


def parts(operators, kind):
    """Return the operators of a kind with how often each runs, those that run beside others too."""
    found = [(one, one.count) for one in operators if isinstance(one, kind)]
    for both in operators:
        if isinstance(both, Overlapped):
            found += [(one, both.count) for one in (both.experts, *both.beside) if isinstance(one, kind)]
    return found


layouts = st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4, 8])).filter(
    lambda cut: cut[0] * cut[1] % cut[2] == 0
)


# --- laws --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
@given(cut=layouts, tokens=st.integers(1, 5000))
def test_the_chips_of_an_instance_multiply_a_token_with_the_weights_it_passes(name, cut, tokens):
    """Two operations per active weight and token, and a router on every chip."""
    model, (tensor, data, expert) = load_model(name), cut
    layout = Layout(tensor, 1, data, expert)
    flops = 0.0
    for operator in step_operators(model, layout).per_token:
        bound = row_bound(H200, operator, at(tokens))
        if bound is not None:
            weights = operator.weights if hasattr(operator, "weights") else operator.experts.weights
            peak = H200.peak_flops("fp8" if weights.startswith("fp8") else "bf16")
            flops += operator.count * bound.compute_ns[0] * peak / 1e9
    routers = sum(
        group.count * n for group in model.stack for role, n in group.matrices(model.hidden) if role == "router"
    )
    idle = sum(
        g.count * model.hidden * (g.feed_forward.experts - g.feed_forward.per_token) * g.feed_forward.expert.activated
        for g in model.stack
    )
    passed = model.matrix_parameters - idle - routers + tensor * routers
    assert flops * layout.chips == pytest.approx(2 * passed * tokens * data)


@given(cut=layouts)
def test_the_experts_of_all_chips_are_the_experts_of_the_layer(cut):
    tensor, data, expert = cut
    model = load_model("Qwen3-235B-A22B")
    ((experts, count),) = parts(step_operators(model, Layout(tensor, 1, data, expert)).per_token, RoutedExperts)
    whole = 3 * 4096 * 1536 * 128
    assert experts.held * experts.weights_of_one * tensor * data == whole
    assert count == 94
    assert (experts.tensor_parallel * experts.expert_parallel, experts.ranks) == (tensor * data, data)


@given(rows=st.integers(1, 10_000), expert=st.sampled_from([1, 4, 64]))
def test_tokens_wake_at_least_the_experts_of_one_and_at_most_all(rows, expert):
    layer = replace(LAYER, expert_parallel=expert)
    one, some, more = (float(layer.woken(at(n))[0]) for n in (1, rows, rows + 1))
    assert one == pytest.approx(8 / expert)
    assert one <= some * (1 + 1e-12)
    assert some <= more <= 128 / expert
    assert some <= layer.visits(at(rows))[0] * (1 + 1e-12)


@given(rows=st.integers(1, 10_000), expert=st.sampled_from([1, 2, 16, 128]))
def test_the_busiest_chip_has_its_share_or_more_and_never_all_of_it_twice(rows, expert):
    layer = replace(LAYER, expert_parallel=expert)
    mean, busiest = layer.visits(at(rows))[0], layer.busiest_visits(at(rows))[0]
    assert mean <= busiest <= rows * 8 * (1 + 1e-12)
    assert expert > 1 or busiest == mean


def test_few_tokens_read_few_experts_and_many_read_them_all_once():
    few, many = experts_bound(H200, LAYER, at(1, 4096)).memory_ns
    all_weights = 128 * 3 * 4096 * 1536 / H200.memory_bytes_per_s * 1e9
    assert few == pytest.approx(all_weights * 8 / 128, rel=0.01)
    assert many == pytest.approx(all_weights, rel=0.03)


def test_rows_of_every_rank_meet_at_the_experts():
    of_four, of_one = replace(LAYER, ranks=4, expert_parallel=4), replace(LAYER, expert_parallel=4)
    assert experts_bound(H200, of_four, at(10)) == experts_bound(H200, of_one, at(40))


# --- what a layer runs -------------------------------------------------------------------------------


def test_experts_inside_tensor_parallelism_add_no_exchange():
    model = load_model("Qwen3-235B-A22B")
    for layout in (Layout(4), Layout(4, expert=4), Layout(4, expert=2)):
        operators = step_operators(model, layout).per_token
        assert [(one.width, one.chips, one.count) for one in operators if isinstance(one, AllReduce)] == [
            (4096, 4, 188),
            (4096, 4, 1),
        ]
        assert not [one for one in operators if isinstance(one, Collective)]


def test_normalising_over_all_heads_takes_a_sum_over_the_chips():
    model = load_model("MiniMax-M2.5")
    found = {one.name: one.count for one in step_operators(model, Layout(4)).per_token if isinstance(one, AllReduce)}
    assert found["qk_norm_all_reduce"] == 62
    assert not [one for one in step_operators(model, Layout(1)).per_token if isinstance(one, AllReduce)]


def test_a_router_keeps_16_bits_and_experts_have_their_format():
    operators = step_operators(load_model("gpt-oss-120b"), Layout(1)).per_token
    assert {one.weights for one, _ in parts(operators, Gemm)} == {"bf16"}
    assert {one.weights for one, _ in parts(operators, RoutedExperts)} == {"mxfp4"}


def test_shared_experts_run_beside_the_routed_ones_while_the_rows_are_few():
    model = model_from_config("m", SHARED)
    operators = step_operators(model, Layout(2)).per_token
    (both,) = (one for one in operators if isinstance(one, Overlapped))
    assert both.count == 4
    assert [(gemm.name, gemm.n, gemm.k) for gemm in both.beside if isinstance(gemm, Gemm)] == [
        ("shared_in", 1024, 1024),
        ("shared_out", 1024, 512),
    ]
    chain = source_chain(H200, "vllm", ["roofline"])
    rows = at(1, both.most_rows, both.most_rows + 1)
    routed = chain.rows(both.experts, rows).ns
    beside = sum(chain.rows(one, rows).ns for one in both.beside)
    together = [max(routed[0], beside[0]), max(routed[1], beside[1]), routed[2] + beside[2]]
    assert chain.rows(both, rows).ns == pytest.approx(together)


class Known:
    """A source that knows one kind of operator."""

    def __init__(self, kind, ns, origin):
        self.kind, self.ns, self.origin = kind, ns, origin

    def rows(self, operator, rows):
        return Estimate.of(np.full(len(rows), self.ns), self.origin) if isinstance(operator, self.kind) else None


@pytest.mark.parametrize(("ns", "origin"), [(1e6, Origin.MEASURED), (1.0, Origin.ROOFLINE)])
def test_what_runs_together_has_the_origin_of_its_longest_part(ns, origin):
    (both,) = parts(step_operators(model_from_config("m", SHARED), Layout(1)).per_token, Overlapped)
    chain = SourceChain([Known(RoutedExperts, ns, Origin.MEASURED), RooflineSource(H200)], "test")
    assert chain.rows(both[0], at(1)).origin[0] == origin


# --- prices ------------------------------------------------------------------------------------------


@given(rows=st.integers(1, 20_000), cut=st.sampled_from([(1, 1), (4, 1), (1, 4), (2, 4)]))
def test_the_roofline_is_never_faster_than_light_nor_than_the_least_kernel(rows, cut):
    layer = replace(LAYER, tensor_parallel=cut[0], expert_parallel=cut[1])
    found = RooflineSource(H200).rows(layer, at(rows))
    assert found.ns[0] >= EXPERTS_FLOOR_NS + experts_bound(H200, layer, at(rows)).ns[0]
    assert found.origin[0] == Origin.ROOFLINE


def test_a_power_cap_slows_experts_that_compute_and_no_others():
    chain = source_chain(H200, "vllm", ["roofline"])
    capped = capped_chain(chain, H200, 0.6)
    few, many = capped.rows(LAYER, at(1, 16_384)).ns / chain.rows(LAYER, at(1, 16_384)).ns
    assert few == pytest.approx(1)
    assert many > 1.05


def test_the_work_of_a_step_counts_the_experts_its_tokens_wake():
    model = load_model("Qwen3-30B-A3B")
    operators = step_operators(model, Layout(1))
    rows = {
        "steps": at(1, 1),
        "decodes": at(1, 200),
        **dict.fromkeys(("tokens", "prompts", "completed", "pairs", "reach", "visible_0"), at(0, 0)),
    }
    one, many = step_work(operators, H200, rows).memory_ns * H200.memory_bytes_per_s / 1e9
    read = 2 * (model.active_parameters - model.vocab * model.hidden)
    assert one == pytest.approx(read, rel=0.01)
    assert many == pytest.approx(2 * (model.parameters - model.vocab * model.hidden), rel=0.05)


def table(tmp_path, rows, framework="vllm", chip="h200_sxm", name="moe"):
    """Write a table of experts; each row: tokens, hidden, width, per token, experts, tensor, expert, ms, then names."""
    folder = tmp_path / "data" / chip / "moe" / framework / "1.0.0"
    folder.mkdir(parents=True, exist_ok=True)
    names = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size", "latency"]
    names += ["moe_dtype", "distribution", "kernel_source"]
    pq.write_table(
        pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}), folder / f"{name}_perf.parquet"
    )
    return SiliconSource(load_chip(chip), framework, tmp_path)


SHAPE = (4096, 1536, 8, 128)
NAMES = ("fp8_block", "power_law_1.2", "triton")


def test_measured_experts_are_taken_as_they_are_and_interpolated_between(tmp_path):
    source = table(tmp_path, [(n, *SHAPE, 1, 1, ms, *NAMES) for n, ms in ((1, 0.1), (16, 0.4), (32, 0.5))])
    found = source.rows(LAYER, at(1, 24, 64))
    assert found.ns[:2] == pytest.approx([1e5, 4.5e5])
    assert list(found.origin) == [Origin.MEASURED, Origin.INTERPOLATED, Origin.EXTRAPOLATED]
    bound = experts_bound(H200, LAYER, at(32, 64)).ns
    assert found.ns[2] == pytest.approx(5e5 * bound[1] / bound[0])


def test_experts_that_were_sent_their_tokens_have_tables_of_their_own(tmp_path):
    def rows(ms, *tokens):
        return [(n, *SHAPE, 1, 4, ms, *NAMES) for n in tokens]

    table(tmp_path, rows(9.0, 8, 4096), "sglang")
    table(tmp_path, rows(0.1, 8, 64), "sglang", name="wideep_generation_moe")
    source = table(tmp_path, rows(0.6, 32, 4096), "sglang", name="wideep_context_moe")
    layer = replace(LAYER, ranks=4, expert_parallel=4, dispatched=True)
    few_and_many = at(2, 16, 17, 1024)
    assert source.rows(layer, few_and_many).ns == pytest.approx([1e5, 1e5, 6e5, 6e5])
    prompts = source.rows(replace(layer, stage="prefill"), few_and_many)
    assert prompts.ns == pytest.approx([6e5] * 4)
    alone = source.rows(replace(layer, stage="decode"), few_and_many)
    assert alone.ns[:2] == pytest.approx([1e5, 1e5])
    assert list(alone.origin[2:]) == [Origin.EXTRAPOLATED] * 2
    assert source.rows(replace(layer, dispatched=False), at(2)).ns == pytest.approx([9e6])


@given(tokens=st.integers(1, 5000), redundant=st.integers(0, 64))
def test_second_copies_wake_no_fewer_and_at_most_as_many_more(tokens, redundant):
    layer = replace(LAYER, expert_parallel=8)
    more = replace(layer, redundant=8 * redundant)
    woken, with_copies = (one.woken(at(tokens))[0] for one in (layer, more))
    assert woken - 1e-9 <= with_copies <= more.held + 1e-9
    assert with_copies <= tokens * LAYER.per_token


def test_the_tokens_of_all_ranks_are_looked_up(tmp_path):
    source = table(tmp_path, [(n, *SHAPE, 1, 4, 0.01 * n, *NAMES) for n in (4, 8, 16)])
    layer = replace(LAYER, ranks=4, expert_parallel=4)
    assert source.rows(layer, at(1, 2, 4)).ns == pytest.approx([4e4, 8e4, 16e4])


def test_of_two_kernels_for_a_point_the_faster_counts(tmp_path):
    rows = [(8, *SHAPE, 1, 1, ms, "nvfp4", "power_law_1.2", name) for ms, name in ((0.3, "a"), (0.2, "b"))]
    assert table(tmp_path, rows).rows(replace(LAYER, weights="nvfp4"), at(8)).ns == pytest.approx([2e5])


def test_routers_that_keep_loads_even_are_priced_as_such(tmp_path):
    rows = [(8, *SHAPE, 1, 1, ms, "fp8_block", f"power_law_{a}", "x") for ms, a in ((0.3, 1.2), (0.2, 1.01))]
    source = table(tmp_path, rows)
    assert source.rows(LAYER, at(8)).ns == pytest.approx([3e5])
    assert source.rows(replace(LAYER, even=True), at(8)).ns == pytest.approx([2e5])


def test_kernels_without_a_gate_price_experts_without_one(tmp_path):
    rows = [(8, *SHAPE, 1, 1, ms, *NAMES[:2], name) for ms, name in ((0.3, "flow"), (0.2, "flow_nongated"))]
    source = table(tmp_path, rows)
    assert source.rows(LAYER, at(8)).ns == pytest.approx([3e5])
    assert source.rows(replace(LAYER, gated=False), at(8)).ns == pytest.approx([2e5])


def test_a_layer_cut_as_nobody_measured_borrows_the_utilisation_of_the_nearest_cut(tmp_path):
    source = table(tmp_path, [(8, *SHAPE, 2, 1, 0.2, *NAMES), (8, *SHAPE, 16, 1, 0.9, *NAMES)])
    layer, kin = replace(LAYER, tensor_parallel=4), replace(LAYER, tensor_parallel=2)
    found = source.rows(layer, at(8))
    ratio = experts_bound(H200, layer, at(8)).ns / experts_bound(H200, kin, at(8)).ns
    assert found.ns == pytest.approx(2e5 * ratio)
    assert found.origin[0] == Origin.EXTRAPOLATED


def test_experts_of_another_kind_are_no_kin(tmp_path):
    source = table(tmp_path, [(8, 4096, 14_336, 2, 8, 1, 1, 0.2, *NAMES)])
    assert source.rows(LAYER, at(8)) is None
    assert source.rows(replace(LAYER, weights="int4"), at(8)) is None


def test_rows_faster_than_light_are_set_aside_and_counted(tmp_path):
    source = table(tmp_path, [(16_384, *SHAPE, 1, 1, ms, *NAMES) for ms in (0.01,)])
    assert source.rows(LAYER, at(16_384)) is None
    assert list(source.set_aside.values()) == [{"rows": 1, "faster_than_light": 1}]


def test_the_audit_knows_the_light_of_experts(tmp_path):
    table(tmp_path, [(16_384, *SHAPE, 1, 1, ms, *NAMES) for ms in (0.01,)])
    (file,) = table_files(tmp_path)
    assert audit_table(tmp_path, file).count(Verdict.FASTER_THAN_LIGHT) == 1


def test_mxfp4_is_multiplied_with_narrow_activations_where_that_was_measured(tmp_path):
    rows = [(8, *SHAPE, 1, 1, ms, name, *NAMES[1:]) for ms, name in ((0.3, "w4a16_mxfp4"), (0.2, "w4a8_mxfp4_mxfp8"))]
    other = (8, 2880, 2880, 4, 32, 1, 1, 0.1, "w4a16_mxfp4", *NAMES[1:])
    source = table(tmp_path, [*rows, other])
    assert source.rows(replace(LAYER, weights="mxfp4"), at(8)).ns == pytest.approx([2e5])
    assert source.rows(replace(LAYER, weights="mxfp4_mxfp8"), at(8)).ns == pytest.approx([2e5])
    small = RoutedExperts("experts", 2880, 2880, 32, 4, "mxfp4")
    assert source.rows(small, at(8)).ns == pytest.approx([1e5])


@needs_tables
@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("name", MIXTURES)
def test_decoding_experts_of_every_preset_are_measured_or_have_kin(name, framework):
    model = load_model(name, weights=None if load_model(name).weights != "bf16" else "fp8_block")
    chain = source_chain(H200, framework)
    for layout in (Layout(4), Layout(8, expert=8), Layout(1, 1, 8, 8)):
        for experts, _ in parts(step_operators(model, layout).per_token, RoutedExperts):
            found = chain.rows(experts, at(1, 64, 4096))
            assert (found.origin < Origin.ROOFLINE).all()
            assert (found.ns > 0.7 * experts_bound(H200, experts, at(1, 64, 4096)).ns).all()
