"""SLO attainment against rate, over seeds, and the rate at which it falls below a target."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from simulator.candidates import load_candidate
from simulator.journal import Journal, Point
from simulator.parallel import run_points

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

__all__ = ["Curve", "Deployment", "measure", "rate_at", "summaries_at"]

#: How far beyond the last rate a curve is followed while it keeps the target, and in which steps.
_STEP, _FARTHEST = 1.25, 8.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """One candidate of a scenario, with changes.

    Attributes
    ----------
    scenario, candidate
        Which.
    changes
        Keys and values on top, as ``--set`` takes them.
    chips
        Chips of the deployment: rates are per chip.
    """

    scenario: str
    candidate: str
    changes: Mapping[str, Any]
    chips: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Attainment by rate: shares from 0 to 1, one per seed."""

    by_rate: Mapping[float, Sequence[float]]

    def mean(self, rate: float) -> float:
        """Return the mean over seeds."""
        return fmean(self.by_rate[rate])

    def knee(self, target: float) -> float | None:
        """Return the rate at which the mean falls to the target; see :func:`rate_at`."""
        return rate_at({rate: self.mean(rate) for rate in self.by_rate}, target)

    def knees(self, target: float) -> list[float | None]:
        """Return that rate under each seed by itself."""
        size = len(next(iter(self.by_rate.values())))
        return [rate_at({rate: values[i] for rate, values in self.by_rate.items()}, target) for i in range(size)]


def rate_at(curve: Mapping[float, float], target: float) -> float | None:
    """Return the highest rate at which a curve, straight between its points, still has the target.

    That is how DistServe's evaluation reads its figures: between the last rate that keeps the target and the next.
    None where no rate keeps it, or all do.

    Examples
    --------
    >>> rate_at({0.25: 0.9, 0.5: 0.9, 1.0: 0.85}, 0.9)
    0.5
    >>> rate_at({2.25: 0.92, 2.5: 0.85}, 0.9)
    2.321...
    """
    found = None
    for (low, above), (high, below) in pairwise(sorted(curve.items())):
        if above >= target > below:
            found = low + (high - low) * (above - target) / (above - below)
    return found


def measure(
    deployments: Sequence[Deployment], rates: Sequence[float], target: float, seeds: int, jobs: int
) -> list[Curve]:
    """Run deployments at rates per chip under seeds from 0, and beyond the last rate until the target is missed."""
    found: list[dict[float, list[float]]] = [{} for _ in deployments]
    wanted = [(number, rate) for number in range(len(deployments)) for rate in rates]
    with tempfile.TemporaryDirectory() as folder:
        while wanted:
            points = [_point(deployments[number], rate, seed) for number, rate in wanted for seed in range(seeds)]
            summaries = run_points(points, Journal(Path(folder)), jobs=jobs)
            for place, (number, rate) in enumerate(wanted):
                runs = summaries[place * seeds : (place + 1) * seeds]
                found[number][rate] = [summary["slo_attainment"] for summary in runs]
            farther = rates[-1] * _FARTHEST
            ends = [(number, max(curve)) for number, curve in enumerate(found)]
            wanted = [(n, r * _STEP) for n, r in ends if fmean(found[n][r]) >= target and r * _STEP <= farther]
    return [Curve(curve) for curve in found]


def summaries_at(deployment: Deployment, rate: float, seeds: int, jobs: int) -> list[dict[str, Any]]:
    """Return the summaries of a deployment at a rate per chip, one per seed from 0."""
    with tempfile.TemporaryDirectory() as folder:
        points = [_point(deployment, rate, seed) for seed in range(seeds)]
        return run_points(points, Journal(Path(folder)), jobs=jobs)


def _point(deployment: Deployment, rate: float, seed: int) -> Point:
    changes = {**deployment.changes, "seed": seed, "workload.synthetic.arrivals.rate_per_s": rate * deployment.chips}
    label = f"{deployment.candidate} at {rate:g} requests/s per chip"
    return Point(load_candidate(deployment.scenario, deployment.candidate, changes), label)
