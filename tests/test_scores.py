"""Errors against values computed by hand, and against the public scoring script where it is at hand."""

from __future__ import annotations

import csv
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import SHARED

from simulator.cases import read_cases
from simulator.scores import Score, grouped, score, spearman


def test_scores_by_hand():
    # Errors: +10, -20, +50, -2 %.
    found = score([100.0, 50.0, 10.0, 200.0], [110.0, 40.0, 15.0, 196.0])
    assert (found.cases, found.predicted, found.coverage) == (4, 4, 1.0)
    assert found.mean_ape == pytest.approx(20.5)
    assert found.median_ape == pytest.approx(15.0)
    assert found.p90_ape == pytest.approx(41.0)
    assert found.median_error == pytest.approx(4.0)
    assert found.spearman == pytest.approx(1.0)


def test_what_is_not_predicted_lowers_the_coverage_alone():
    assert score([1.0, 1.0], [None, None]) == Score(2, 0)
    found = score([100.0, 100.0], [None, 150.0])
    assert (found.cases, found.predicted, found.coverage) == (2, 1, 0.5)
    assert (found.mean_ape, found.spearman) == (pytest.approx(50.0), None)


@pytest.mark.parametrize(
    ("first", "second", "correlation"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / (4 * 15).
        ([1, 2, 3, 4], [5, 7, 6, 8], 0.8),
        # Ranks 1.5 1.5 3 and 1 2 3: covariance 1.5 over the root of 1.5 * 2.
        ([1, 1, 2], [1, 2, 3], 1.5 / 3**0.5),
    ],
)
def test_rank_correlation_by_hand(first, second, correlation):
    assert spearman(first, second) == pytest.approx(correlation)


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3])])
def test_there_is_no_rank_correlation_of_two_or_of_equals(first, second):
    assert spearman(first, second) is None


@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6)), min_size=1, max_size=30), st.floats(0.01, 100))
def test_errors_have_no_unit(pairs, unit):
    measured, predicted = zip(*pairs, strict=True)
    one = score(measured, predicted)
    other = score([unit * value for value in measured], [unit * value for value in predicted])
    assert other.mean_ape == pytest.approx(one.mean_ape, rel=1e-6, abs=1e-6)
    assert other.median_error == pytest.approx(one.median_error, rel=1e-6, abs=1e-6)


def test_groups_are_scored_each():
    table = pd.DataFrame(
        {"engine": ["b", "a", "b"], "measured": [100.0, 100.0, 100.0], "predicted": [110.0, 70.0, float("nan")]}
    )
    found = grouped(table, ["engine"])
    assert list(found) == [("a",), ("b",)]
    assert (found["b",].cases, found["b",].predicted, found["b",].mean_ape) == (2, 1, pytest.approx(10.0))


def test_scores_are_those_of_the_public_script(tmp_path):
    script = SHARED / "validation" / "score.py"
    if not script.is_file():
        pytest.skip("the shared scoring script is not at hand")
    cases = [case for case in read_cases(SHARED / "validation" / "silicon_sample_dev.csv") if case.trusted]
    predicted = {case.case_id: (0.5 + number % 7 / 5) * case.measured["ttft_mean"] for number, case in enumerate(cases)}
    with (tmp_path / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("case_id", "metric", "predicted"))
        writer.writerows((name, "ttft_mean", value) for name, value in predicted.items())
    printed = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "predictions.csv")], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    found = score([case.measured["ttft_mean"] for case in cases], list(predicted.values()))
    assert printed.split(",")[2:5] == [str(found.predicted), f"{found.median_ape:.1f}", f"{found.mean_ape:.1f}"]
    assert printed.split(",")[-1] == f"{found.median_error:+.1f}"
