"""Step profiles: three coefficients give what their formula says, and a profile prices only what it knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import prefill_ns
from serving import Deployment, OpenLoop
from test_engine_macro_steps import assert_same, requests

from hardware.errors import CatalogueError, CostError, ScenarioError
from perfdb.compile import StepLimits
from perfdb.fitted_prices import FittedPrices, profiled_costs
from perfdb.load_model import load_model
from perfdb.shares import time_by_origin
from perfdb.step_profile import load_step_profile, step_profile_names
from simulator.build import build_pools
from simulator.scenario import load_scenario

LIMITS = StepLimits(tokens=4096, sequences=256, context=2048)
FIT = load_step_profile("distserve-a100").of(load_model("OPT-13B"), 1, "a100_80_sxm", "test")
PRICES = FittedPrices(FIT, LIMITS)


@given(st.lists(st.integers(2, 2000), min_size=1, max_size=8))
def test_prompts_cost_a_constant_their_tokens_and_their_squares(lengths):
    of = FIT.prefill
    wanted_ms = of.step_ms + of.token_ms * sum(lengths) + of.squared_token_ms * sum(n * n for n in lengths)
    found = prefill_ns(PRICES, *((0, n) for n in lengths), completed=len(lengths))
    assert found == pytest.approx(1e6 * wanted_ms, abs=1)


@given(st.integers(1, 256), st.integers(0, 2047), st.integers(1, 500))
def test_decoding_costs_a_constant_its_cached_tokens_and_its_sequences(sequences, context, steps):
    of = FIT.decode if sequences < 95 else FIT.large_decode
    cached = sequences * sum(context + i + 1 for i in range(steps))
    wanted_ms = steps * (of.step_ms + of.sequence_ms * sequences) + of.cached_token_ms * cached
    assert PRICES.decode_ns(sequences, context, steps) == pytest.approx(1e6 * wanted_ms, rel=1e-7, abs=steps)


@given(st.integers(0, 100), st.lists(st.integers(0, 1500), min_size=1, max_size=8))
def test_sequences_whose_kv_was_fetched_decode_with_the_others(decodes, pasts):
    context = 800 if decodes else 0
    found = PRICES.mixed_ns(
        tokens=decodes + len(pasts),
        samples=decodes + len(pasts),
        decodes=decodes,
        context=context,
        prompts=len(pasts),
        pairs=sum((n + 1) ** 2 - n * n for n in pasts),
        reach=sum(n + 1 for n in pasts),
    )
    together = decodes + len(pasts)
    assert found == PRICES.decode_ns(together, (decodes * context + sum(pasts)) // together)


def test_a_prompt_in_chunks_pays_its_squares_once_and_a_constant_each_time():
    whole, first, second = (prefill_ns(PRICES, chunk) for chunk in ((0, 1000), (0, 600), (600, 400)))
    assert first + second - whole == pytest.approx(1e6 * FIT.prefill.step_ms, abs=2)


@given(requests, st.sampled_from([0, 5, 1000]))
def test_runs_of_steps_equal_single_steps(rows, spare):
    rows = sorted(rows)
    found = [
        Deployment(prices=PRICES, decode_replicas=1, decode_blocks=30 + spare, max_sequences=64).serve(
            OpenLoop([r[0] for r in rows]), [r[1] for r in rows], [r[2] for r in rows], macro_steps=macro
        )
        for macro in (True, False)
    ]
    assert_same(*found)


def test_with_stages_a_pass_through_all_costs_one_step():
    prices = profiled_costs(FIT, LIMITS, 2).prices
    assert prices.decode_ns(40, 700, 30) == PRICES.decode_ns(20, 700, 30)


def test_its_time_is_interpolated():
    costs = profiled_costs(FIT, LIMITS)
    found = time_by_origin(costs, {"duration_ns": np.array([5, 7])})
    assert found.pop("interpolated") == 12
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("name", step_profile_names())
def test_every_shipped_profile_says_where_it_is_from_and_rises(name):
    profile = load_step_profile(name)
    assert "github.com" in profile.source
    for fit in profile.fit:
        prices = FittedPrices(profile.of(load_model(fit.model), fit.tensor_parallel, profile.chip, ""), LIMITS)
        assert prefill_ns(prices, (0, 100)) < prefill_ns(prices, (0, 1000))
        assert prices.decode_ns(1, 100) < prices.decode_ns(64, 100) <= prices.decode_ns(64, 1000)


def pool(**changes):
    pool = {"name": "only", "chip": "a100_80_sxm", "step_profile": "distserve-a100", **changes}
    lengths = {f"workload.synthetic.{side}_tokens": {"kind": "fixed", "value": 100} for side in ("prompt", "output")}
    return build_pools(load_scenario("quickstart", {"model.name": "OPT-13B", "pool": [pool], **lengths}))[0]


def test_a_pool_names_its_profile_and_the_manifest_its_hash():
    built = pool()
    assert built.costs.prices.decode_ns(8, 500) == PRICES.decode_ns(8, 500)
    assert list(built.tables) == ["profiles/distserve-a100.toml"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"step_profile": "distserve-a10"}, CatalogueError, "did you mean 'distserve-a100'"),
        ({"chip": "h200_sxm"}, CostError, "is of a100_80_sxm, but the pool runs on h200_sxm"),
        ({"tensor_parallel": 8}, CostError, "does not know facebook/opt-13b at tensor_parallel = 8; it has"),
        ({"cost_sources": ["roofline"]}, ScenarioError, "found step_profile and cost_sources, expected one"),
    ],
)
def test_what_a_profile_does_not_know_is_refused(changes, error, said):
    with pytest.raises(error, match=said):
        pool(**changes)


def test_a_profile_of_ones_own_is_checked(tmp_path):
    (tmp_path / "mine.toml").write_text('chip = "a100_80_sxm"\nsource = "me"\n[[fit]]\nmodel = "x"\n')
    with pytest.raises(CatalogueError, match=r"mine\.toml: key 'fit\.0\.tensor_parallel' is missing"):
        load_step_profile(str(tmp_path / "mine.toml"))
