from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hardware.errors import ScenarioError
from workloads.arrivals import ARRIVAL_PROCESSES, ArrivalProcess
from workloads.streams import stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_PER_S = 4.0
EXAMPLES = {
    "burst": {},
    "constant": {"rate_per_s": RATE_PER_S},
    "poisson": {"rate_per_s": RATE_PER_S},
    "gamma": {"rate_per_s": RATE_PER_S, "burstiness": 0.5},
    "weibull": {"rate_per_s": RATE_PER_S, "shape": 0.7},
    "mmpp": {"states": [{"rate_per_s": 7.0, "mean_s": 2.0}, {"rate_per_s": 2.0, "mean_s": 3.0}]},
    "ramp": {"start_per_s": 2.0, "end_per_s": 8.0},
    "listed": {"rate_per_s": RATE_PER_S, "times": [i * i for i in range(600)]},
}
ANY = TypeAdapter(ArrivalProcess)


def process(kind: str, **changes: object) -> ArrivalProcess:
    return ANY.validate_python({"kind": kind, **EXAMPLES[kind], **changes})


def gaps_s(kind: str, size: int, seed: int = 0, **changes: object) -> NDArray[np.float64]:
    times = process(kind, **changes).times_ns(stream(seed, "arrivals"), size)
    return np.diff(times, prepend=0) / 1e9


def test_the_union_and_the_mapping_name_the_same_processes() -> None:
    union = get_args(get_args(ArrivalProcess)[0])
    assert set(union) == set(ARRIVAL_PROCESSES.values())
    assert set(EXAMPLES) == set(ARRIVAL_PROCESSES)
    for kind, model in ARRIVAL_PROCESSES.items():
        assert model.model_fields["kind"].default == kind
    with pytest.raises(TypeError):
        ARRIVAL_PROCESSES["new"] = ARRIVAL_PROCESSES["burst"]


@pytest.mark.parametrize("kind", ARRIVAL_PROCESSES)
def test_every_process_gives_ordered_times_and_the_same_for_the_same_seed(kind: str) -> None:
    first, again, other = (process(kind).times_ns(stream(seed, "arrivals"), 500) for seed in (1, 1, 2))
    assert first.dtype == np.int64
    assert first.shape == (500,)
    assert first[0] >= 0
    assert (np.diff(first) >= 0).all()
    assert (first == again).all()
    assert (first == other).all() == (kind in {"burst", "constant", "listed"})


@pytest.mark.parametrize("kind", ARRIVAL_PROCESSES)
def test_every_process_round_trips_through_its_own_dump_and_refuses_unknown_keys(kind: str) -> None:
    assert ANY.validate_python(process(kind).model_dump()) == process(kind)
    with pytest.raises(ValidationError, match="rate"):
        process(kind, rate=1.0)


@pytest.mark.parametrize(
    ("kind", "changes", "cv"),
    [
        ("poisson", {}, 1.0),
        ("gamma", {"burstiness": 0.5, "rescale": False}, math.sqrt(2)),
        ("gamma", {"burstiness": 4.0, "rescale": False}, 0.5),
        ("weibull", {"shape": 0.7}, math.sqrt(math.gamma(1 + 2 / 0.7) / math.gamma(1 + 1 / 0.7) ** 2 - 1)),
        ("weibull", {"shape": 2.0}, math.sqrt(4 / math.pi - 1)),
    ],
)
def test_renewal_processes_have_their_mean_rate_and_variation(kind: str, changes: dict[str, object], cv: float) -> None:
    size = 100_000
    gaps = gaps_s(kind, size, **changes)
    four_sigma = 4 * cv / RATE_PER_S / math.sqrt(size)
    assert gaps.mean() == pytest.approx(1 / RATE_PER_S, abs=four_sigma)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_poisson_gaps_are_exponential_in_every_decile() -> None:
    size = 50_000
    gaps = np.sort(gaps_s("poisson", size))
    for p in np.arange(0.1, 1.0, 0.1):
        below = np.searchsorted(gaps, -math.log(1 - p) / RATE_PER_S) / size
        assert below == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / size))


