from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from hardware.errors import ScenarioError
from workloads.closed_loop import ClosedLoop, plan_closed_loop
from workloads.synthetic import Synthetic, synthesize

OPEN = {
    "requests": 200,
    "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
    "prompt_tokens": {"kind": "lognormal", "mean": 2000, "sigma": 0.6, "max": 32000},
    "output_tokens": {"kind": "uniform", "low": 200, "high": 400},
}
CLOSED = {
    "concurrency": 8,
    "requests": 50,
    "prompt_tokens": {"kind": "fixed", "value": 100},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 9},
}
COLUMNS = ("arrival_ns", "prompt_tokens", "output_tokens")


def open_loop(seed: int = 0, **changes: object) -> dict[str, list[int]]:
    arrivals = synthesize(Synthetic.model_validate({**OPEN, **changes}), seed)
    return {name: getattr(arrivals, name).tolist() for name in COLUMNS}


def test_a_synthetic_workload_repeats_with_its_seed_and_differs_with_another() -> None:
    assert open_loop(1) == open_loop(1)
    assert all(open_loop(1)[name] != open_loop(2)[name] for name in COLUMNS)
    assert {len(column) for column in open_loop().values()} == {200}


@pytest.mark.parametrize(
    ("changed", "spec"),
    [
        ("arrivals", {"kind": "burst"}),
        ("prompt_tokens", {"kind": "fixed", "value": 7}),
        ("output_tokens", {"kind": "zipf", "alpha": 1, "low": 1, "high": 9}),
    ],
)
def test_changing_one_distribution_leaves_the_other_columns_as_they_were(changed: str, spec: dict[str, object]) -> None:
    before, after = open_loop(), open_loop(**{changed: spec})
    column = "arrival_ns" if changed == "arrivals" else changed
    assert {name for name in COLUMNS if before[name] != after[name]} == {column}


def test_prompts_outputs_and_think_times_are_drawn_independently() -> None:
    long = {"kind": "exponential", "mean": 10_000}
    spec = {"concurrency": 1, "requests": 2000, "prompt_tokens": long, "output_tokens": long}
    plan = plan_closed_loop(ClosedLoop.model_validate({**spec, "think_time_s": long}), 0)
    columns = open_loop(requests=2000, prompt_tokens=long, output_tokens=long)
    drawn = [columns["prompt_tokens"], columns["output_tokens"], plan.think_ns]
    correlation = np.corrcoef(drawn) - np.eye(3)
    assert np.abs(correlation).max() < 4 / math.sqrt(2000)


def test_pairs_that_are_too_long_are_drawn_again_and_others_stay_as_they_were() -> None:
    exponential = {"kind": "exponential", "mean": 700}
    free, bound = (
        open_loop(requests=3000, prompt_tokens=exponential, output_tokens=exponential, **changes)
        for changes in ({}, {"total_tokens_max": 2000})
    )
    pairs = [list(zip(found["prompt_tokens"], found["output_tokens"], strict=True)) for found in (free, bound)]
    assert max(map(sum, pairs[1])) <= 2000 < max(map(sum, pairs[0]))
    kept = [pair for pair in pairs[0] if sum(pair) <= 2000]
    assert kept == [new for old, new in zip(*pairs, strict=True) if sum(old) <= 2000]
    assert free["arrival_ns"] == bound["arrival_ns"]


def test_a_bound_that_nothing_keeps_is_refused() -> None:
    spec = {**OPEN, "prompt_tokens": {"kind": "fixed", "value": 900}, "total_tokens_max": 1000}
    with pytest.raises(ScenarioError, match="total_tokens_max is 1000, which hardly a pair"):
        synthesize(Synthetic.model_validate(spec), 0)
    with pytest.raises(ValidationError, match="listed ones are not drawn"):
        Synthetic.model_validate({**spec, "prompt_tokens": {"kind": "listed", "values": [5]}})


def test_the_source_says_how_it_was_made() -> None:
    assert synthesize(Synthetic.model_validate(OPEN), 3).source == "synthetic (poisson arrivals, seed 3)"


@pytest.mark.parametrize("changes", [{"requests": 0}, {"requests": -5}, {"rate": 5}, {"arrivals": {}}])
def test_an_impossible_synthetic_table_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Synthetic.model_validate({**OPEN, **changes})


def test_a_closed_loop_has_a_row_per_request_and_no_think_time_by_default() -> None:
    plan = plan_closed_loop(ClosedLoop.model_validate(CLOSED), 0)
    assert len(plan) == 50
    assert plan.concurrency == 8
    assert not plan.think_ns.any()
    for column in (plan.prompt_tokens, plan.output_tokens, plan.think_ns):
        assert column.dtype == np.int64
        assert column.shape == (50,)
    assert plan.output_tokens.min() >= 1


def test_think_times_are_nanoseconds_and_shift_no_lengths() -> None:
    think = {"kind": "exponential", "mean": 2.0}
    quick = plan_closed_loop(ClosedLoop.model_validate(CLOSED), 0)
    slow = plan_closed_loop(ClosedLoop.model_validate({**CLOSED, "think_time_s": think}), 0)
    assert (quick.output_tokens == slow.output_tokens).all()
    assert slow.think_ns.mean() == pytest.approx(2e9, rel=4 / 50**0.5)


def test_open_and_closed_loops_of_one_seed_send_the_same_lengths() -> None:
    lengths = {name: OPEN[name] for name in ("requests", "prompt_tokens", "output_tokens")}
    plan = plan_closed_loop(ClosedLoop.model_validate({**lengths, "concurrency": 4}), 1)
    assert plan.prompt_tokens.tolist() == open_loop(1)["prompt_tokens"]


@pytest.mark.parametrize("changes", [{"concurrency": 0}, {"requests": 0}, {"think_time_s": 1}])
def test_an_impossible_closed_loop_table_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClosedLoop.model_validate({**CLOSED, **changes})
