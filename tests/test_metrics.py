"""Metrics against the same formulas applied token by token with plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Deployment, OpenLoop

from simulator.metrics import Bounds, latency_summary, request_times, throughput_summary
from simulator.token_gaps import token_gaps


def run(seed, blocks=1000, size=60, *, macro_steps=True):
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(5_000_000, size)).astype(int).tolist()
    prompts, outputs = rng.integers(1, 400, size), rng.integers(1, 60, size)
    return Deployment(blocks=blocks, replicas=2).serve(OpenLoop(arrivals), prompts, outputs, macro_steps=macro_steps)


def gaps_of(cluster, **options):
    return token_gaps(cluster.logs, [i.prices for i in cluster.instances], cluster.ledger, **options)


def token_times(cluster):
    """Rebuild the time of every token of every request from single steps: (request -> times)."""
    ledger = cluster.ledger
    found = []
    for index in range(len(ledger)):
        table = cluster.logs[ledger.instance[index]].table()
        ends = table["start_ns"] + table["duration_ns"]
        first, last = ledger.first_token_ns[index], ledger.finish_ns[index]
        inside = (ends >= first) & (ends <= last) & ((table["decodes"] > 0) | (ends == first))
        found.append(ends[inside])
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_pooled_gaps_equal_every_gap_one_by_one(seed):
    single = run(seed, macro_steps=False)
    assert not single.ledger.column("preemptions").any()
    every = np.concatenate([np.diff(times) for times in token_times(single)])
    found = gaps_of(run(seed))
    assert np.repeat(found.gap_ns, found.count).tolist() == sorted(every.tolist())
    for q in (0, 50, 90, 99, 99.9, 100):
        assert found.percentile_ms(q) == pytest.approx(np.percentile(every / 1e6, q), rel=1e-12)
    assert found.mean_ms() == pytest.approx(every.mean() / 1e6)
    assert found.std_ms() == pytest.approx(every.std() / 1e6)


def test_gaps_span_preemptions_and_none_is_lost():
    cluster = run(3, blocks=40, size=200)
    ledger = cluster.ledger
    assert ledger.column("preemptions").any()
    found = gaps_of(cluster)
    assert int(found.count.sum()) == int((ledger.column("output_tokens") - 1).sum())
    total = int((ledger.column("finish_ns") - ledger.column("first_token_ns")).sum())
    assert int((found.gap_ns * found.count).sum()) == total
    assert int(found.per_second.sum()) == int(ledger.column("output_tokens").sum())


def test_latencies_follow_the_formulas():
    cluster = run(5)
    ledger = cluster.ledger
    times = request_times(cluster.ledger, Bounds())
    for index in range(len(ledger)):
        ttft = (ledger.first_token_ns[index] - ledger.arrival_ns[index]) / 1e6
        e2e = (ledger.finish_ns[index] - ledger.arrival_ns[index]) / 1e6
        assert times.ttft_ms[index] == ttft
        assert times.e2e_ms[index] == e2e
        if ledger.output_tokens[index] > 1:
            assert times.tpot_ms[index] == pytest.approx((e2e - ttft) / (ledger.output_tokens[index] - 1))
        else:
            assert np.isnan(times.tpot_ms[index])
    np.testing.assert_allclose(times.queue_ms + times.prefill_ms, times.ttft_ms)


def test_a_summary_counts_what_numpy_counts():
    cluster = run(6)
    times, gaps = request_times(cluster.ledger, Bounds(ttft_ms=2, tpot_ms=1.2)), gaps_of(cluster)
    found = latency_summary(times, gaps) | throughput_summary(cluster.ledger, times, gaps)
    tpot = times.tpot_ms[~np.isnan(times.tpot_ms)]
    assert found["p99_tpot_ms"] == np.percentile(tpot, 99)
    assert found["mean_ttft_ms"] == times.ttft_ms.mean()
    assert found["std_e2el_ms"] == times.e2e_ms.std()
    good = (times.ttft_ms <= 2) & (np.nan_to_num(times.tpot_ms) <= 1.2)
    assert 0 < good.sum() < len(good)
    assert found["slo_attainment"] == good.mean()
    assert found["request_goodput"] == pytest.approx(good.sum() / found["duration"])
    assert found["duration"] == cluster.ledger.column("finish_ns").max() / 1e9
    assert found["total_output_tokens"] == int(cluster.ledger.column("output_tokens").sum())
    arrival, finish = cluster.ledger.column("arrival_ns"), cluster.ledger.column("finish_ns")
    assert found["max_concurrent_requests"] == max(int(((arrival <= t) & (finish > t)).sum()) for t in arrival)


def test_one_token_meets_any_bound_on_the_time_per_token():
    cluster = Deployment().serve(OpenLoop([0]), [10], [1])
    assert request_times(cluster.ledger, Bounds(tpot_ms=1e-9)).met_slo.tolist() == [True]


def test_a_refused_request_misses_the_slo_and_has_no_latency():
    cluster = Deployment(blocks=4).serve(OpenLoop([0, 0]), [500, 10], [5, 5])
    times = request_times(cluster.ledger, Bounds())
    assert times.met_slo.tolist() == [False, True]
    assert np.isnan(times.ttft_ms[0])
    found = throughput_summary(cluster.ledger, times, gaps_of(cluster))
    assert (found["completed"], found["failed"], found["slo_attainment"]) == (1, 1, 0.5)


def test_the_warm_up_is_simulated_and_not_measured():
    cluster = run(8)
    arrival = cluster.ledger.column("arrival_ns")
    warmup = int(arrival[30])
    times, gaps = request_times(cluster.ledger, Bounds(), warmup), gaps_of(cluster, after_ns=warmup)
    found = throughput_summary(cluster.ledger, times, gaps, warmup)
    assert found["completed"] == 30
    assert found["duration"] == pytest.approx((cluster.ledger.column("finish_ns")[30:].max() - warmup) / 1e9)
    assert int(gaps.count.sum()) < int(gaps_of(cluster).count.sum())
