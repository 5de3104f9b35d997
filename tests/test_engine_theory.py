"""The engine against what can be computed with a pencil: closed forms, queueing theory, conservation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, Users, linear_prices


def whole_prompt(tokens):
    """Pairs and reach of one whole prompt."""
    return {"prompts": 1, "pairs": tokens * tokens, "reach": tokens, "decodes": 0, "context": 0}


@pytest.mark.parametrize(("prompt", "output"), [(1, 1), (1, 2), (100, 50), (2048, 1), (1999, 700)])
def test_one_request_takes_its_closed_form_to_the_nanosecond(prompt, output):
    prices = linear_prices()
    cluster = Deployment(prices=prices).serve(OpenLoop([123]), [prompt], [output])
    prefill = prices.mixed_ns(tokens=prompt, samples=1, **whole_prompt(prompt))
    decode = sum(prices.decode_ns(1, prompt + i) for i in range(output - 1))
    assert cluster.ledger.first_token_ns[0] == 123 + prefill
    assert cluster.ledger.finish_ns[0] == 123 + prefill + decode


@pytest.mark.parametrize("prompt", [2049, 5000, 8192])
def test_a_long_prompt_takes_its_chunks_one_after_the_other(prompt):
    prices = linear_prices()
    cluster = Deployment(prices=prices, max_tokens=2048).serve(OpenLoop([0]), [prompt], [1])
    expected, past = 0, 0
    while past < prompt:
        new = min(2048, prompt - past)
        end = past + new
        chunk = {"prompts": 1, "pairs": end * end - past * past, "reach": end, "decodes": 0, "context": 0}
        expected += prices.mixed_ns(tokens=new, samples=int(end == prompt), **chunk)
        past = end
    assert cluster.ledger.finish_ns[0] == expected


def mean_wait(cluster):
    ledger = cluster.ledger
    return (ledger.column("admitted_ns") - ledger.column("arrival_ns")).astype(float)


def batch_means(values, batches=25):
    """Return the mean and its half-width at 99.9 % from means of long batches."""
    means = np.array([part.mean() for part in np.array_split(values, batches)])
    return means.mean(), 3.75 * means.std(ddof=1) / np.sqrt(batches)


@pytest.mark.parametrize(("output", "load"), [(1, 0.5), (1, 0.8), (12, 0.7)])
def test_batch_cap_one_is_an_m_d_1_queue(output, load):
    """Pollaczek-Khinchine with a constant service time s: the mean wait is load * s / (2 * (1 - load))."""
    prices = linear_prices(context_ns=0.0)
    service = prices.mixed_ns(tokens=64, samples=1, **whole_prompt(64)) + (output - 1) * prices.decode_ns(1, 0)
    rng = np.random.default_rng(11)
    size = 40_000
    arrivals = np.cumsum(rng.exponential(service / load, size)).astype(np.int64)
    cluster = Deployment(prices=prices, max_sequences=1).serve(
        OpenLoop(arrivals.tolist()), np.full(size, 64), np.full(size, output)
    )
    found, half_width = batch_means(mean_wait(cluster)[size // 10 :])
    assert abs(found - load * service / (2 * (1 - load))) < half_width
    busy = sum(int(log.table()["duration_ns"].sum()) for log in cluster.logs)
    assert busy == size * service


def test_replicas_behind_a_random_router_are_independent_m_d_1_queues():
    from simulator.router import Random

    prices = linear_prices(context_ns=0.0)
    service = prices.mixed_ns(tokens=64, samples=1, **whole_prompt(64))
    rng = np.random.default_rng(12)
    size = 60_000
    arrivals = np.cumsum(rng.exponential(service / 0.6 / 3, size)).astype(np.int64)
    deployment = Deployment(prices=prices, max_sequences=1, replicas=3, router=Random(np.random.default_rng(3)))
    cluster = deployment.serve(OpenLoop(arrivals.tolist()), np.full(size, 64), np.ones(size, int))
    found, half_width = batch_means(mean_wait(cluster)[size // 10 :])
    assert abs(found - 0.6 * service / (2 * 0.4)) < half_width


def busy_workload(seed, size=400, blocks=1000):
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(6_000_000, size)).astype(int).tolist()
    prompts, outputs = rng.integers(1, 600, size), rng.integers(1, 150, size)
    return Deployment(blocks=blocks, replicas=2).serve(OpenLoop(arrivals), prompts, outputs)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_littles_law_between_two_independent_records(seed):
    """Time-integrated decoding sequences (step log) equal time spent decoding summed over requests (ledger)."""
    cluster = busy_workload(seed)
    ledger = cluster.ledger
    integrated = sum(int((log.table()["decodes"] * log.table()["duration_ns"]).sum()) for log in cluster.logs)
    spent = int((ledger.column("finish_ns") - ledger.column("first_token_ns")).sum())
    assert not ledger.column("preemptions").any()
    assert integrated == spent


def test_littles_law_in_the_long_run():
    """Mean number in the system, sampled at random times, is the arrival rate times the mean stay."""
    rng = np.random.default_rng(21)
    size = 20_000
    arrivals = np.cumsum(rng.exponential(9_000_000, size)).astype(np.int64)
    cluster = Deployment().serve(OpenLoop(arrivals.tolist()), rng.integers(1, 400, size), rng.integers(1, 120, size))
    finish = np.sort(cluster.ledger.column("finish_ns"))
    start, end = arrivals[size // 10], arrivals[-1]
    sampled = rng.uniform(start, end, 40_000)
    present = np.searchsorted(arrivals, sampled) - np.searchsorted(finish, sampled)
    stay = (cluster.ledger.column("finish_ns") - arrivals)[size // 10 :].mean()
    rate = (size - size // 10) / (end - start)
    assert present.mean() == pytest.approx(rate * stay, rel=0.03)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([60, 90, 400]))
def test_work_is_conserved(seed, blocks):
    """Prompt tokens are computed once and once more per preemption; decode steps produce the rest."""
    cluster = busy_workload(seed, size=120, blocks=blocks)
    ledger, tables = cluster.ledger, [log.table() for log in cluster.logs]
    computed = sum(int(t["tokens"].sum()) for t in tables)
    prompts = int(ledger.column("prompt_tokens").sum())
    assert computed >= prompts
    assert (computed == prompts) == (not ledger.column("preemptions").any())
    produced = sum(int((t["decodes"] * t["steps"] + t["completed"]).sum()) for t in tables)
    assert produced == int(ledger.column("output_tokens").sum())


def test_a_closed_loop_never_has_more_in_flight_than_users():
    rng = np.random.default_rng(4)
    size, users = 500, 16
    cluster = Deployment(replicas=2).serve(
        Users(users, [0] * (size - users)), rng.integers(1, 300, size), rng.integers(1, 90, size)
    )
    arrival, finish = (np.sort(cluster.ledger.column(name)) for name in ("arrival_ns", "finish_ns"))
    in_flight = np.searchsorted(arrival, arrival, side="right") - np.searchsorted(finish, arrival, side="left")
    assert in_flight.max() == users
    # Each later request follows the end of another by the shortest time there is, one nanosecond.
    assert (arrival[users:] - finish[: size - users]).tolist() == [1] * (size - users)


def test_think_time_separates_the_end_of_a_request_from_the_next():
    think = 7_000_000
    cluster = Deployment().serve(Users(1, [think] * 9), [50] * 10, [5] * 10)
    ledger = cluster.ledger
    gaps = ledger.column("arrival_ns")[1:] - ledger.column("finish_ns")[:-1]
    assert gaps.tolist() == [think] * 9


def test_a_request_that_can_never_fit_is_refused_and_counted():
    cluster = Deployment(blocks=10, block_tokens=16).serve(OpenLoop([0, 1, 2]), [100, 200, 20], [20, 20, 20])
    assert cluster.ledger.column("failed").tolist() == [0, 1, 0]
    assert cluster.ledger.column("finish_ns")[1] == -1
    assert (cluster.ledger.column("finish_ns")[[0, 2]] > 0).all()


def test_without_chunking_a_prompt_waits_for_a_step_that_holds_it_whole():
    prices = linear_prices()
    arrivals, prompts, outputs = OpenLoop([0, 0, 0]), [300, 300, 300], [3, 3, 3]
    whole = Deployment(prices=prices, max_tokens=512, chunked=False).serve(arrivals, prompts, outputs)
    cut = Deployment(prices=prices, max_tokens=512).serve(arrivals, prompts, outputs)
    assert whole.logs[0].table()["prompts"][:3].tolist() == [1, 1, 1]
    assert cut.logs[0].table()["tokens"][:2].tolist() == [512, 388 - 0]
