"""Kernels of 2023: never faster than what a chip sustains, and close to what was published of their engines."""

from __future__ import annotations

import csv
from functools import cache
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import SHARED, needs_tables, prefill_ns

from hardware.catalogue import load_chip
from perfdb.compile import StepLimits, compile_costs
from perfdb.eager import KERNELS_OF_2023, EagerChain
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import AllReduce, Elementwise, Gemm, step_operators
from perfdb.sources import source_chain
from perfdb.speed_of_light import gemm_bound
from simulator.engine_options import VllmV0Options
from simulator.engines import ENGINES

CHIP = load_chip("a100_80_sxm")
TODAY = source_chain(CHIP, "vllm", ("roofline",))
EAGER = EagerChain(CHIP, TODAY, KERNELS_OF_2023)
PHASE_TIMES = SHARED / "validation" / "splitwise_phase_times_a100.csv"
VIDUR = SHARED / "data" / "vidur-profiles"
PRESETS = {"llama2-70b": "Llama-2-70B", "bloom-176b": "BLOOM-176B"}

sizes = st.integers(64, 60_000)


@cache
def prices(model: str, tensor: int, engine: str, chip: str = "a100_80_sxm"):
    found, on = ENGINES[engine], load_chip(chip)
    operators = step_operators(load_model(model), Layout(tensor))
    chain = found.cost_chain(on, ("silicon", "roofline"))
    return compile_costs(operators, chain, StepLimits(4096, 64, 16_384), found.host_on(on, tensor)).prices


def test_answers_of_an_engine_behind_ray_take_time_by_the_sequence():
    engine = ENGINES["vllm@0.2"]
    hosts = []
    for behind in (False, True):
        plan = VllmV0Options(engine_use_ray=behind).filled(CHIP, 2048).plan(prefills=True)
        hosts.append(engine.host_on(CHIP, 4, answer_ns=plan.answer_ns))
    assert hosts[1].sequence_ns - hosts[0].sequence_ns == 770_000
    assert hosts[1].step_ns == hosts[0].step_ns


@given(sizes, sizes, st.integers(1, 20_000))
def test_projections_stay_between_the_sustained_rates(n, k, rows):
    gemm, at = Gemm("any", n, k, "bf16"), np.array([rows])
    bound = gemm_bound(CHIP, gemm, at)
    found = EAGER.rows(gemm, at).ns[0]
    assert found >= bound.compute_ns[0] / 0.71 * (1 - 1e-12)
    assert found >= TODAY.rows(gemm, at).ns[0] * (1 - 1e-12) or bound.memory_ns[0] > bound.compute_ns[0]


@given(st.integers(1, 100_000), st.integers(64, 20_000), st.sampled_from([2, 4, 8]))
def test_nothing_else_is_faster_than_today(rows, width, chips):
    at = np.array([rows])
    for operator in (Elementwise("norm", 8 * width), AllReduce("all_reduce", width, chips)):
        assert EAGER.rows(operator, at).ns[0] > TODAY.rows(operator, at).ns[0]
    context = step_operators(load_model("Llama-2-7B"), Layout(1)).context[0]
    length = np.array([min(rows, 8192)])
    assert EAGER.attention(context, at * 0 + 1, length).ns[0] == pytest.approx(
        2 * TODAY.attention(context, at * 0 + 1, length).ns[0]
    )


def test_formats_below_16_bits_are_left_alone():
    gemm, at = Gemm("any", 4096, 4096, "int8"), np.array([1, 64, 4096])
    assert EAGER.rows(gemm, at).ns.tolist() == TODAY.rows(gemm, at).ns.tolist()


@needs_tables
@pytest.mark.parametrize("rows", [1, 16, 512, 2048])
def test_projections_agree_with_vidurs_profile(rows):
    """The source of the two rates: measured latencies of the four projections of Llama-2-7B."""
    pandas = pytest.importorskip("pandas")
    file = VIDUR / "a100_llama-2-7b_mlp.csv.gz"
    if not file.is_file():
        pytest.skip("Vidur's profiles are not here")
    table = pandas.read_csv(file)
    table = table[(table.num_tensor_parallel_workers == 1) & (table.num_tokens == rows)]
    chain = ENGINES["vllm@0.2"].cost_chain(CHIP, ("silicon", "roofline"))
    shapes = {
        "attn_pre_proj": (12288, 4096),
        "attn_post_proj": (4096, 4096),
        "mlp_up_proj": (22016, 4096),
        "mlp_down_proj": (4096, 11008),
    }
    ours = sum(chain.rows(Gemm(name, n, k, "bf16"), np.array([rows])).ns[0] for name, (n, k) in shapes.items())
    theirs = 1e6 * sum(table[f"time_stats.{name}.median"].median() for name in shapes)
    assert ours == pytest.approx(theirs, rel=0.06)


#: Milliseconds of published fits of the real engines on A100 80 GB: prefill (constant, per token, per squared
#: length), decode (constant, per cached token, per sequence); DistServe's repository, simdistserve/estimators.
FITS = {
    ("OPT-13B", 1): ((18.10, 0.1019, 7.12e-6), (19.93, 6.27e-4, 0.0385)),
    ("OPT-13B", 2): ((14.74, 0.0686, 2.45e-6), (13.29, 3.41e-4, 0.0630)),
    ("OPT-66B", 4): ((29.44, 0.1514, 8.32e-6), (30.76, 4.52e-4, 0.0633)),
}


@needs_tables
@pytest.mark.parametrize("case", FITS)
def test_distserves_engine_takes_about_what_its_authors_fitted(case):
    found = prices(*case, "distserve")
    (a, b, c), (d, e, f) = FITS[case]
    prompts = [prefill_ns(found, (0, n), completed=1) / 1e6 / (a + b * n + c * n * n) for n in (128, 512, 1024, 2000)]
    # Its simulator adds 2 ms of Ray to what its authors fitted.
    steps = [found.decode_ns(n, m) / 1e6 / (2 + d + e * n * m + f * n) for n, m in ((1, 512), (16, 512), (64, 500))]
    assert abs(median(prompts) - 1) < 0.1
    assert abs(median(steps) - 1) < 0.1
    assert min(prompts + steps) > 0.75
    assert max(prompts + steps) < 1.2


@needs_tables
@pytest.mark.parametrize(
    ("model", "tensor"), [("llama2-70b", 2), ("llama2-70b", 4), ("llama2-70b", 8), ("bloom-176b", 8)]
)
def test_phase_times_that_splitwise_measured(model, tensor):
    """Batches of up to 2048 tokens, none of which was looked at for a constant."""
    if not PHASE_TIMES.is_file():
        pytest.skip("Splitwise's phase times are not here")
    found, errors = prices(PRESETS[model], tensor, "vllm@0.2"), {"prompt": [], "token": []}
    with PHASE_TIMES.open() as file:
        for row in csv.DictReader(file):
            n, length, produced = (int(row[name]) for name in ("batch_size", "prompt_size", "token_size"))
            if (row["model"], int(row["tensor_parallel"])) != (model, tensor) or n * length > 2048:
                continue
            prompt = prefill_ns(found, *[(0, length)] * n, completed=n) / 1e6
            token = found.decode_ns(n, length, produced - 1) / (produced - 1) / 1e6
            errors["prompt"].append(abs(prompt / float(row["prompt_time_ms"]) - 1))
            errors["token"].append(abs(token / float(row["token_time_ms"]) - 1))
    assert len(errors["prompt"]) == 13
    assert all(np.mean(values) < (0.13 if model == "bloom-176b" else 0.1) for values in errors.values())