def test_constant_lands_on_multiples_of_the_gap_without_drift() -> None:
    times = process("constant", rate_per_s=3.0).times_ns(stream(0, "arrivals"), 300)
    assert times.tolist() == [round(k * 1e9 / 3) for k in range(1, 301)]


def test_a_burst_is_at_time_zero() -> None:
    assert not process("burst").times_ns(stream(0, "arrivals"), 7).any()


@given(burstiness=st.floats(0.05, 50), size=st.integers(1, 300), rate=st.floats(0.01, 1e4))
def test_a_rescaled_gamma_ends_exactly_at_n_over_rate(burstiness: float, size: int, rate: float) -> None:
    gamma = process("gamma", burstiness=burstiness, rate_per_s=rate)
    last = int(gamma.times_ns(stream(3, "arrivals"), size)[-1])
    assert last == pytest.approx(size / rate * 1e9, abs=1, rel=1e-12)


def test_rescaling_a_gamma_only_stretches_it() -> None:
    plain, rescaled = (gaps_s("gamma", 200, burstiness=8.0, rescale=rescale) for rescale in (False, True))
    ratio = rescaled / plain
    assert ratio == pytest.approx(np.full(200, ratio[0]), abs=1e-3)
    assert ratio[0] != pytest.approx(1.0, rel=1e-3)


def test_a_gamma_without_any_gap_is_left_alone() -> None:
    assert process("gamma", burstiness=1e-4).times_ns(stream(0, "arrivals"), 1).tolist() == [0]


def test_faster_arrivals_are_the_same_arrivals_closer_together() -> None:
    slow, fast = (gaps_s("poisson", 100, rate_per_s=rate) for rate in (1.0, 2.0))
    assert slow / 2 == pytest.approx(fast, abs=2e-9)


@pytest.mark.parametrize("switching", ["cyclic", "random"])
def test_markov_modulation_has_its_mean_rate_and_is_burstier_than_poisson(switching: str) -> None:
    states = [
        {"rate_per_s": 20.0, "mean_s": 1.0},
        {"rate_per_s": 0.0, "mean_s": 2.0},
        {"rate_per_s": 5.0, "mean_s": 1.0},
    ]
    mmpp = process("mmpp", states=states, switching=switching)
    assert mmpp.mean_rate_per_s == pytest.approx(25 / 4)
    size, runs = 2000, 60
    ends = np.array([mmpp.times_ns(stream(seed, "arrivals"), size)[-1] / 1e9 for seed in range(runs)])
    rates = size / ends
    assert rates.mean() == pytest.approx(25 / 4, abs=4 * rates.std() / math.sqrt(runs) + 0.02)
    gaps = np.diff(mmpp.times_ns(stream(0, "arrivals"), 20_000))
    assert gaps.std() / gaps.mean() > 1.3


def test_markov_modulation_starts_in_proportion_to_the_time_spent_in_each_state() -> None:
    states = [{"rate_per_s": 1000.0, "mean_s": 9.0}, {"rate_per_s": 0.01, "mean_s": 1.0}]
    mmpp, runs = process("mmpp", states=states), 400
    busy = sum(mmpp.times_ns(stream(seed, "arrivals"), 1)[0] < 10**7 for seed in range(runs))
    assert busy / runs == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / runs) + 0.01)


def test_markov_states_follow_on_from_block_to_block() -> None:
    blocks = process("mmpp")._cumulative_rate(stream(0, "arrivals"))
    (expected, time_s), (next_expected, next_time_s) = next(blocks), next(blocks)
    assert (next_expected[0], next_time_s[0]) == (expected[-1], time_s[-1])
    slopes = [np.diff(expected) / np.diff(time_s), np.diff(next_expected) / np.diff(next_time_s)]
    rates = np.rint(np.concatenate(slopes))
    assert set(rates[::2].tolist()) | set(rates[1::2].tolist()) == {2.0, 7.0}
    assert (rates[1:] != rates[:-1]).all()


def test_markov_modulation_with_equal_states_is_poisson() -> None:
    states = [{"rate_per_s": RATE_PER_S, "mean_s": 1.0}, {"rate_per_s": RATE_PER_S, "mean_s": 5.0}]
    gaps = gaps_s("mmpp", 50_000, states=states)
    assert gaps.mean() == pytest.approx(1 / RATE_PER_S, abs=4 / RATE_PER_S / math.sqrt(50_000))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.03)


