"""Distributions of prompt and output lengths: whole tokens, at least one."""

from __future__ import annotations

import math
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from hardware.strict import Strict
from workloads.limits import MAX_TOKENS
from workloads.shapes import ExponentialShape, Floats, LognormalShape, check_order, choose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator

    from workloads.table import IntColumn

__all__ = [
    "LENGTHS",
    "Empirical",
    "Exponential",
    "Fixed",
    "LengthDistribution",
    "Listed",
    "Lognormal",
    "TruncatedExponential",
    "Uniform",
    "Zipf",
]

Tokens: TypeAlias = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]

_MOST_ZIPF_VALUES: Final = 2**24
#: Beyond it lengths are as good as fixed, and its exponential leaves the floating-point numbers.
_STEEPEST_RATE: Final = 700.0


class Fixed(Strict):
    """Every request has ``value`` tokens."""

    kind: Literal["fixed"] = "fixed"
    value: Tokens

    def sample(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size], all ``value``; the generator is not touched."""
        del rng
        return np.full(size, self.value, dtype=np.int64)


class Uniform(Strict):
    """Whole numbers from ``low`` to ``high``, both included, all equally likely."""

    kind: Literal["uniform"] = "uniform"
    low: Tokens
    high: Tokens

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_order(self.low, self.high, "low", "high")
        return self

    def sample(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] between ``low`` and ``high``."""
        return rng.integers(self.low, self.high, size, dtype=np.int64, endpoint=True)


class _Clipped(Strict):
    """A real-valued shape, rounded to whole tokens and held between ``min`` and ``max``."""

    min: Tokens = 1
    max: Tokens | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_order(self.min, self.max, "min", "max")
        return self

    def _clip(self, drawn: Floats) -> IntColumn:
        return np.rint(np.clip(drawn, self.min, self.max or MAX_TOKENS)).astype(np.int64)


class Lognormal(LognormalShape, _Clipped):
    """Log-normal lengths; ``mean`` is that of the distribution before it is cut at ``min`` and ``max``."""

    kind: Literal["lognormal"] = "lognormal"

    def sample(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] between ``min`` and ``max``."""
        return self._clip(self.draw(rng, size))


class Exponential(ExponentialShape, _Clipped):
    """Exponential lengths; ``mean`` is that of the distribution before it is cut at ``min`` and ``max``."""

    kind: Literal["exponential"] = "exponential"

    def sample(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] between ``min`` and ``max``."""
        return self._clip(self.draw(rng, size))


class TruncatedExponential(Strict):
    """Exponential lengths drawn again until they are within bounds: of all with this mean, the least presuming.

    Among densities between ``min`` and ``max`` with a given mean, ``exp(-rate * x)`` has the most entropy; the rate is
    the one that gives the mean, below zero where the mean is above the middle.

    Attributes
    ----------
    mean
        Mean of what is drawn, before rounding to whole tokens.
    min, max
        Bounds, tokens.
    """

    kind: Literal["truncated_exponential"] = "truncated_exponential"
    mean: float
    min: Tokens = 1
    max: Tokens

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_order(self.min, self.max, "min", "max")
        if not self.min < self.mean < self.max:
            raise ValueError(f"mean is {self.mean:g}, expected one between min {self.min} and max {self.max}")
        return self

    def sample(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] between ``min`` and ``max``."""
        span = self.max - self.min
        rate = _truncated_rate((self.mean - self.min) / span)
        quantile = rng.random(size)
        # The inverse of the cumulative distribution, in units of the span.
        share = -np.log1p(quantile * np.expm1(-rate)) / rate if rate else quantile
        return np.rint(self.min + span * share).astype(np.int64)


def _truncated_rate(mean: float) -> float:
    """Return the rate whose exponential on the interval from 0 to 1 has a mean, 0 < mean < 1: by halving."""
    low, high = -_STEEPEST_RATE, _STEEPEST_RATE
    for _ in range(100):
        middle = (low + high) / 2
        found = 0.5 - middle / 12 if abs(middle) < 1e-4 else 1 / middle - 1 / math.expm1(middle)
        low, high = (middle, high) if found > mean else (low, middle)
    return (low + high) / 2


class Listed(Strict):
    """The ``values`` in their order, from the first again after the last: the seed changes nothing.

    Prompts and outputs that are both listed stay the pairs they were in a trace.
    """

    kind: Literal["listed"] = "listed"
    values: Annotated[tuple[Tokens, ...], Field(min_length=1)]

    def sample(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size], the values in their order; the generator is not touched."""
        del rng
        return np.resize(np.array(self.values, dtype=np.int64), size)


