"""Profiles in Vidur's format: steps are composed as Vidur composes them, to the nanosecond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pricing import prefill_ns
from serving import Deployment, OpenLoop
from test_engine_macro_steps import assert_same, requests
from vidur_profiles import OPERATIONS, WRITE_MS, context_ms, generation_ms, write_profile

from hardware.errors import CostError
from perfdb.compile import StepLimits
from perfdb.forest import forest_weights
from perfdb.load_model import load_model
from perfdb.shares import time_by_origin
from perfdb.whole_steps import vidur_costs
from simulator.build import build_pools
from simulator.scenario import load_scenario

LLAMA, MISTRAL = load_model("Llama-2-7B"), load_model("Mistral-7B-v0.3")
LIMITS = StepLimits(tokens=512, sequences=16, context=2048)
LAYER_MS = sum(OPERATIONS.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("profiles") / "llama"
    write_profile(path, LLAMA)
    return str(path)


@pytest.fixture(scope="module")
def prices(folder):
    return vidur_costs(folder, LLAMA, 1, LIMITS)[0].prices


def ns(layer_ms: float) -> float:
    return pytest.approx(1e6 * LLAMA.layers * layer_ms, abs=3)


@pytest.mark.parametrize(("tokens", "eights"), [(1, 1), (8, 1), (9, 2), (16, 2), (100, 13), (512, 64)])
def test_operations_go_by_tokens_rounded_up_to_eight_and_the_cache_by_tokens(prices, tokens, eights):
    assert prices.token_ns[tokens] == ns(LAYER_MS * eights + WRITE_MS)


@pytest.mark.parametrize(("context", "key"), [(0, 64), (62, 64), (63, 64), (64, 128), (999, 1024), (1023, 1024)])
def test_attention_over_the_cache_goes_by_the_mean_context_rounded_up_to_64(prices, context, key):
    for sequences in (1, 2, 8):
        # The token that is computed counts among those in the cache.
        wanted = LAYER_MS + WRITE_MS + generation_ms(sequences, key)
        assert prices.decode_ns(sequences, context) == ns(wanted)


@pytest.mark.parametrize("chunk", [32, 64, 512])
def test_a_prompt_costs_its_tokens_and_its_own_attention(prices, chunk):
    wanted = LAYER_MS * chunk / 8 + WRITE_MS + context_ms(chunk, 0)
    assert prefill_ns(prices, (0, chunk)) == ns(wanted)


def test_the_past_of_a_chunk_is_rounded_up_to_64_and_lies_between_what_was_measured(prices):
    for past, key in ((1, 64), (64, 64), (65, 128), (512, 512), (700, 704)):
        found = prices.mixed_ns(
            tokens=128, samples=0, decodes=0, context=0, prompts=1, pairs=0, reach=past + 128, squares=128**2
        )
        # A chunk in steps of 512 tokens of its past: what that adds is a straight line.
        added = prices.token_ns[128] + 1e6 * LLAMA.layers * context_ms(128, key)
        assert found == pytest.approx(added, rel=2e-3)


def test_several_prompts_count_as_one_with_the_sum_of_their_squares(prices):
    squares = 3 * 32**2
    assert round(squares**0.5) == 55
    several = prefill_ns(prices, (0, 32), (0, 32), (0, 32))
    # 55 is nearer to 64 than to 32, by squares.
    assert several == ns(LAYER_MS * 12 + WRITE_MS + context_ms(64, 0))


def test_prompts_beside_decodes_pay_for_both_attentions(prices):
    found = prices.mixed_ns(
        tokens=34, samples=2, decodes=2, context=500, prompts=1, pairs=32**2, reach=32, squares=32**2
    )
    assert found == ns(LAYER_MS * 5 + WRITE_MS + context_ms(32, 0) + generation_ms(2, 512))


def test_shared_heads_cost_a_tenth_more_for_more_than_one(tmp_path):
    write_profile(tmp_path / "mistral", MISTRAL, packed=True)
    prices = vidur_costs(str(tmp_path / "mistral"), MISTRAL, 1, LIMITS)[0].prices
    bare = LAYER_MS + WRITE_MS
    for sequences, factor in ((1, 1.0), (2, 1.1), (8, 1.1)):
        assert prices.decode_ns(sequences, 63) == ns(bare + factor * generation_ms(sequences, 64))
    alone, both = (prefill_ns(prices, *[(0, 32)] * count) for count in (1, 2))
    assert alone == ns(LAYER_MS * 4 + WRITE_MS + context_ms(32, 0))
    assert both == ns(LAYER_MS * 8 + WRITE_MS + 1.1 * context_ms(32, 0))


def test_several_chips_pay_two_sums_and_their_launch(tmp_path):
    write_profile(tmp_path / "two", LLAMA, 2)
    prices = vidur_costs(str(tmp_path / "two"), LLAMA, 2, LIMITS)[0].prices
    assert prices.token_ns[8] == ns(LAYER_MS + WRITE_MS + 2 * (0.5 + 0.02))


def test_beyond_the_last_row_everything_grows_in_proportion(folder):
    costs = vidur_costs(folder, LLAMA, 1, StepLimits(tokens=2048, sequences=64, context=8192))[0]
    prices = costs.prices
    assert prices.token_ns[2048] == ns(LAYER_MS * 256 + 4 * WRITE_MS)
    attention = prices.decode_ns(64, 4095) - prices.constant_ns(64)
    assert attention == pytest.approx(1e6 * LLAMA.layers * generation_ms(64, 4096), rel=1e-6)
    assert prefill_ns(prices, (0, 1024)) - prices.token_ns[1024] == ns(4 * context_ms(512, 0))
    table = {
        "duration_ns": np.array([1, 10, 100, 1000]),
        "tokens": np.array([512, 513, 0, 0]),
        "decodes": np.array([0, 0, 17, 1]),
        "context": np.array([0, 0, 5, 2000]),
        "steps": np.array([1, 1, 1, 100]),
    }
    found = time_by_origin(costs, table)
    assert (found["interpolated"], found["extrapolated"]) == (1.0, 1110.0)


@settings(max_examples=60, deadline=None)
@given(requests, st.sampled_from([0, 5, 1000]), st.sampled_from(["sarathi", "vllm", "vllm_v0"]))
def test_runs_of_steps_equal_single_steps(prices, rows, spare, policy):
    rows = sorted(rows)
    found = [
        Deployment(prices=prices, policy=policy, blocks=30 + spare, max_sequences=16, max_tokens=100).serve(
            OpenLoop([r[0] for r in rows]), [r[1] for r in rows], [r[2] for r in rows], macro_steps=macro
        )
        for macro in (True, False)
    ]
    assert_same(*found)


# --- the forest -------------------------------------------------------------------------------------------


def drawn(positions, rows, values, asked, trees, rng):
    """Return the mean answer of trees grown on samples one by one."""
    found = np.zeros(len(asked))
    every = np.repeat(np.arange(len(positions)), rows)
    for _ in range(trees):
        sample = np.unique(rng.choice(every, len(every)))
        middles = (positions[sample][1:] + positions[sample][:-1]) / 2
        found += values[sample[np.searchsorted(middles, asked)]]
    return found / trees


def test_weights_are_what_trees_say_on_average():
    rng = np.random.default_rng(0)
    positions, rows = np.array([1.0, 2.0, 4.0, 5.0, 9.0, 20.0]), np.array([1, 2, 1, 3, 1, 1])
    values, asked = rng.random(6), np.array([0.0, 1.0, 1.5, 3.1, 4.0, 6.9, 7.1, 14.5, 20.0, 30.0])
    mean = forest_weights(positions, rows.astype(float), asked) @ values
    # Nine rows are few for places to be taken as independent: two in a hundred is what that costs.
    assert mean == pytest.approx(drawn(positions, rows, values, asked, 40_000, rng), abs=0.02)


def test_weights_of_many_rows_are_exact_to_the_draw():
    rng = np.random.default_rng(1)
    positions = np.cumsum(rng.integers(1, 9, 200)).astype(float)
    values, asked = rng.random(200), rng.uniform(-5, positions[-1] + 5, 50)
    mean = forest_weights(positions, np.ones(200), asked) @ values
    assert mean == pytest.approx(drawn(positions, np.ones(200, int), values, asked, 20_000, rng), abs=0.02)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=30, unique=True), st.lists(st.floats(-10, 400), min_size=1))
def test_weights_add_up_to_one(places, asked):
    weights = forest_weights(np.array(sorted(places), float), np.ones(len(places)), np.array(asked))
    assert weights.min() >= 0
    assert weights.sum(axis=1) == pytest.approx(1)


# --- in a scenario ----------------------------------------------------------------------------------------


def pool(folder, **changes):
    table = {"name": "only", "chip": "a100_80_sxm", "engine": "sarathi", "step_profile": folder, **changes}
    lengths = {f"workload.synthetic.{side}_tokens": {"kind": "fixed", "value": 100} for side in ("prompt", "output")}
    return build_pools(load_scenario("quickstart", {"model.name": "Llama-2-7B", "pool": [table], **lengths}))[0]


def test_a_pool_names_the_folder_and_the_manifest_its_hashes(folder, prices):
    built = pool(folder)
    assert built.costs.prices.decode_ns(8, 500) == prices.decode_ns(8, 500)
    assert sorted(built.tables) == ["vidur/a_mlp.csv", "vidur/an_attention.csv"]


def test_the_source_can_be_named_beside_the_folder(folder, prices):
    assert pool(folder, cost_sources=["vidur"]).costs.prices.decode_ns(8, 500) == prices.decode_ns(8, 500)
    with pytest.raises(CostError, match="is no folder; cost_sources"):
        pool("distserve-a100", cost_sources=["vidur"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tensor_parallel": 4}, "has no rows of meta-llama/Llama-2-7b-hf at tensor_parallel = 4"),
        ({"power_cap": 0.7}, "know nothing of power_cap"),
        ({"stages": ["decode"], "pipeline_parallel": 2}, "know nothing of pipeline_parallel"),
    ],
)
def test_what_a_profile_does_not_know_is_refused(folder, changes, said):
    pools = [changes] if "stages" not in changes else [changes, {"name": "other", "stages": ["prefill"]}]
    tables = [{"name": "only", "chip": "a100_80_sxm", "step_profile": folder, **own} for own in pools]
    lengths = {f"workload.synthetic.{side}_tokens": {"kind": "fixed", "value": 100} for side in ("prompt", "output")}
    with pytest.raises(CostError, match=said):
        build_pools(load_scenario("quickstart", {"model.name": "Llama-2-7B", "pool": tables, **lengths}))


def test_a_folder_without_its_tables_is_one_clear_sentence(tmp_path, folder):
    with pytest.raises(CostError, match=r"name ends with mlp\.csv or mlp\.csv\.gz, in Vidur's format, found none"):
        pool(str(tmp_path))
    write_profile(tmp_path, LLAMA)
    (tmp_path / "another_mlp.csv").write_text("x\n")
    with pytest.raises(CostError, match=r"found a_mlp\.csv, another_mlp\.csv"):
        pool(str(tmp_path))
    (tmp_path / "another_mlp.csv").unlink()
    (tmp_path / "a_mlp.csv").write_text("num_tokens\n1\n")
    with pytest.raises(CostError, match=r"a_mlp\.csv: column 'n_embd' is missing"):
        pool(str(tmp_path))
    (tmp_path / "a_mlp.csv").write_text('n_embd\n"x,y\n')
    with pytest.raises(CostError, match=r"a_mlp\.csv: "):
        pool(str(tmp_path))
    assert pool(folder).costs.prices.max_tokens >= 512
