"""Sequences that decode beside prompts: tiles of FlashAttention 2 where it runs, a kernel of their own elsewhere."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.catalogue import load_chip
from perfdb.compile import HostTime, StepLimits, compile_costs
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import Attention, step_operators
from perfdb.prompt_tiles import tile_curve
from perfdb.sources import source_chain
from simulator.engines import ENGINES

LIMITS = StepLimits(4096, 128, 16_384)
KNOTS = [0, *((1 << power) - 1 for power in range(1, 15))]
TILED = ("a100_80_sxm", "l40s", "rtx_4090", "rtx_pro_6000_server")
APART = ("h100_sxm", "b200_sxm", "gb300", "mi300x")


def attention(heads=32, kv_heads=8, *, kv_cache="bf16", window=0, count=1):
    return Attention("generation_attention", heads, kv_heads, 128, kv_cache, window, count)


@cache
def prices(chip, *, tiled=True, model="Llama-3.1-8B"):
    step, on = step_operators(load_model(model), Layout(1)), load_chip(chip)
    chain = source_chain(on, "vllm", ("roofline",))
    return compile_costs(step, chain, LIMITS, HostTime(), tiled=on if tiled else None).prices


def pass_ns(found, decodes, context, new=1000):
    chunk = {"prompts": 1, "pairs": new * new, "reach": new} if new else {"prompts": 0, "pairs": 0, "reach": 0}
    return found.mixed_ns(tokens=new + decodes, samples=decodes, decodes=decodes, context=context, **chunk)


def each_ns(curve, context):
    return curve.between(context, context + 1)


@pytest.mark.parametrize("chip", APART)
def test_other_chips_have_a_kernel_for_decoding_sequences(chip):
    assert tile_curve([attention()], load_chip(chip), KNOTS) is None
    assert prices(chip).tiles is None


@pytest.mark.parametrize("chip", TILED)
def test_a_tile_is_64_rows_times_the_context_and_half_a_tile_of_keys(chip):
    on = load_chip(chip)
    curve = tile_curve([attention(count=32)], on, KNOTS)
    rate = on.efficiency.prefill_attention_bf16[0][1] * on.peak_flops("bf16")
    for context in (0, 100, 1023, 5000):
        flops = 32 * 32 * 128 * 4 * 64 * (context + 64)
        assert each_ns(curve, context) == pytest.approx(1e9 * flops / rate, rel=1e-6, abs=2)


@given(st.sampled_from(TILED), st.integers(1, 127), st.integers(0, 8000))
def test_only_steps_with_prompts_cost_more(chip, decodes, context):
    tiled, plain = prices(chip), prices(chip, tiled=False)
    assert pass_ns(tiled, decodes, context, 0) == pass_ns(plain, decodes, context, 0)
    assert tiled.decode_ns(decodes, context) == plain.decode_ns(decodes, context)
    more = decodes * each_ns(tiled.tiles, context) - each_ns(plain.generation_curve(decodes), context)
    assert pass_ns(tiled, decodes, context) - pass_ns(plain, decodes, context) == max(more, 0)


def test_heads_that_share_kv_do_not_share_tiles():
    chip = load_chip("a100_80_sxm")
    alike = [tile_curve([attention(32, kv_heads)], chip, KNOTS) for kv_heads in (1, 8, 32)]
    assert alike[0] == alike[1] == alike[2]


def test_a_window_ends_the_growth():
    curve = tile_curve([attention(window=255)], load_chip("l40s"), KNOTS)
    assert each_ns(curve, 4000) == each_ns(curve, 255)
    assert each_ns(curve, 255) > each_ns(curve, 127)


def test_a_narrow_cache_and_other_attention_have_other_kernels():
    chip = load_chip("rtx_pro_6000_server")
    assert tile_curve([attention(kv_cache="fp8")], chip, KNOTS) is None
    assert tile_curve([attention(), attention(kv_cache="fp8")], chip, KNOTS) is None
    assert tile_curve([], chip, KNOTS) is None
    latent = step_operators(load_model("DeepSeek-V3"), Layout(1)).generation
    assert tile_curve(latent, chip, KNOTS) is None


#: Microseconds that so many decoding sequences of so many tokens add to a call over prompts of 2,048 tokens, one layer
#: of 32 heads (casys-kaist/LLMServingSim, profiler/perf, attention.csv of Qwen3-30B-A3B and Llama-3.1-8B).
MEASURED = (
    ("rtx_pro_6000_server", 4, 128, 923, 662),
    ("rtx_pro_6000_server", 4, 64, 923, 309),
    ("rtx_pro_6000_server", 4, 128, 1384, 861),
    ("rtx_4090", 8, 32, 1024, 389),
    ("rtx_4090", 8, 64, 1024, 776),
)


@pytest.mark.parametrize(("chip", "kv_heads", "sequences", "context", "us"), MEASURED)
def test_tiles_are_near_what_was_measured(chip, kv_heads, sequences, context, us):
    curve = tile_curve([attention(32, kv_heads)], load_chip(chip), KNOTS)
    assert sequences * each_ns(curve, context) / 1000 == pytest.approx(us, rel=0.25)


def test_vllm_has_tiles_and_no_other_engine():
    assert {name.partition("@")[0] for name, engine in ENGINES.items() if engine.prompt_tiles} == {"vllm", "vllm-live"}
    assert not ENGINES["vllm@0.2"].prompt_tiles
