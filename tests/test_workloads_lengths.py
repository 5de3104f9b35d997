from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from workloads.durations import DURATIONS, DurationDistribution
from workloads.lengths import LENGTHS, LengthDistribution
from workloads.limits import MAX_TOKENS
from workloads.shapes import choose
from workloads.streams import stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

LENGTH_EXAMPLES = {
    "fixed": {"value": 128},
    "uniform": {"low": 10, "high": 20},
    "lognormal": {"mean": 2000, "sigma": 0.6},
    "exponential": {"mean": 300},
    "empirical": {"values": [1, 5, 7], "weights": [1, 0, 3]},
    "zipf": {"alpha": 1.1, "low": 2, "high": 50},
    "listed": {"values": [7, 3, 9]},
    "truncated_exponential": {"mean": 700, "max": 1800},
}
DURATION_EXAMPLES = {
    "fixed": {"value": 0},
    "uniform": {"low": 0.5, "high": 1.5},
    "lognormal": {"mean": 8, "sigma": 1.0},
    "exponential": {"mean": 8},
}
ANY_LENGTH = TypeAdapter(LengthDistribution)
ANY_DURATION = TypeAdapter(DurationDistribution)
SIZE = 50_000


def length(kind: str, **changes: object) -> LengthDistribution:
    return ANY_LENGTH.validate_python({"kind": kind, **LENGTH_EXAMPLES[kind], **changes})


def sample(kind: str, size: int = SIZE, seed: int = 0, **changes: object) -> NDArray[np.int64]:
    return length(kind, **changes).sample(stream(seed, "prompt_tokens"), size)


def duration(kind: str, **changes: object) -> DurationDistribution:
    return ANY_DURATION.validate_python({"kind": kind, **DURATION_EXAMPLES[kind], **changes})


@pytest.mark.parametrize(
    ("mapping", "union", "examples"),
    [
        (LENGTHS, LengthDistribution, LENGTH_EXAMPLES),
        (DURATIONS, DurationDistribution, DURATION_EXAMPLES),
    ],
)
def test_the_union_and_the_mapping_name_the_same_distributions(
    mapping: Mapping[str, type], union: object, examples: Mapping[str, object]
) -> None:
    assert set(get_args(get_args(union)[0])) == set(mapping.values())
    assert set(examples) == set(mapping)
    assert all(model.model_fields["kind"].default == kind for kind, model in mapping.items())
    with pytest.raises(TypeError):
        mapping["new"] = mapping["fixed"]


@pytest.mark.parametrize("kind", LENGTHS)
def test_every_length_is_a_whole_positive_number_and_repeats_with_its_seed(kind: str) -> None:
    first, again, other = (sample(kind, 300, seed) for seed in (1, 1, 2))
    assert first.dtype == np.int64
    assert first.shape == (300,)
    assert first.min() >= 1
    assert (first == again).all()
    assert (first == other).all() == (kind in {"fixed", "listed"})
    assert ANY_LENGTH.validate_python(length(kind).model_dump()) == length(kind)


@pytest.mark.parametrize("kind", DURATIONS)
def test_every_duration_is_finite_and_not_negative(kind: str) -> None:
    drawn = duration(kind).sample_s(stream(1, "think_time_s"), 300)
    assert drawn.dtype == np.float64
    assert drawn.shape == (300,)
    assert drawn.min() >= 0
    assert np.isfinite(drawn).all()
    assert ANY_DURATION.validate_python(duration(kind).model_dump()) == duration(kind)


@pytest.mark.parametrize("kind", ["exponential", "lognormal"])
def test_durations_have_their_mean_and_keep_their_maximum(kind: str) -> None:
    drawn = duration(kind).sample_s(stream(0, "think_time_s"), SIZE)
    assert drawn.mean() == pytest.approx(8, abs=4 * drawn.std() / math.sqrt(SIZE))
    assert duration(kind, max=9.5).sample_s(stream(0, "think_time_s"), SIZE).max() == 9.5


