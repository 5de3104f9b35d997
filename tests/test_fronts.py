"""Fronts: what they enclose, and who is chosen to enclose most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.fronts import area, extends, front, spread

FIGURES = st.integers(1, 50).map(float)
POINTS = st.lists(st.tuples(FIGURES, FIGURES), max_size=8).map(tuple)


@given(POINTS)
def test_nothing_surpasses_a_point_of_a_front_and_something_every_other(points):
    found = front(points)
    for user, chip in points:
        beaten = any(fast >= user and most >= chip for fast, most in set(points) - {(user, chip)})
        assert ((user, chip) in found) is not beaten
        assert any(fast >= user and most >= chip for fast, most in found)


@given(POINTS, POINTS)
def test_more_points_enclose_no_less_and_no_more_than_both(some, others):
    both = area((*some, *others))
    assert max(area(some), area(others)) <= both * (1 + 1e-9)
    assert both <= (area(some) + area(others)) * (1 + 1e-9)
    assert area(some) == pytest.approx(area(front(some)))


@given(POINTS, POINTS)
def test_what_extends_a_front_is_what_enlarges_it(corners, known):
    assert extends(corners, known, 1.0) is any(area((*known, corner)) > area(known) * (1 + 1e-12) for corner in corners)


@given(st.lists(POINTS, max_size=6), st.integers(1, 6))
def test_those_chosen_are_each_the_one_that_adds_most(candidates, most):
    chosen = spread(candidates, most)
    assert len(set(chosen)) == len(chosen) <= most
    known: tuple[tuple[float, float], ...] = ()
    tops = [max((chip for _, chip in points), default=0.0) for points in candidates]
    if most > 1 and chosen:
        assert max(tops[place] for place in chosen) == max(tops)
    for place in chosen[: len(chosen) - (most > 1)]:
        gains = [area((*known, *points)) for points in candidates]
        assert gains[place] == pytest.approx(max(gains))
        known = (*known, *candidates[place])
