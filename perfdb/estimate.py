"""A cost and where it came from."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Estimate", "Origin"]


class Origin(enum.IntEnum):
    """How a number was obtained, from best to worst."""

    MEASURED = 0
    INTERPOLATED = 1
    EXTRAPOLATED = 2
    BORROWED = 3
    ROOFLINE = 4


@dataclass(frozen=True, slots=True)
class Estimate:
    """Latencies of one operator at many points.

    Attributes
    ----------
    ns
        Nanoseconds for one execution of the operator, float64, shape (points,); NaN where not known.
    origin
        The :class:`Origin` of each latency, uint8, shape (points,).
    """

    ns: NDArray[np.float64]
    origin: NDArray[np.uint8]

    @classmethod
    def of(cls, ns: NDArray[np.float64], origin: Origin) -> Estimate:
        """Return an estimate whose points all have one origin."""
        return cls(ns, np.full(len(ns), int(origin), np.uint8))

    def completed(self, other: Estimate) -> Estimate:
        """Return this estimate with the points it does not know taken from another."""
        unknown = np.isnan(self.ns)
        return Estimate(np.where(unknown, other.ns, self.ns), np.where(unknown, other.origin, self.origin))

    @property
    def complete(self) -> bool:
        """Whether every point is known."""
        return not np.isnan(self.ns).any()