def test_a_uniform_duration_fills_its_range() -> None:
    drawn = duration("uniform").sample_s(stream(0, "think_time_s"), SIZE)
    assert (drawn >= 0.5).all()
    assert (drawn <= 1.5).all()
    assert drawn.mean() == pytest.approx(1.0, abs=4 / math.sqrt(12 * SIZE))


@given(low=st.integers(1, 50), more=st.integers(0, 5))
def test_uniform_includes_both_ends_and_nothing_else(low: int, more: int) -> None:
    drawn = sample("uniform", 400, low=low, high=low + more)
    assert set(drawn.tolist()) == set(range(low, low + more + 1))


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
def test_the_mean_of_a_lognormal_is_its_mean_parameter(sigma: float) -> None:
    drawn = sample("lognormal", sigma=sigma)
    assert drawn.mean() == pytest.approx(2000, abs=4 * drawn.std() / math.sqrt(SIZE) + 0.5)
    assert np.log(drawn).std() == pytest.approx(sigma, abs=0.02)


def test_clipped_lengths_stay_within_their_limits_and_reach_them() -> None:
    drawn = sample("lognormal", min=1000, max=3000)
    assert (drawn.min(), drawn.max()) == (1000, 3000)
    drawn = sample("exponential", mean=3, max=9)
    assert (drawn.min(), drawn.max()) == (1, 9)


def test_lengths_never_exceed_what_a_table_can_hold() -> None:
    assert sample("lognormal", mean=1e9, sigma=1).max() == MAX_TOKENS


def test_exponential_lengths_have_their_mean() -> None:
    # Rounding up to one token adds a little: below 0.5 becomes 1.
    drawn = sample("exponential")
    assert drawn.mean() == pytest.approx(300, abs=4 * 300 / math.sqrt(SIZE) + 0.01)


def test_weighted_values_appear_in_proportion_and_weight_zero_never() -> None:
    values, counts = np.unique(sample("empirical"), return_counts=True)
    assert values.tolist() == [1, 7]
    assert counts[0] / SIZE == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / SIZE))


def test_a_weight_of_zero_is_not_drawn_even_at_the_edges() -> None:
    class Edges:
        def random(self, size: int) -> NDArray[np.float64]:
            return np.resize([0.0, 0.5, np.nextafter(1.0, 0.0)], size)

    assert choose(Edges(), 3, np.array([0.0, 1.0, 0.0, 1.0, 0.0])).tolist() == [1, 3, 3]


def test_values_without_weights_are_equally_likely() -> None:
    _, counts = np.unique(sample("empirical", weights=None), return_counts=True)
    assert counts / SIZE == pytest.approx(np.full(3, 1 / 3), abs=4 * math.sqrt(2 / 9 / SIZE))


@given(
    steps=st.lists(st.integers(0, 400), min_size=2, max_size=12),
    first=st.integers(1, 100),
)
def test_quantiles_come_back_at_their_probabilities(steps: list[int], first: int) -> None:
    lengths = np.cumsum([first, *steps]).tolist()
    probabilities = np.linspace(0, 1, len(lengths)).tolist()
    table = list(zip(probabilities, lengths, strict=True))
    drawn = length("empirical", values=None, weights=None, quantiles=table).sample(stream(0, "x"), 4000)
    assert drawn.min() >= lengths[0]
    assert drawn.max() <= lengths[-1]
    for p, value in table:
        four_sigma = 4 * math.sqrt(p * (1 - p) / 4000) + 1e-9
        assert (drawn < value).mean() <= p + four_sigma
        assert (drawn <= value).mean() >= p - four_sigma


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.0, 1, 4), (1.0, 1, 100), (2.5, 10, 60)])
def test_zipf_probabilities_fall_as_the_power_says(alpha: float, low: int, high: int) -> None:
    drawn = sample("zipf", alpha=alpha, low=low, high=high)
    weights = np.arange(low, high + 1, dtype=float) ** -alpha
    expected = weights / weights.sum()
    seen = np.bincount(drawn, minlength=high + 1)[low:] / SIZE
    assert (np.abs(seen - expected) <= 5 * np.sqrt(expected / SIZE)).all()


