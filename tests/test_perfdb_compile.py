"""Compiled costs: tables by origin add up to prices, and a run's time adds up by origin."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import LIMITS, costs_of, needs_tables, prefill_ns

from hardware.catalogue import load_chip
from perfdb.compile import HostTime, StepLimits, _doubling_knots, _halved_knots, compile_costs
from perfdb.estimate import Estimate, Origin
from perfdb.interpolate import blend
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import step_operators
from perfdb.shares import time_by_origin
from perfdb.sources import source_chain

HOST = HostTime(step_ns=600_000, sequence_ns=20_000)
NAMES = [origin.name.lower() for origin in Origin]
ROOFLINE = [("Llama-3.1-8B", "h200_sxm", 1, ("roofline",)), ("Qwen2.5-7B", "l4", 2, ("roofline",))]
MEASURED = [("Qwen3-32B", "h200_sxm", 2), ("Qwen2.5-7B", "h200_sxm", 1), ("Llama-3.1-70B", "a100_80_sxm", 8)]
COMPILED = [*ROOFLINE, *(pytest.param(case, marks=needs_tables) for case in MEASURED)]


# --- tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", COMPILED)
def test_costs_by_origin_add_up_to_the_prices(case):
    costs = costs_of(*case, host=HOST)
    tokens, sequences = LIMITS.tokens + 1, LIMITS.sequences + 1
    assert costs.token_ns.shape == (tokens, len(Origin))
    assert costs.sample_ns.shape == (sequences, len(Origin))
    assert costs.prices.token_ns == pytest.approx(costs.token_ns.sum(axis=1), abs=0.51)
    assert costs.prices.sample_ns == pytest.approx(costs.sample_ns.sum(axis=1), abs=0.51)
    assert (costs.token_ns >= 0).all()
    assert costs.generation.ns.shape == (sequences * len(costs.generation_knots),)
    assert not costs.generation.ns[: len(costs.generation_knots)].any()


@pytest.mark.parametrize("case", COMPILED)
def test_a_step_is_the_sum_of_its_operators(case):
    model, chip, tensor, *sources = case
    chain = source_chain(load_chip(chip), "vllm", *sources)
    step = step_operators(load_model(model), Layout(tensor))
    prices = costs_of(*case, host=HOST).prices
    for rows in (1, 48, 256):
        at = np.array([rows])
        per_row = sum(op.count * chain.rows(op, at).ns[0] for op in (*step.per_token, *step.per_sample))
        attention = step.generation[0].count * chain.attention(step.generation[0], at, np.array([1023])).ns[0]
        host = HOST.step_ns + rows * HOST.sequence_ns
        assert prices.decode_ns(rows, 1023) == pytest.approx(per_row + attention + host, abs=4)


@pytest.mark.parametrize("case", COMPILED)
def test_a_longer_prompt_never_costs_less(case):
    costs = costs_of(*case)
    whole = [prefill_ns(costs.prices, (0, tokens)) - costs.prices.token_ns[tokens] for tokens in range(1, 8192, 61)]
    assert all(short <= long for short, long in pairwise(whole))


def test_every_decode_batch_fits_the_table_even_if_steps_are_smaller():
    limits = StepLimits(tokens=16, sequences=64, context=1000)
    costs = costs_of("Llama-3.1-8B", "h200_sxm", 1, ("roofline",), limits=limits)
    assert costs.prices.max_tokens == 64
    assert costs.prices.decode_ns(64, 999) > 0


@pytest.mark.parametrize("most", [1, 2, 100, 4096, 16_384, 131_072, 1_000_000])
def test_knots_rise_from_nothing_to_the_longest(most):
    for knots in (_doubling_knots(most), _halved_knots(most)):
        assert knots[0] == 0
        assert knots[-1] == most
        assert (np.diff(knots) > 0).all()


@pytest.mark.parametrize("context", [1, 2, 17, 1000])
def test_short_contexts_compile(context):
    step = step_operators(load_model("Llama-3.1-8B"), Layout(1))
    chain = source_chain(load_chip("h200_sxm"), "vllm", ("roofline",))
    prices = compile_costs(step, chain, StepLimits(64, 8, context), HostTime()).prices
    assert prices.decode_ns(8, 0, context) >= context * prices.constant_ns(8)
    assert prefill_ns(prices, (0, context % 64 + 1)) > 0


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.floats(0, 1))
def test_a_blend_is_as_sure_as_the_least_sure_side_it_uses(origins, weight):
    low, high = (
        Estimate(np.array([a]), np.array([o], np.uint8)) for a, o in zip((10.0, 20.0), origins[:2], strict=True)
    )
    found = blend(low, high, np.array([weight]))
    assert found.ns[0] == pytest.approx(10 + 10 * weight)
    if weight in {0, 1}:
        assert found.origin[0] == origins[int(weight)]
    else:
        assert found.origin[0] == max(*origins[:2], Origin.INTERPOLATED)


# --- shares ------------------------------------------------------------------------------------------


def step_log(prices, runs, passes):
    """Return the log of some decode runs (sequences, context, steps) and mixed passes, priced by the prices."""
    rows = [(prices.decode_ns(n, context, steps), steps, n, context, 0, 0, 0, 0, 0) for n, context, steps in runs]
    for decodes, context, chunks, completed in passes:
        new = sum(new for _, new in chunks)
        pairs = sum((past + new) ** 2 - past**2 for past, new in chunks)
        reach = sum(past + new for past, new in chunks)
        duration = prices.mixed_ns(
            tokens=new + decodes,
            samples=decodes + completed,
            decodes=decodes,
            context=context,
            prompts=len(chunks),
            pairs=pairs,
            reach=reach,
        )
        rows.append((duration, 1, decodes, context, new, len(chunks), completed, pairs, reach))
    names = ("duration_ns", "steps", "decodes", "context", "tokens", "prompts", "completed", "pairs", "reach")
    return {name: np.array(column, np.int64) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def random_log(prices):
    rng = np.random.default_rng(11)
    runs = [(int(rng.integers(1, 257)), int(rng.integers(0, 15_000)), int(rng.integers(1, 400))) for _ in range(300)]
    passes = [
        (
            decodes := int(rng.integers(0, 200)),
            int(rng.integers(0, 15_000)) if decodes else 0,
            [(int(rng.integers(0, 4000)), int(rng.integers(1, 1500))) for _ in range(int(rng.integers(1, 5)))],
            int(rng.integers(0, 2)),
        )
        for _ in range(300)
    ]
    return step_log(prices, runs, passes)


@pytest.mark.parametrize("case", COMPILED)
def test_the_shares_of_a_run_add_up_to_its_duration(case):
    costs = costs_of(*case, host=HOST)
    log = random_log(costs.prices)
    found = time_by_origin(costs, log)
    assert list(found) == [*NAMES, "host"]
    assert sum(found.values()) == pytest.approx(log["duration_ns"].sum(), rel=0.001)
    assert min(found.values()) >= 0
    sequences = log["decodes"] + log["prompts"]
    assert found["host"] == ((HOST.step_ns + HOST.sequence_ns * sequences) * log["steps"]).sum()


def test_waiting_for_an_eager_host_is_the_hosts_time():
    """The kernels of a run take as long whether they wait or not; the rest of it is the host's."""
    hurried, eager = (costs_of(*ROOFLINE[0], host=replace(HOST, launch_ns=launch)) for launch in (0, 60_000))
    log, slow = random_log(hurried.prices), random_log(eager.prices)
    assert slow["duration_ns"].sum() > log["duration_ns"].sum() + 10**9
    found, waiting = time_by_origin(hurried, log), time_by_origin(eager, slow)
    assert waiting["roofline"] == pytest.approx(found["roofline"], rel=1e-6)
    assert sum(waiting.values()) == pytest.approx(slow["duration_ns"].sum(), rel=1e-6)