class Empirical(Strict):
    """A measured distribution: either weighted ``values`` or a table of ``quantiles``.

    Attributes
    ----------
    values, weights
        The lengths seen and how often each; without weights all are equally likely.
    quantiles
        Pairs of probability and length, from probability 0 to 1, both rising; a length is drawn by
        inverting the cumulative distribution, with straight lines between the points.
    """

    kind: Literal["empirical"] = "empirical"
    values: tuple[Tokens, ...] | None = None
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    quantiles: tuple[tuple[Probability, Tokens], ...] | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.values is None) == (self.quantiles is None):
            raise ValueError("expected either values (with weights) or quantiles, not both and not neither")
        if self.quantiles is not None:
            _check_quantiles(self.quantiles, self.weights)
        else:
            _check_weights(self.values or (), self.weights)
        return self

    def sample(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] drawn from the table."""
        if self.quantiles is not None:
            probabilities, lengths = zip(*self.quantiles, strict=True)
            drawn: Floats = np.interp(rng.random(size), probabilities, lengths)
            return np.rint(drawn).astype(np.int64)
        values: IntColumn = np.array(self.values, dtype=np.int64)
        weights = np.ones(values.size) if self.weights is None else np.array(self.weights)
        return values[choose(rng, size, weights)]


def _check_quantiles(quantiles: tuple[tuple[float, int], ...], weights: object) -> None:
    if weights is not None:
        raise ValueError("weights belong to values; quantiles carry their own probabilities")
    if len(quantiles) < 2:
        raise ValueError(f"expected at least 2 quantiles, found {len(quantiles)}")
    if quantiles[0][0] != 0 or quantiles[-1][0] != 1:
        raise ValueError(f"quantiles must run from 0 to 1, found {quantiles[0][0]} to {quantiles[-1][0]}")
    for (p, length), (next_p, next_length) in pairwise(quantiles):
        if next_p <= p or next_length < length:
            raise ValueError(f"quantiles must rise, found [{next_p}, {next_length}] after [{p}, {length}]")


def _check_weights(values: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
    if not values:
        raise ValueError("values is empty, expected at least one length")
    if weights is not None and len(weights) != len(values):
        raise ValueError(f"found {len(weights)} weights for {len(values)} values, expected one for each")
    if weights is not None and not sum(weights) > 0:
        raise ValueError("all weights are 0, expected at least one above")


class Zipf(Strict):
    """Lengths from ``low`` to ``high``, the probability of ``i`` in proportion to ``i**-alpha``."""

    kind: Literal["zipf"] = "zipf"
    alpha: float = Field(ge=0)
    low: Tokens
    high: Tokens

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_order(self.low, self.high, "low", "high")
        if self.high - self.low >= _MOST_ZIPF_VALUES:
            raise ValueError(f"low to high spans over {_MOST_ZIPF_VALUES} lengths; use a smaller high")
        return self

    def sample(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] between ``low`` and ``high``."""
        ratios = np.arange(self.low, self.high + 1) / self.low
        with np.errstate(under="ignore"):
            weights = ratios**-self.alpha
        return self.low + choose(rng, size, weights).astype(np.int64)


LengthDistribution: TypeAlias = Annotated[
    Fixed | Uniform | Lognormal | Exponential | TruncatedExponential | Empirical | Listed | Zipf,
    Field(discriminator="kind"),
]
"""The type of a scenario key that takes any length distribution."""

LENGTHS: Final[Mapping[str, type[LengthDistribution]]] = MappingProxyType(
    {
        "empirical": Empirical,
        "exponential": Exponential,
        "fixed": Fixed,
        "listed": Listed,
        "lognormal": Lognormal,
        "truncated_exponential": TruncatedExponential,
        "uniform": Uniform,
        "zipf": Zipf,
    }
)
"""Every ``kind`` of length distribution."""
