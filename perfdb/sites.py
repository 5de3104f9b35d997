"""The measured projections of one table and weight format: curves over the rows at sites (n, k)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.interpolate import Curve
from perfdb.operators import Gemm
from perfdb.speed_of_light import gemm_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.points import Points

__all__ = ["Sites"]


class Sites:
    """The (n, k) sites of a projection table; a shape between sites borrows their utilisation.

    Parameters
    ----------
    points
        Shapes (n, k), positions in rows.
    verdict
        What screening says of each.
    """

    def __init__(self, points: Points, verdict: NDArray[np.uint8]) -> None:
        self.points, self.verdict = points, verdict
        self._places = dict(points.curves())
        self._n, self._k = np.unique(points.shape[:, 0]), np.unique(points.shape[:, 1])
        self._most = int(points.at.max())

    def estimate(self, chip: Chip, gemm: Gemm, rows: NDArray[np.int64]) -> Estimate | None:
        """Return the projection's cost: its own curve if measured, else the sites around it; NaN in holes."""
        if (gemm.n, gemm.k) in self._places:
            curve = self._curve(gemm.n, gemm.k)
            return curve.estimate(rows, lambda at: gemm_bound(chip, gemm, at).ns) if curve else None
        utilisation = np.zeros(len(rows))
        total, inside = 0.0, True
        for n, weight_n, inside_n in _around(self._n, gemm.n):
            for k, weight_k, inside_k in _around(self._k, gemm.k):
                weight = weight_n * weight_k
                inside &= inside_n and inside_k
                if weight and (n, k) in self._places:
                    utilisation += weight * self._utilisation(chip, Gemm(gemm.name, n, k, gemm.weights), rows)
                    total += weight
        if not total:
            return None
        between = rows <= self._most if inside and total > 0.999 else np.zeros(len(rows), bool)
        origin = np.where(between, Origin.INTERPOLATED, Origin.EXTRAPOLATED).astype(np.uint8)
        return Estimate(gemm_bound(chip, gemm, rows).ns * total / utilisation, origin)

    def _curve(self, n: int, k: int) -> Curve | None:
        place = self._places[n, k]
        return Curve.sound(self.points.at[place], self.points.ns[place], self.verdict[place])

    def _utilisation(self, chip: Chip, site: Gemm, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        curve = self._curve(site.n, site.k)
        if curve is None:
            return np.full(len(rows), np.nan)
        return gemm_bound(chip, site, rows).ns / curve.estimate(rows, lambda at: gemm_bound(chip, site, at).ns).ns


def _around(measured: NDArray[np.int64], wanted: int) -> list[tuple[int, float, bool]]:
    """Return the measured sizes on both sides with their weight in log space, and whether both exist."""
    inside = bool(measured[0] <= wanted <= measured[-1])
    clipped = min(max(wanted, int(measured[0])), int(measured[-1]))
    high = int(np.searchsorted(measured, clipped))
    if measured[high] == clipped:
        return [(clipped, 1.0, inside)]
    low_size, high_size = int(measured[high - 1]), int(measured[high])
    weight = float(np.log2(clipped / low_size) / np.log2(high_size / low_size))
    return [(low_size, 1 - weight, inside), (high_size, weight, inside)]
