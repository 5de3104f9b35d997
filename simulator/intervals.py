"""Confidence intervals of paired differences, by Student's t."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Interval", "paired_interval", "student_t"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference, and how far it may be off.

    Attributes
    ----------
    mean
        Mean of the differences.
    half_width
        Half the width of the interval around it; None where one difference says nothing about that.
    """

    mean: float
    half_width: float | None


def paired_interval(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of paired differences with its confidence interval.

    The interval is ``mean ± t · s / √n``, with ``s`` the sample standard deviation of the ``n`` differences and
    ``t`` the two-sided quantile of Student's distribution with ``n - 1`` degrees of freedom (Law, *Simulation
    Modeling and Analysis*, section 10.2.1: the paired-t interval).

    Parameters
    ----------
    differences
        One per seed, at least one.
    confidence
        Probability that the interval holds the true difference, between 0 and 1.
    """
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Interval(mean, None)
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    return Interval(mean, student_t(len(differences) - 1, confidence) * spread)


def student_t(degrees: int, confidence: float = 0.95) -> float:
    """Return ``t`` with ``P(|T| <= t) = confidence`` for Student's distribution.

    By bisection on the angle ``arctan(t / √degrees)``, in which the probability is a finite sum (Abramowitz and
    Stegun, 26.7.3 and 26.7.4).

    Parameters
    ----------
    degrees
        Degrees of freedom, 1 or more.
    confidence
        Between 0 and 1.

    Examples
    --------
    >>> round(student_t(4), 3)
    2.776
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _inside(angle: float, degrees: int) -> float:
    """Return ``P(|T| <= t)`` for ``angle = arctan(t / √degrees)``."""
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(1 + odd, degrees, 2):
        total += term
        term *= power / (power + 1) * math.cos(angle) ** 2
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
