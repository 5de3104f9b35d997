"""Fronts of what a user gets against what a chip yields: what they enclose, and who extends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Points", "area", "extends", "front", "spread"]

Points: TypeAlias = "tuple[tuple[float, float], ...]"
"""Output tokens per second of a user and of a chip, pair by pair."""

#: What enlarges the area under a front by less than this share of it does not extend it.
_WORTH_ADDING: Final = 0.003


def front(points: Iterable[tuple[float, float]]) -> Points:
    """Return the points that no other surpasses in both, the fastest first.

    Examples
    --------
    >>> front([(1.0, 5.0), (2.0, 3.0), (1.5, 2.0)])
    ((2.0, 3.0), (1.0, 5.0))
    """
    found: list[tuple[float, float]] = []
    for user, chip in sorted(points, reverse=True):
        if not found or chip > found[-1][1]:
            found.append((user, chip))
    return tuple(found)


def area(points: Iterable[tuple[float, float]]) -> float:
    """Return the area of all that some points are at least as good as: their hypervolume above nothing.

    Examples
    --------
    >>> area([(2.0, 3.0), (1.0, 5.0)])
    8.0
    """
    total = below = 0.0
    for user, chip in front(points):
        total += user * (chip - below)
        below = chip
    return total


def extends(corners: Points, known: Points, share: float) -> bool:
    """Tell whether one of some points could be beyond a front, were that only a share of itself.

    Parameters
    ----------
    corners
        What may be reached at most.
    known
        The front.
    share
        What counts of the tokens of a chip on it.
    """
    return any(not any(fast >= user and share * most >= chip for fast, most in known) for user, chip in corners)


def spread(candidates: Sequence[Points], most: int) -> list[int]:
    """Return the places of those candidates that together enclose most, one after the other.

    Each is the one that adds most to what the ones before enclose; the first encloses most alone. It ends where none
    adds anything to speak of. Where there are several, one that reaches the most of a chip is among them: the last.
    """
    if not candidates:
        return []
    chosen = _adding_most(candidates, most)
    top = max(range(len(candidates)), key=lambda place: max((chip for _, chip in candidates[place]), default=0.0))
    if most > 1 and candidates[top] and top not in chosen:
        chosen = [*chosen[: most - 1], top]
    return chosen


def _adding_most(candidates: Sequence[Points], most: int) -> list[int]:
    chosen: list[int] = []
    known: Points = ()
    left = [(area(points), place) for place, points in enumerate(candidates) if points]
    while left and len(chosen) < most:
        # What a candidate adds only shrinks as others are chosen, so that most need not be looked at again.
        left.sort(key=lambda one: (-one[0], one[1]))
        before, best = area(known), (0.0, -1)
        for number, (gain, place) in enumerate(left):
            if gain <= best[0]:
                break
            added = area((*known, *candidates[place])) - before
            left[number] = (added, place)
            best = max(best, (added, place), key=lambda one: one[0])
        if best[1] < 0 or best[0] <= _WORTH_ADDING * before:
            break
        chosen.append(best[1])
        known = front((*known, *candidates[best[1]]))
        left = [one for one in left if one[1] != best[1]]
    return chosen