@pytest.mark.parametrize("case", ROOFLINE)
def test_a_roofline_run_is_all_roofline(case):
    costs = costs_of(*case)
    found = time_by_origin(costs, random_log(costs.prices))
    assert found.pop("roofline") > 0
    assert set(found.values()) == {0.0}


@needs_tables
def test_head_counts_never_measured_show_up_as_extrapolated_time():
    known, unknown = (costs_of(name, "h200_sxm", 1) for name in ("Llama-3.1-8B", "Qwen2.5-7B"))
    runs = [(64, 1000, 1000)]
    shares = [time_by_origin(costs, step_log(costs.prices, runs, [])) for costs in (known, unknown)]
    parts = [share["extrapolated"] / sum(share.values()) for share in shares]
    assert parts[0] < 0.05
    attention = unknown.prices.decode_ns(64, 1000, 1000) - 1000 * unknown.prices.constant_ns(64)
    assert parts[1] * sum(shares[1].values()) >= attention * 0.99


@needs_tables
def test_prompts_longer_than_any_measured_are_extrapolated_time():
    limits = StepLimits(tokens=40_000, sequences=8, context=40_000)
    costs = costs_of("Llama-3.1-8B", "h200_sxm", 1, limits=limits)
    shares = []
    for tokens in (4096, 40_000):
        log = step_log(costs.prices, [(1, 0, 1)], [(0, 0, [(0, tokens)], 1)])
        found = time_by_origin(costs, log)
        shares.append(found["extrapolated"] / sum(found.values()))
    assert shares[0] < 0.02
    assert shares[1] > 0.2


@needs_tables
def test_the_example_of_the_document_says_what_it_costs():
    text = (Path(__file__).parents[1] / "docs" / "perfdb.md").read_text(encoding="utf-8")
    example, call, said = re.search(
        r"```python\n(from .*?)\n(costs\.prices\.\S+.*?)\s+# ([\d_]+):", text, re.DOTALL
    ).groups()
    names = {}
    exec(example, names)  # noqa: S102 - our own document
    assert eval(call, names) == int(said)  # noqa: S307 - same
