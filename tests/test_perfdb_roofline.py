"""The roofline: never faster than light, and close to the measured kernels of the chips that have both."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import costs_of, needs_tables, prefill_ns

from hardware.catalogue import chip_names, load_chip
from perfdb.collectives import MESSAGE_NS
from perfdb.expert_operators import ExpertExchange
from perfdb.formats import WEIGHT_BYTES
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import AllReduce, Attention, Elementwise, Gemm, PointToPoint, step_operators
from perfdb.roofline import ATTENTION_FLOOR_NS, ELEMENTWISE_FLOOR_NS, RooflineSource, _power_law
from perfdb.speed_of_light import attention_bound, gemm_bound

MEASURED = ("h200_sxm", "h100_sxm", "a100_80_sxm", "b200_sxm")
LAYOUTS = [("Llama-3.1-8B", 1), ("Llama-3.1-8B", 2), ("Llama-3.1-70B", 4), ("Llama-3.1-70B", 8)]
LAYOUTS += [("Qwen3-32B", 1), ("Qwen3-32B", 2), ("Qwen3-32B", 4)]
DECODES = [(n, context) for n in (1, 8, 32, 64, 128, 256) for context in (128, 1024, 4096, 16_000)]
PREFILLS = [(1, 128), (1, 512), (1, 2048), (1, 8192), (4, 256), (8, 1024)]


def step_ratios(chip, model, tensor):
    roofline, silicon = (
        costs_of(model, chip, tensor, sources).prices for sources in (("roofline",), ("silicon", "roofline"))
    )
    for decode in DECODES:
        yield roofline.decode_ns(*decode) / silicon.decode_ns(*decode)
    for prompts, tokens in PREFILLS:
        chunks = [(0, tokens)] * prompts
        yield prefill_ns(roofline, *chunks, completed=prompts) / prefill_ns(silicon, *chunks, completed=prompts)


@needs_tables
@pytest.mark.parametrize("chip", MEASURED)
def test_roofline_steps_are_close_to_steps_of_measured_kernels(chip):
    ratios = np.array([ratio for layout in LAYOUTS for ratio in step_ratios(chip, *layout)])
    assert len(ratios) == len(LAYOUTS) * (len(DECODES) + len(PREFILLS))
    assert 0.75 <= np.median(ratios) <= 1.35
    assert ratios.min() >= 0.5
    assert ratios.max() <= 2.0


@given(
    st.sampled_from(chip_names()),
    st.sampled_from(sorted(WEIGHT_BYTES)),
    st.integers(1, 60_000),
    st.integers(1, 60_000),
    st.integers(1, 40_000),
)
def test_no_projection_is_faster_than_light(chip, weights, n, k, rows):
    gemm, at = Gemm("x", n, k, weights), np.array([rows, rows + 1])
    ns = RooflineSource(load_chip(chip)).rows(gemm, at).ns
    assert (ns > gemm_bound(load_chip(chip), gemm, at).ns).all()
    assert ns[0] <= ns[1]


@given(
    st.sampled_from(chip_names()),
    st.sampled_from(["context_attention", "generation_attention"]),
    st.sampled_from([(32, 8), (8, 1), (28, 4), (5, 5)]),
    st.sampled_from([0, 128, 4096]),
    st.integers(1, 2000),
    st.integers(1, 200_000),
)
def test_no_attention_is_faster_than_light(chip, name, heads, window, batch, tokens):
    operator = Attention(name, *heads, 128, "bf16", window, 1)
    batches, lengths = np.array([batch, batch, batch + 1]), np.array([tokens, tokens + 1, tokens])
    ns = RooflineSource(load_chip(chip)).attention(operator, batches, lengths).ns
    assert (ns > attention_bound(load_chip(chip), operator, batches, lengths).ns).all()
    assert ns[0] < ns[2]
    # Efficiency rises with length; work rises faster.
    assert ns[0] <= ns[1] * (1 + 1e-12)


def test_a_bound_counts_operations_and_bytes():
    chip, one = load_chip("h200_sxm"), np.array([1])
    small, large = (gemm_bound(chip, Gemm("x", 4096, 8192, "bf16"), np.array([rows])) for rows in (1, 4096))
    moved = 2 * (4096 * 8192 + 4096 + 8192)
    assert small.memory_ns[0] == pytest.approx(1e9 * moved / chip.memory_bytes_per_s)
    assert small.ns[0] == small.memory_ns[0]
    assert large.ns[0] == pytest.approx(1e9 * 2 * 4096 * 4096 * 8192 / chip.peak_flops("bf16"))
    generation = step_operators(load_model("Llama-3.1-8B"), Layout(1)).generation[0]
    streamed = 1e9 * 64 * 10_000 * generation.kv_bytes_per_token / chip.memory_bytes_per_s
    bound = attention_bound(chip, generation, 64 * one, 10_000 * one)
    assert bound.ns[0] == bound.memory_ns[0] == pytest.approx(streamed, rel=0.001)
    context = step_operators(load_model("Llama-3.1-8B"), Layout(1)).context[0]
    pairs = 4096 * 4096 / 2
    flops = 2 * 2 * pairs * 32 * 128
    assert attention_bound(chip, context, one, 4096 * one).ns[0] == pytest.approx(1e9 * flops / chip.peak_flops("bf16"))


def test_a_window_caps_what_is_read_and_attended_to():
    chip, one = load_chip("h200_sxm"), np.array([1])
    full, windowed = (Attention("generation_attention", 32, 8, 128, "bf16", window, 1) for window in (0, 4096))
    for tokens, same in ((1000, True), (4096, True), (50_000, False)):
        point = 64 * one, tokens * one
        assert (attention_bound(chip, full, *point).ns[0] == attention_bound(chip, windowed, *point).ns[0]) == same
    at_window, beyond = (attention_bound(chip, windowed, one, tokens * one).ns[0] for tokens in (4096, 50_000))
    assert at_window == beyond


@pytest.mark.parametrize(
    ("chip", "weights", "format_"),
    [
        ("h200_sxm", "fp8", "fp8"),
        ("a100_80_sxm", "fp8", "bf16"),
        ("h200_sxm", "int4", "bf16"),
        ("b200_sxm", "nvfp4", "fp4"),
    ],
)
def test_a_chip_multiplies_in_the_narrowest_format_it_has(chip, weights, format_):
    sheet, rows = load_chip(chip), np.array([30_000])
    bound = gemm_bound(sheet, Gemm("x", 8192, 8192, weights), rows)
    assert bound.compute_ns[0] == pytest.approx(1e9 * 2 * 30_000 * 8192 * 8192 / sheet.peak_flops(format_))


def test_small_kernels_cost_their_floors():
    source, one = RooflineSource(load_chip("h200_sxm")), np.array([1])
    assert source.rows(Elementwise("norm", 8), one).ns[0] == pytest.approx(ELEMENTWISE_FLOOR_NS, abs=1)
    assert source.rows(PointToPoint("hand_over", 8), one).ns[0] == pytest.approx(MESSAGE_NS, abs=1)
    assert source.rows(Gemm("x", 8, 8, "bf16"), one).ns[0] == pytest.approx(2500, abs=1)
    tiny = Attention("generation_attention", 1, 1, 64, "bf16", 0, 1)
    assert source.attention(tiny, one, one).ns[0] == pytest.approx(ATTENTION_FLOOR_NS, abs=5)


def test_element_wise_kernels_and_hand_overs_stream_their_bytes():
    chip, rows = load_chip("h200_sxm"), np.array([1, 100_001])
    source = RooflineSource(chip)
    norm, hand_over = (source.rows(kind("x", 40_000), rows).ns for kind in (Elementwise, PointToPoint))
    assert norm[1] - norm[0] == pytest.approx(1e9 * 4e9 / (0.8 * chip.memory_bytes_per_s))
    assert hand_over[1] - hand_over[0] == pytest.approx(1e9 * 4e9 / chip.link_bytes_per_s)


@pytest.mark.parametrize(("tokens", "share"), [(256, 0.4 * 0.4 / 0.6), (1024, 0.4), (2048, 0.24**0.5), (90_000, 0.6)])
def test_efficiency_follows_its_slope_below_its_first_point_and_holds_its_last(tokens, share):
    assert _power_law([(1024, 0.4), (4096, 0.6)], np.array([tokens])) == pytest.approx([share])


def test_an_all_reduce_costs_its_latency_and_its_bus():
    chip = load_chip("h200_sxm")
    measured = chip.efficiency.all_reduce_among(4)
    ns = RooflineSource(chip).rows(AllReduce("x", 8192, 4), np.array([1, 8192])).ns
    moved = 2 * 8192 * 8191 * 2 * 3 / 4
    assert ns[1] - ns[0] == pytest.approx(1e9 * moved / measured.bus_bytes_per_s)
    assert ns[0] == pytest.approx(1e9 * measured.alpha_s, rel=0.02)


@pytest.mark.parametrize("chip", ["h200_sxm", "l4", "rtx_4090"])
def test_more_chips_never_make_an_all_reduce_faster(chip):
    source, rows = RooflineSource(load_chip(chip)), np.array([1, 100, 8192])
    costs = [source.rows(AllReduce("x", 8192, chips), rows).ns for chips in (2, 3, 4, 8, 16)]
    # Small messages: of large ones NVSwitch moves more per second among more chips.
    assert all(few[0] <= many[0] for few, many in pairwise(costs))


# --- what chip files publish of DeepSeek's operators ----------------------------------------------------


@pytest.mark.parametrize("name", ["dispatch", "combine"])
@pytest.mark.parametrize("chip", ["ascend_910c", "h800_sxm"])
def test_a_published_exchange_is_met_where_it_was_published(chip, name):
    efficiency = load_chip(chip).efficiency
    published = efficiency.expert_dispatch if name == "dispatch" else efficiency.expert_combine
    roofline = RooflineSource(load_chip(chip))
    for row in published:
        exchange = ExpertExchange(name, 7168, 256, 8, row.ranks, "int8")
        found = roofline.rows(exchange, np.array([1, 64, 128, 256])).ns
        assert found[2] == pytest.approx(1e9 * row.latency_s)
        assert found[0] > MESSAGE_NS
        assert found[3] - found[2] == pytest.approx(2 * (found[2] - found[1]))
    wider = ExpertExchange(name, 7168, 256, 8, 4 * published[-1].ranks, "int8")
    assert roofline.rows(wider, np.array([128])).ns[0] == pytest.approx(1e9 * published[-1].latency_s, rel=0.05)


def test_latent_attention_reaches_its_published_share_of_the_peak():
    chip, model = load_chip("ascend_910c"), load_model("DeepSeek-V3")
    (kernel, *_) = step_operators(model, Layout()).generation
    many, long = np.array([512]), np.array([8192])
    found = RooflineSource(chip).attention(kernel, many, long).ns[0] - ATTENTION_FLOOR_NS
    bound = attention_bound(chip, kernel, many, long)
    assert bound.compute_ns[0] > bound.memory_ns[0]
    assert found == pytest.approx(bound.compute_ns[0] / chip.efficiency.mla_compute)
