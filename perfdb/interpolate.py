"""Curves through measured points, and what to do where they end.

Inside the grid a latency is interpolated between its neighbours. Outside, raw times say nothing, so the
*utilisation* at the last measured point (speed of light over latency) is held and the bound of the asked
shape is divided by it. Where a kernel pays its start-up once and then streams, the utilisation of the last
*interval* is the better guide: the curve keeps growing at that rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Estimate, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Curve", "blend"]


#: Some tables hold one row at 2.5 times the time of two; honest steps between kernels stay below 1.5.
_FAR = 1.5


@dataclass(frozen=True, slots=True)
class Curve:
    """Latency along one axis.

    Attributes
    ----------
    at
        Measured positions, increasing, shape (points,).
    ns
        Latency there, shape (points,).
    quadratic
        Interpolate the square root: attention over a prompt grows with its square.
    streams
        Beyond the last point grow as over the last interval, but never faster than light nor slower than at
        the utilisation of the last point.
    """

    at: NDArray[np.float64]
    ns: NDArray[np.float64]
    quadratic: bool = False
    streams: bool = False

    @classmethod
    def through(
        cls, at: NDArray[np.int64], ns: NDArray[np.float64], *, quadratic: bool = False, streams: bool = False
    ) -> Curve:
        """Return the curve through points in any order; of points at one position the fastest counts."""
        order = np.lexsort((ns, at))
        positions, first = np.unique(at[order], return_index=True)
        return cls(positions.astype(np.float64), ns[order][first], quadratic, streams)

    def without_slow_starts(self) -> Curve:
        """Return the curve without the points that a longer one beats by far.

        A kernel over few rows may run over more, padded, so it need not cost much more than they do. Smaller
        steps down are real (kernels change with the row count) and stay.
        """
        best_later = np.minimum.accumulate(self.ns[::-1])[::-1]
        kept = self.ns <= best_later * _FAR
        return Curve(self.at[kept], self.ns[kept], self.quadratic, self.streams)

    def estimate(self, at: NDArray[np.int64], bound_ns: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> Estimate:
        """Return latencies at any positions.

        Parameters
        ----------
        at
            Positions, shape (points,).
        bound_ns
            The speed of light at positions of the same shape, nanoseconds.
        """
        inside = np.clip(at, self.at[0], self.at[-1])
        ns = (
            np.interp(inside, self.at, np.sqrt(self.ns)) ** 2 if self.quadratic else np.interp(inside, self.at, self.ns)
        )
        ns = np.where(at > self.at[-1], self._beyond(bound_ns(at), bound_ns(self.at[-2:].astype(np.int64))), ns)
        origin = np.where(np.isin(at, self.at), Origin.MEASURED, Origin.INTERPOLATED)
        origin = np.where(at > self.at[-1], Origin.EXTRAPOLATED, origin).astype(np.uint8)
        return Estimate(ns, origin)

    def _beyond(self, bound: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return latencies past the end, from the bounds there and those of the last points."""
        grown = float(known[-1] - known[0])
        rate = float(self.ns[-1] / known[-1])
        if self.streams and grown > 0:
            rate = min(max(float(self.ns[-1] - self.ns[-2]) / grown, 1.0), rate)
        ns: NDArray[np.float64] = self.ns[-1] + (bound - known[-1]) * rate
        return ns


def blend(low: Estimate, high: Estimate, weight: NDArray[np.float64]) -> Estimate:
    """Return ``low + weight * (high - low)``; a point keeps the worse origin of the sides it uses."""
    ns = low.ns + weight * (high.ns - low.ns)
    between = np.maximum(np.maximum(low.origin, high.origin), Origin.INTERPOLATED)
    origin = np.where(weight <= 0, low.origin, np.where(weight >= 1, high.origin, between))
    return Estimate(ns, origin.astype(np.uint8))