def test_a_steep_zipf_far_from_one_is_its_lowest_value() -> None:
    assert set(sample("zipf", 100, alpha=1e9, low=1000, high=2000).tolist()) == {1000}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("fixed", {"value": 0}, "greater than or equal to 1"),
        ("fixed", {"value": 2**31}, "less than or equal"),
        ("fixed", {"value": 1.5}, "integer"),
        ("uniform", {"low": 30}, "low 30 is above high 20; expected low <= high"),
        ("lognormal", {"mean": -1}, "mean"),
        ("lognormal", {"mean": math.nan}, "mean"),
        ("lognormal", {"sigma": -0.1}, "sigma"),
        ("lognormal", {"min": 9, "max": 8}, "min 9 is above max 8"),
        ("exponential", {"mean": 0}, "mean"),
        ("empirical", {"values": []}, "empty"),
        ("empirical", {"weights": [1]}, "1 weights for 3 values"),
        ("empirical", {"weights": [0, 0, 0]}, "all weights are 0"),
        ("empirical", {"weights": [1, -1, 1]}, "greater than or equal to 0"),
        ("empirical", {"quantiles": [[0, 1], [1, 2]]}, "not both"),
        ("empirical", {"values": None}, "not neither"),
        ("empirical", {"values": None, "quantiles": [[0, 1], [1, 2]]}, "weights belong to values"),
        ("zipf", {"alpha": -1}, "alpha"),
        ("zipf", {"low": 51}, "low 51 is above high 50"),
        ("zipf", {"high": 2**30}, "use a smaller high"),
    ],
)
def test_impossible_lengths_are_refused_in_words(kind: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        length(kind, **changes)


@pytest.mark.parametrize(
    ("quantiles", "message"),
    [
        ([[0, 1]], "at least 2"),
        ([[0.1, 1], [1, 2]], "from 0 to 1"),
        ([[0, 1], [0.9, 2]], "from 0 to 1"),
        ([[0, 1], [0.5, 3], [0.5, 4], [1, 5]], "must rise"),
        ([[0, 1], [0.5, 3], [1, 2]], "must rise"),
        ([[0, 0], [1, 2]], "greater than or equal to 1"),
    ],
)
def test_impossible_quantiles_are_refused_in_words(quantiles: list[list[float]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        length("empirical", values=None, weights=None, quantiles=quantiles)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("fixed", {"value": -1}, "greater than or equal to 0"),
        ("uniform", {"low": 2}, "low 2.0 is above high 1.5"),
        ("exponential", {"mean": -3}, "mean"),
        ("lognormal", {"max": -1}, "max"),
    ],
)
def test_impossible_durations_are_refused_in_words(kind: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        duration(kind, **changes)


def test_listed_lengths_come_in_their_order_and_again() -> None:
    assert sample("listed", 7).tolist() == [7, 3, 9, 7, 3, 9, 7]


@given(st.integers(1, 500), st.integers(2, 5000), st.floats(0.002, 0.998), st.integers(0, 5))
def test_a_truncated_exponential_has_its_mean_and_keeps_its_bounds(
    low: int, span: int, share: float, seed: int
) -> None:
    mean = low + span * share
    drawn = sample("truncated_exponential", 4000, seed, mean=mean, min=low, max=low + span)
    assert low <= drawn.min() <= drawn.max() <= low + span
    # No exponential on an interval varies more than the uniform one; rounding adds half a token.
    assert drawn.mean() == pytest.approx(mean, abs=5 * span / math.sqrt(12 * 4000) + 0.5)


def test_a_truncated_exponential_is_what_is_left_of_an_exponential_cut_off() -> None:
    """Rejection, an independent way to draw it: quantiles agree."""
    drawn = stream(3, "plain").exponential(500, 200_000)
    kept = drawn[drawn <= 1000]
    found = sample("truncated_exponential", 50_000, mean=1 + kept.mean(), max=1001) - 1
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(found, q) == pytest.approx(np.quantile(kept, q), abs=12)


@pytest.mark.parametrize("changes", [{"mean": 1}, {"mean": 1800}, {"min": 2000}, {"max": None}])
def test_an_impossible_truncated_exponential_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        length("truncated_exponential", **changes)
