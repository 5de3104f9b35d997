"""Distributions of durations, such as think time: seconds, zero or more."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from hardware.strict import Strict
from workloads.shapes import ExponentialShape, Floats, LognormalShape, check_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator

__all__ = [
    "DURATIONS",
    "DurationDistribution",
    "ExponentialSeconds",
    "FixedSeconds",
    "LognormalSeconds",
    "UniformSeconds",
]

Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e9)]


class FixedSeconds(Strict):
    """Always ``value`` seconds."""

    kind: Literal["fixed"] = "fixed"
    value: Seconds

    def sample_s(self, rng: Generator, size: int) -> Floats:
        """Return float64[size], all ``value``; the generator is not touched."""
        del rng
        return np.full(size, self.value)


class UniformSeconds(Strict):
    """Any duration from ``low`` to ``high`` seconds, all equally likely."""

    kind: Literal["uniform"] = "uniform"
    low: Seconds
    high: Seconds

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_order(self.low, self.high, "low", "high")
        return self

    def sample_s(self, rng: Generator, size: int) -> Floats:
        """Return float64[size] seconds between ``low`` and ``high``."""
        return rng.uniform(self.low, self.high, size)


class _Capped(Strict):
    """A real-valued shape held at or below ``max`` seconds."""

    max: Seconds = 1e9

    def _cap(self, drawn: Floats) -> Floats:
        return np.minimum(drawn, self.max)


class ExponentialSeconds(ExponentialShape, _Capped):
    """Exponential durations of mean ``mean`` seconds before they are cut at ``max``."""

    kind: Literal["exponential"] = "exponential"

    def sample_s(self, rng: Generator, size: int) -> Floats:
        """Return float64[size] seconds."""
        return self._cap(self.draw(rng, size))


class LognormalSeconds(LognormalShape, _Capped):
    """Log-normal durations of mean ``mean`` seconds before they are cut at ``max``."""

    kind: Literal["lognormal"] = "lognormal"

    def sample_s(self, rng: Generator, size: int) -> Floats:
        """Return float64[size] seconds."""
        return self._cap(self.draw(rng, size))


DurationDistribution: TypeAlias = Annotated[
    FixedSeconds | UniformSeconds | ExponentialSeconds | LognormalSeconds,
    Field(discriminator="kind"),
]
"""The type of a scenario key that takes any duration distribution."""

DURATIONS: Final[Mapping[str, type[DurationDistribution]]] = MappingProxyType(
    {
        "exponential": ExponentialSeconds,
        "fixed": FixedSeconds,
        "lognormal": LognormalSeconds,
        "uniform": UniformSeconds,
    }
)
"""Every ``kind`` of duration distribution."""
