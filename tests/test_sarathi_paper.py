"""Vidur's runs and Sarathi-Serve's evaluation: the very requests, Vidur's figures, and the paper's order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pricing import SHARED, needs_tables

from benchmarks.papers.sarathi import DEPLOYMENTS, SYSTEMS, run
from benchmarks.papers.vidur import TOLERANCE, Found, arrivals, cells, lengths, llama_prices, serve, work_of
from benchmarks.papers.vidur_rows import ALIKE, REPLICAS, ROWS
from simulator.build import build_pools
from simulator.candidates import load_candidate
from simulator.requests import build_requests

TRACE, PROFILES = SHARED / "data" / "traces" / "azure2023_conv.csv", SHARED / "data" / "vidur-profiles"
needs_profiles = pytest.mark.skipif(not (TRACE.is_file() and PROFILES.is_dir()), reason="profiles are not at hand")

#: Rows, and what of each is further off than 2 % but not than with forests that Vidur trains anew.
CHECKED = {
    "conv 2 sarathi": set(),
    "conv 2 vllm": set(),
    "conv 4 sarathi": set(),
    "conv 4 vllm": {"TTFT P90", "TTFT P99", "TBT P99.9"},
    "conv 5 sarathi": set(),
    "conv 6 vllm": {"TBT P90", "TBT P99"},
}


def test_arrivals_are_those_of_vidur():
    """Gaps by Python's generator under seed 42, whose first three numbers are 0.6394, 0.0250 and 0.2750."""
    found = arrivals(2.0, 1000) / 1e9
    assert found[:3] == pytest.approx(np.cumsum([1.0201 / 2, 0.02533 / 2, 0.32160 / 2]), abs=2e-4)
    gaps = np.diff(found, prepend=0.0)
    assert gaps.max() == pytest.approx(1.5)
    # The cut makes the true rate 1.6 % higher for this seed and number.
    assert 1000 / found[-1] == pytest.approx(2.0 * 1.016, rel=2e-3)


def test_pairs_are_shortened_in_proportion_and_shuffled_once():
    trace = pd.DataFrame({"prompt": [100, 8000, 1, 4000], "output": [10, 192, 5000, 97]})
    prompts, outputs = lengths(trace, 4)
    pairs = dict(zip(prompts.tolist(), outputs.tolist(), strict=True))
    # 8000 + 192 tokens are twice 4,096; 4000 + 97 one too many, which both sides give up.
    assert pairs == {100: 10, 4000: 96, 1: 4095, 3999: 96}
    order = pd.Series(range(4)).sample(frac=1, random_state=42).tolist()
    assert prompts.tolist().index(100) == order.index(0)


@needs_profiles
@pytest.mark.parametrize("label", CHECKED)
def test_a_run_gives_vidurs_figures(label):
    (row,) = (row for row in ROWS if row.label == label)
    found = Found.of(serve(row, llama_prices(str(PROFILES)), work_of(row, str(TRACE))))
    off = {name for name, theirs, ours in cells(row, found) if abs(ours / theirs - 1) > TOLERANCE}
    assert off <= CHECKED[label]
    assert found.batches == pytest.approx(row.batches, rel=2e-3)


@needs_profiles
@pytest.mark.parametrize("row", [ALIKE, REPLICAS[1]], ids=lambda row: row.label)
def test_requests_all_alike_and_four_replicas_give_vidurs_figures(row):
    found = Found.of(serve(row, llama_prices(str(PROFILES)), work_of(row, str(TRACE))))
    assert all(abs(ours / theirs - 1) <= 0.005 for _, theirs, ours in cells(row, found))


@needs_profiles
def test_counting_only_who_waits_sends_most_to_the_first_instances():
    """Vidur's least outstanding requests counts queues alone: with empty queues everything goes to the first."""
    row = REPLICAS[0]
    cluster = serve(row, llama_prices(str(PROFILES)), work_of(row, str(TRACE)))
    served = np.bincount(cluster.ledger.column("instance"))
    assert (np.diff(served) < 0).all()


@needs_tables
@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment.name)
def test_a_decode_step_is_what_the_papers_bounds_are_made_of(deployment):
    (pool,) = build_pools(load_candidate(deployment.scenario, "Sarathi-512", {}))
    assert pool.costs.prices.decode_ns(32, 4096) / 1e6 == pytest.approx(deployment.strict_ms / 5, rel=0.15)
    assert deployment.relaxed_ms == 5 * deployment.strict_ms


@needs_tables
def test_chunks_bound_the_tail_that_prompts_first_have_and_orca_runs_out_of_places():
    """Mistral-7B, chat at 1.8 requests/s: between the strict capacities of vLLM and of Sarathi-Serve."""
    tails = {system: run(DEPLOYMENTS[0], system, "chat", 1.8) for system in (*SYSTEMS["strict"], "Sarathi-2048")}
    p99 = {system: tail.gaps[2] for system, tail in tails.items()}
    p999 = {system: tail.gaps[3] for system, tail in tails.items()}
    assert p99["Sarathi-512"] < 100 < p99["vLLM"]
    assert p999["Sarathi-512"] < p999["Sarathi-2048"] < p999["vLLM"] / 4
    # What chunks cost is the wait for the first token.
    assert tails["vLLM"].ttft_p50 < tails["Sarathi-2048"].ttft_p50 < tails["Sarathi-512"].ttft_p50
    assert tails["Orca"].waited_p50 > 2000 > tails["vLLM"].waited_p50


def test_lengths_go_through_the_published_quantiles():
    requests = build_requests(load_candidate("papers/sarathi-yi-34b", "vLLM", {"workload.synthetic.requests": 20_000}))
    assert (requests.prompt_tokens + requests.output_tokens).max() <= 8192
    assert np.percentile(requests.prompt_tokens, (50, 90)) == pytest.approx((1730, 5696), rel=0.03)
    assert np.percentile(requests.output_tokens, (50, 90)) == pytest.approx((415, 834), rel=0.03)