def test_cyclic_and_random_switching_differ_only_from_three_states_on() -> None:
    two, three = EXAMPLES["mmpp"]["states"], [*EXAMPLES["mmpp"]["states"], {"rate_per_s": 0, "mean_s": 9}]
    rng = stream(0, "arrivals")
    for states, visits in ((two, {(0, 1), (1, 0)}), (three, {(0, 1), (1, 2), (2, 0)})):
        order = process("mmpp", states=states)._visits(rng, 0)
        assert order[0] == 0
        assert set(zip(order[:-1].tolist(), order[1:].tolist(), strict=True)) == visits
    order = process("mmpp", states=three, switching="random")._visits(rng, 2)
    assert order[0] == 2
    pairs, counts = np.unique(order[:-1] * 3 + order[1:], return_counts=True)
    assert pairs.tolist() == [1, 2, 3, 5, 6, 7]
    assert counts.min() > 500


@pytest.mark.parametrize(("strategy", "middle"), [("linear", 5.0), ("exponential", 4.0)])
def test_a_ramp_moves_its_rate_by_request_index(strategy: str, middle: float) -> None:
    ramp = process("ramp", strategy=strategy)
    rates = ramp.rates_per_s(5)
    assert rates[[0, 2, 4]].tolist() == pytest.approx([2.0, middle, 8.0])
    size = 40_000
    gaps, expected = gaps_s("ramp", size, strategy=strategy), 1 / ramp.rates_per_s(size)
    assert gaps.sum() == pytest.approx(expected.sum(), abs=4 * math.sqrt((expected**2).sum()))
    early, late = gaps[: size // 10], gaps[-size // 10 :]
    assert early.mean() > 2.5 * late.mean()


def test_a_ramp_of_one_request_starts_at_its_first_rate() -> None:
    assert process("ramp").rates_per_s(1).tolist() == [2.0]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("poisson", {"rate_per_s": 0}, "rate_per_s"),
        ("poisson", {"rate_per_s": -1}, "rate_per_s"),
        ("constant", {"rate_per_s": math.inf}, "rate_per_s"),
        ("gamma", {"burstiness": 0}, "burstiness"),
        ("weibull", {"shape": 0}, "shape"),
        ("ramp", {"start_per_s": 0}, "start_per_s"),
        ("ramp", {"strategy": "cubic"}, "strategy"),
        ("mmpp", {"states": []}, "states"),
        ("mmpp", {"states": [{"rate_per_s": 0, "mean_s": 1}] * 2}, "arrivals per stay"),
        ("mmpp", {"states": [{"rate_per_s": 1, "mean_s": 1e-9}] * 2}, "arrivals per stay"),
    ],
)
def test_impossible_parameters_are_refused_by_name(kind: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        process(kind, **changes)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="'poisson'"):
        ANY.validate_python({"kind": "poison", "rate_per_s": 1})


def test_arrivals_beyond_the_clock_are_a_scenario_error() -> None:
    with pytest.raises(ScenarioError, match="146 years"):
        process("constant", rate_per_s=1e-9).times_ns(stream(0, "arrivals"), 100)


def test_listed_times_keep_their_pattern_at_any_rate_and_number() -> None:
    times = process("listed", times=[0, 1, 3, 8], rate_per_s=2.0)
    assert times.times_ns(stream(0, "arrivals"), 4).tolist() == [0, 250_000_000, 750_000_000, 2_000_000_000]
    assert times.times_ns(stream(9, "arrivals"), 3).tolist() == [0, 500_000_000, 1_500_000_000]


@pytest.mark.parametrize(("times", "size"), [([0, 1], 3), ([0, 0, 1], 2)])
def test_too_few_listed_times_are_refused(times: list[int], size: int) -> None:
    with pytest.raises(ScenarioError, match=f"{len(times)} listed times for {size} requests"):
        process("listed", times=times).times_ns(stream(0, "arrivals"), size)


@pytest.mark.parametrize("times", [[], [1, 0], [-1, 2]])
def test_impossible_listed_times_are_refused(times: list[int]) -> None:
    with pytest.raises(ValidationError):
        process("listed", times=times)
