"""Engines that share chips: rates, times, memory, and deployments in which nothing is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_encode_stage import PD, D, E, P, encoding, mean, run, scenario

from hardware.errors import CapacityError
from simulator.chip_share import SLOWDOWNS, ChipShare, SharedWakeUp
from simulator.clock import Clock

SHARED = {
    "(E-P)-D": ({**E, "shares": "prefill"}, P, D),
    "(E-D)-P": ({**E, "shares": "decode"}, P, D),
    "(E-PD)": ({**E, "shares": "prefill+decode"}, PD),
}


def ends_of(runs: list[tuple[int, int, str]]) -> list[int]:
    """Return when runs end that begin at a time, take so long alone and do such work, each on a loop of its own."""
    env, ends = Clock(), {}
    share = ChipShare(env)

    def loop(place: int, start_ns: int, duration_ns: int, wake_up: SharedWakeUp):
        if start_ns:
            wake_up.share = None
            wake_up.after(start_ns)
            yield
            wake_up.share = share
        wake_up.after(duration_ns)
        yield
        ends[place] = env.now
        wake_up.when_rung()
        yield

    for place, (start_ns, duration_ns, work) in enumerate(runs):
        wake_up = SharedWakeUp(env, work)
        wake_up.share = share
        wake_up.drive(loop(place, start_ns, duration_ns, wake_up))
    env.run()
    return [ends[place] for place in range(len(runs))]


def test_a_run_alone_takes_its_time() -> None:
    assert ends_of([(0, 1000, "compute")]) == [1000]


def factor(one: tuple[Any, float], other: tuple[Any, float]) -> float:
    """Return how many times as long a run takes beside another, each with its work and the share it communicates."""
    share, runs = ChipShare(Clock()), []
    for work, communicates in (one, other):
        runs.append(wake_up := SharedWakeUp(Clock(), work))
        wake_up.will(work, communicates)
        share._runs[wake_up] = 1.0
    return share._slowdown(runs[0])


def test_who_communicates_leaves_arithmetic_its_units_but_for_a_few() -> None:
    half, none = ("compute", 0.5), ("compute", 0.0)
    assert factor(none, ("compute", 1.0)) == pytest.approx(132 / 112)
    assert factor(("memory", 0.0), ("compute", 1.0)) == pytest.approx(3350 / 2900)
    assert factor(("memory", 1.0), none) == 1.0
    assert factor(("memory", 1.0), ("compute", 1.0)) == 2.0
    assert factor(none, half) == pytest.approx((1.74 + 132 / 112) / 2)
    assert factor(half, half) == pytest.approx((1.74 + 132 / 112 + 1.0 + 2.0) / 4)


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["compute", "memory"]))
def test_a_mix_is_between_its_kinds(one: float, other: float, work: str) -> None:
    corners = [factor((work, a), ("compute", b)) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    assert min(corners) - 1e-9 <= factor((work, one), ("compute", other)) <= max(corners) + 1e-9


def test_two_runs_slow_each_other_down_while_both_last() -> None:
    slow = SLOWDOWNS["compute", "compute"]
    short, long = ends_of([(0, 1000, "compute"), (0, 3000, "compute")])
    assert short == pytest.approx(1000 * slow, abs=2)
    assert long == pytest.approx(3000 + 1000 * slow - 1000, abs=2)


def test_a_run_that_begins_later_slows_the_rest() -> None:
    slow = SLOWDOWNS["memory", "compute"]
    first, second = ends_of([(0, 1000, "memory"), (400, 5000, "compute")])
    assert first == pytest.approx(400 + 600 * slow, abs=2)
    done = 600 * slow / SLOWDOWNS["compute", "memory"]
    assert second == pytest.approx(first + 5000 - done, abs=2)


@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(["compute", "memory"])), max_size=2
    )
)
def test_nobody_is_faster_than_alone_or_slower_than_beside(runs: list[tuple[int, int, str]]) -> None:
    for (start, duration, _), end in zip(runs, ends_of(runs), strict=True):
        assert start + duration <= end <= start + duration * max(SLOWDOWNS.values()) + 2


@pytest.mark.parametrize("shape", SHARED)
def test_deployments_that_share_serve_everything(shape: str) -> None:
    result = run(SHARED[shape], workload={"arrivals": {"kind": "poisson", "rate_per_s": 20.0}})
    assert result.requests["completed"].all()
    table = result.requests
    parts = table[["encode_queue_ms", "encode_ms", "feature_ms", "queue_ms", "prefill_ms"]].to_numpy()
    first = result.run.cluster.ledger
    first_ms = (first.column("first_token_ns") - first.column("arrival_ns")) / 1e6
    assert np.allclose(parts.sum(axis=1), first_ms)


@pytest.mark.parametrize("shape", SHARED)
def test_single_steps_are_the_same(shape: str) -> None:
    tables = [run(SHARED[shape], macro_steps=macro_steps).requests for macro_steps in (True, False)]
    assert tables[0].equals(tables[1])


def test_what_chips_exchange_is_a_part_of_every_step() -> None:
    """Two chips share out prompts, encoder and decoding: for a part of each step they only communicate."""
    two = {"tensor_parallel": 2}
    pools = tuple({**pool, **two} for pool in SHARED["(E-P)-D"])
    busy = {"arrivals": {"kind": "poisson", "rate_per_s": 20.0}}
    result = run(pools, workload=busy)
    exchanges = [pool.exchange for pool in result.run.pools]
    assert exchanges[2] is None
    prices, exchange = result.run.pools[1].parts.prices, exchanges[1]
    step_ns = prices.mixed_ns(
        tokens=4096, samples=1, decodes=0, context=0, prompts=1, pairs=4096**2, reach=4096, squares=4096**2
    )
    assert 0.05 < exchange.share(step_ns, 4096) < 0.5
    assert exchange.share(1, 4096) == 1.0
    assert 0.02 < exchanges[0].share(7_000_000, 4784, 1196) < 0.9
    assert all(pool.exchange is None for pool in run(SHARED["(E-P)-D"]).run.pools)
    assert result.requests.equals(run(pools, workload=busy, macro_steps=False).requests)


def test_chips_are_counted_once() -> None:
    summary = run(SHARED["(E-P)-D"]).summary
    assert summary["chips"] == 2
    assert summary["pools"]["encode"]["chips"] == 0
    assert summary["mean_power_w"] < 2.01 / 3 * run((E, P, D)).summary["provisioned_power_w"]


def test_whoever_shares_with_the_encoder_is_slowed_down() -> None:
    busy = {"arrivals": {"kind": "poisson", "rate_per_s": 12.0}, "requests": 150}
    prompt, answer = ({shape: mean(run(SHARED[shape], workload=busy), name) for shape in ("(E-P)-D", "(E-D)-P")}
                      for name in ("prefill_ms", "tpot_ms"))  # fmt: skip
    assert prompt["(E-P)-D"] > prompt["(E-D)-P"]
    assert answer["(E-P)-D"] < answer["(E-D)-P"]


def test_a_neighbour_that_idles_changes_nothing() -> None:
    text = {"text_only_share": 1.0}
    apart = run((P, D), workload=text).requests
    beside = run(SHARED["(E-P)-D"], workload=text).requests
    assert (apart["ttft_ms"] == beside["ttft_ms"]).all()
    assert (apart["tpot_ms"].dropna() == beside["tpot_ms"].dropna()).all()


def test_gaps_between_tokens_are_those_that_passed() -> None:
    busy = {"arrivals": {"kind": "poisson", "rate_per_s": 12.0}, "output_tokens": {"kind": "fixed", "value": 30}}
    summary = run(SHARED["(E-D)-P"], workload=busy).summary
    assert summary["mean_itl_ms"] == pytest.approx(summary["mean_tpot_ms"], rel=1e-6)


def test_time_by_origin_is_that_of_the_work() -> None:
    shared, apart = (run(pools).summary["pools"]["prefill"]["time_ms"] for pools in (SHARED["(E-P)-D"], (E, P, D)))
    assert sum(shared.values()) == pytest.approx(sum(apart.values()), rel=0.1)


def test_an_encoder_that_dies_leaves_the_chips_to_its_neighbour() -> None:
    down = {
        "incident": [{"kind": "instance_down", "at_s": 3.0, "pool": "encode", "instance": 0, "restart_after_s": 1.0}]
    }
    result = run(SHARED["(E-P)-D"], operations=down)
    assert result.requests["completed"].all()
    assert encoding(result)["items"] >= result.requests["images"].sum()


def test_what_does_not_fit_together_is_refused() -> None:
    half = {"engine_options": {"gpu_memory_utilization": 0.6}}
    with pytest.raises(CapacityError, match=r"share chips of .* lower gpu_memory_utilization"):
        run((E, {**P, **half}, {**D, **half, "shares": "prefill"}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shares": "nobody"}, "did you mean|expected one of|is 'nobody'"),
        ({"shares": "prefill", "replicas": 2}, "expected as many instances"),
        ({"shares": "prefill", "chip": "h200_sxm"}, "expected as many instances on as many of the same chips"),
        ({"shares": "encode"}, "is 'encode'"),
    ],
)
def test_impossible_sharing_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        scenario(({**E, **change}, P, D))
