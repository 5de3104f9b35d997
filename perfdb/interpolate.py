"""Curves through measured points, and what to do where they end.

Inside the grid a latency is interpolated between its neighbours. Outside, raw times say nothing, so the
*utilisation* at the last measured point (speed of light over latency) is held and the bound of the asked
shape is divided by it. Where a kernel pays its start-up once and then streams, the utilisation of the last
*interval* is the better guide: the curve keeps growing at that rate.

A row that was set aside (:mod:`perfdb.screening`) leaves a hole: between its neighbours nothing is known (NaN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.screening import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Curve", "blend"]


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
    holes
        Positions whose rows were set aside.
    """

    at: NDArray[np.float64]
    ns: NDArray[np.float64]
    quadratic: bool = False
    streams: bool = False
    holes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def through(
        cls, at: NDArray[np.int64], ns: NDArray[np.float64], *, quadratic: bool = False, streams: bool = False
    ) -> Curve:
        """Return the curve through points in any order; of points at one position the fastest counts."""
        order = np.lexsort((ns, at))
        positions, first = np.unique(at[order], return_index=True)
        return cls(positions.astype(np.float64), ns[order][first], quadratic, streams)

    @classmethod
    def sound(
        cls,
        at: NDArray[np.int64],
        ns: NDArray[np.float64],
        verdict: NDArray[np.uint8],
        *,
        quadratic: bool = False,
        streams: bool = False,
    ) -> Curve | None:
        """Return the curve through the sound ones of increasing points; None where there are none.

        A row that a longer one beats leaves no hole: a kernel may run over more rows, padded, so it need not cost
        much more than they do.
        """
        kept, at = verdict == Verdict.SOUND, at.astype(np.float64)
        if not kept.any():
            return None
        holes = at[~kept & (verdict != Verdict.BEATEN_BY_LONGER)]
        return cls(at[kept], ns[kept], quadratic, streams, holes)

    def estimate(self, at: NDArray[np.int64], bound_ns: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> Estimate:
        """Return latencies at any positions.

        Parameters
        ----------
        at
            Positions, shape (points,).
        bound_ns
            The speed of light at positions of the same shape, nanoseconds.

        Returns
        -------
        Estimate
            NaN at and around holes.
        """
        inside = np.clip(at, self.at[0], self.at[-1])
        ns = (
            np.interp(inside, self.at, np.sqrt(self.ns)) ** 2 if self.quadratic else np.interp(inside, self.at, self.ns)
        )
        ns = np.where(at > self.at[-1], self._beyond(bound_ns(at), bound_ns(self.at[-2:].astype(np.int64))), ns)
        nearest = self.at[np.minimum(np.searchsorted(self.at, at), len(self.at) - 1)]
        origin = np.where(nearest == at, Origin.MEASURED, Origin.INTERPOLATED)
        origin = np.where(at > self.at[-1], Origin.EXTRAPOLATED, origin).astype(np.uint8)
        return Estimate(np.where(self._unknown(at), np.nan, ns) if len(self.holes) else ns, origin)

    def _unknown(self, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which positions are in a hole, or have one as their neighbour."""
        measured = np.union1d(self.at, self.holes)
        hole = np.isin(measured, self.holes)
        last = len(measured) - 1
        above = hole[np.minimum(np.searchsorted(measured, at), last)]
        below = hole[np.maximum(np.searchsorted(measured, at, "right") - 1, 0)]
        unknown: NDArray[np.bool_] = above | below
        return unknown

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
