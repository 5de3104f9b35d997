"""Distribution shapes shared by token lengths and by durations, and weighted choice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hardware.strict import Strict

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = ["ExponentialShape", "Floats", "LognormalShape", "check_order", "choose"]

Floats: TypeAlias = NDArray[np.float64]

_Mean: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]


class LognormalShape(Strict):
    """A log-normal variable, given by its own mean and the sigma of its logarithm.

    ``mu = ln(mean) - sigma**2 / 2``, because the mean of a log-normal is ``exp(mu + sigma**2 / 2)``.
    """

    mean: _Mean
    sigma: float = Field(ge=0, le=10)

    def draw(self, rng: Generator, size: int) -> Floats:
        """Return ``size`` positive numbers, neither rounded nor cut."""
        return rng.lognormal(math.log(self.mean) - self.sigma**2 / 2, self.sigma, size)


class ExponentialShape(Strict):
    """An exponential variable of the given mean."""

    mean: _Mean

    def draw(self, rng: Generator, size: int) -> Floats:
        """Return ``size`` numbers of at least 0, neither rounded nor cut."""
        return rng.exponential(self.mean, size)


def check_order(low: float, high: float | None, low_name: str, high_name: str) -> None:
    """Raise a ValueError, for pydantic to report, when a range is upside down."""
    if high is not None and low > high:
        raise ValueError(f"{low_name} {low} is above {high_name} {high}; expected {low_name} <= {high_name}")


def choose(rng: Generator, size: int, weights: Floats) -> NDArray[np.intp]:
    """Return ``size`` positions, each drawn in proportion to its weight.

    Parameters
    ----------
    weights
        float64[k], none negative, not all zero; a weight of zero is never drawn.
    """
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative / cumulative[-1], rng.random(size), side="right")
