"""Steps that pass layers with experts in two halves: what runs beside what, and what that costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import needs_tables

from benchmarks.two_batches import DECODED_PER_S, DECODING, decode_ms
from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from perfdb.compile import HostTime, StepLimits, compile_costs
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import step_operators
from perfdb.sources import source_chain
from perfdb.two_batches import chip_of_units, two_batches, units_of
from simulator.build import build_pools
from simulator.candidates import load_candidate
from simulator.run import run_scenario
from simulator.scenario import resolve_scenario

MODEL, LIMITS, HOST = load_model("DeepSeek-V3", weights="fp8_block"), StepLimits(512, 64, 8192), HostTime(1_000_000)
CLOUDMATRIX = "papers/cloudmatrix-deepseek-r1"


def chain(chip):
    return source_chain(chip, "sglang", ["roofline"])


def compiled(stage, chip=None):
    """Return the costs of whole steps and of those in halves, and the halves."""
    chip = chip or load_chip("h200_sxm")
    layout = Layout(data=32, expert=32, all_to_all=True, stage=stage)
    operators, halves = step_operators(MODEL, layout), two_batches(MODEL, layout, chip, chain)
    priced = [compile_costs(operators, chain(chip), LIMITS, HOST, batches=each).prices for each in (None, halves)]
    return *priced, halves


DECODE, PREFILL = compiled("decode"), compiled("prefill")


def rows_ns(operators, source, rows):
    return sum(one.count * source.rows(one, np.array([rows])).ns[0] for one in operators)


def attention_ns(kernels, source, sequences, tokens):
    at = np.array([sequences]), np.array([tokens])
    return sum(kernel.count * source.attention(kernel, *at).ns[0] for kernel in kernels)


@pytest.mark.parametrize("sequences", [2, 7, 64])
def test_a_step_of_decoding_takes_twice_the_longer_stream_and_what_is_not_halved(sequences):
    _, prices, halves = DECODE
    half, context = -(-sequences // 2), 4095  # a knot of the curves
    beside = rows_ns(halves.beside, halves.beside_source, half)
    # All units send and receive for 0.06 of 0.17 ms of a dispatch.
    main = rows_ns(halves.main, halves.main_source, half) + beside * 6 / 17
    main += attention_ns(halves.generation, halves.main_source, half, context)
    whole = chain(load_chip("h200_sxm"))
    rest = rows_ns(halves.rest.per_token, whole, sequences) + rows_ns(halves.rest.per_sample, whole, sequences)
    rest += attention_ns(halves.rest.generation, whole, sequences, context)
    assert prices.decode_ns(sequences, context) == pytest.approx(1e6 + rest + 2 * max(main, beside), abs=2_000)


@pytest.mark.parametrize(("tokens", "prompt"), [(64, 64), (512, 512)])
def test_a_step_of_prompts_does_too(tokens, prompt):
    _, prices, halves = PREFILL
    sums = {"samples": 1, "decodes": 0, "context": 0, "prompts": 1, "pairs": prompt * prompt, "reach": prompt}
    half, whole = tokens // 2, chain(load_chip("h200_sxm"))
    beside = 2 * rows_ns(halves.beside, halves.beside_source, half)
    # 20 of 132 units send as long as that lasts.
    main = 2 * rows_ns(halves.main, halves.main_source, half) + beside * 20 / 132
    main += attention_ns(halves.context, halves.main_source, 1, prompt)
    rest = rows_ns(halves.rest.per_token, whole, tokens) + rows_ns(halves.rest.per_sample, whole, 1)
    aside = attention_ns(halves.rest.context, whole, 1, prompt)
    longest = max(main + aside, beside)
    assert prices.mixed_ns(tokens=tokens, **sums) == pytest.approx(1e6 + rest + longest, rel=1e-3)


def test_only_what_is_sent_is_beside_on_gpus_and_experts_too_where_ascend_decodes():
    found = {one.name for one in DECODE[2].beside}
    assert found == {"dispatch", "combine"} == {one.name for one in PREFILL[2].beside}
    halves = compiled("decode", load_chip("ascend_910c"))[2]
    assert [one.name for one in halves.beside] == ["router", "experts", "dispatch", "combine"]
    assert {one.name for one in halves.main} == {"latent_projections", "norm"}
    counts = [one.count for one in (*halves.main, *halves.generation)]
    assert counts == [58, 2 * 58, 58]
    assert [one.count for one in halves.rest.generation] == [3]


@pytest.mark.parametrize("costs", [DECODE, PREFILL])
@given(sequences=st.integers(1, 64), context=st.integers(0, 8000))
def test_halves_never_take_longer_than_one_after_the_other_nor_half_of_the_whole(costs, sequences, context):
    whole, halved, _ = costs
    taken = halved.decode_ns(sequences, context)
    if sequences == 1:
        assert taken == whole.decode_ns(1, context)
    assert taken <= 2 * whole.decode_ns(-(-sequences // 2), context) + 1_000
    assert 2 * taken >= whole.decode_ns(sequences, context)


def test_units_scale_arithmetic_and_exchange_and_leave_the_memory():
    chip = load_chip("ascend_910c")
    units = units_of(chip, "decode")
    assert units.main + units.beside == pytest.approx(1)
    third = chip_of_units(chip, units.beside)
    assert third.peak_flops("int8") == pytest.approx(chip.peak_flops("int8") / 3)
    assert third.memory_bytes_per_s == chip.memory_bytes_per_s
    for one, other in zip(third.efficiency.expert_dispatch, chip.efficiency.expert_dispatch, strict=True):
        assert one.latency_s == pytest.approx(3 * other.latency_s)


def test_streams_of_cloudmatrix_are_as_long_as_each_other_and_as_its_paper_says():
    """About 600 us each at 96 sequences per NPU (Figure 14); a layer 1,260 us with drafts and 874 without."""
    _, decode = build_pools(load_candidate(CLOUDMATRIX, "MTP"))
    halves = two_batches(decode.model, decode.layout, decode.chip, chain)
    main = rows_ns(halves.main, halves.main_source, 48)
    # Two tokens of a sequence look at its cache at once: arithmetic is what bounds them.
    main += 2 * attention_ns(halves.generation, halves.main_source, 24, 4224)
    beside = rows_ns(halves.beside, halves.beside_source, 48)
    for stream in (main, beside):
        assert stream / 58e3 == pytest.approx(600, rel=0.1)
    for name, paper_us in (("MTP", 1260), ("no-MTP", 874)):
        passes = build_pools(load_candidate(CLOUDMATRIX, name))[1].costs.passes
        rows = 96 if name == "MTP" else 48
        step = passes.token_ns[rows] + passes.generation_curve(48).between(4224, 4225)
        assert step / 61e3 == pytest.approx(paper_us, rel=0.17)


@needs_tables
def test_halves_gain_on_h100s_about_what_sglang_says():
    """27 % slower with 32 sequences of a rank, 25.5 % faster with 256, and as fast somewhere between 64 and 128."""
    whole, halved = ({n: decode_ms(n, halves=halves) for n in (32, 64, 128, 256)} for halves in (False, True))
    gain = {n: whole[n] / halved[n] - 1 for n in whole}
    assert gain[64] < 0 < gain[128]
    for sequences, theirs in DECODING.items():
        assert gain[sequences] == pytest.approx(theirs, abs=0.1)
    assert halved[256] == pytest.approx(256e3 / DECODED_PER_S, rel=0.1)


def run(*, macro_steps=True, **options):
    table = {
        "model": {"name": "DeepSeek-V3", "weights": "int8"},
        "workload": {
            "closed_loop": {
                "concurrency": 96,
                "requests": 200,
                "prompt_tokens": {"kind": "uniform", "low": 10, "high": 900},
                "output_tokens": {"kind": "uniform", "low": 5, "high": 60},
            }
        },
        "pool": [
            {
                "chip": "ascend_910c",
                "engine": "sglang",
                "data_parallel": 32,
                "expert_parallel": 32,
                "expert_exchange": "all_to_all",
                "engine_options": {"enable_two_batch_overlap": True, "mem_fraction_static": 0.9},
                **options,
            }
        ],
    }
    return run_scenario(resolve_scenario(table, Path("here.toml"), "here.toml"), macro_steps=macro_steps)


def test_runs_of_steps_are_equal_to_single_steps():
    many, single = run(), run(macro_steps=False)
    assert many.requests.equals(single.requests)
    (pool,) = many.summary["pools"].values()
    assert sum(pool["time_ms"].values()) == pytest.approx(
        pool["utilisation"] * many.summary["duration"] * 1e3, rel=0.01
    )


@pytest.mark.parametrize(
    "options",
    [{"expert_exchange": "gather"}, {"expert_exchange": "gather", "data_parallel": 1, "pipeline_parallel": 2}],
)
def test_halves_without_an_exchange_to_hide_are_refused(options):
    with pytest.raises(ScenarioError, match="enable_two_batch_overlap hides the exchange with experts"):
        run(**options)
