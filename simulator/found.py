"""What came of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.trials import under

if TYPE_CHECKING:
    from simulator.entries import Entry
    from simulator.objectives import Goal
    from simulator.scenario import Scenario
    from simulator.search_space import Pruned
    from simulator.trials import Trial, Verdict

__all__ = ["Confirmed", "Found"]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The best deployment of a split, all of it simulated.

    Attributes
    ----------
    entry
        The deployment.
    trial, verdict, place
        The trial of all of it, and the place of the highest load it bears.
    """

    entry: Entry
    trial: Trial
    verdict: Verdict
    place: int

    @property
    def units(self) -> int:
        """Units it has in the end."""
        return int(self.trial.ladder[self.place]) if self.trial.axis == "units" else self.trial.units

    @property
    def chips(self) -> int:
        """Chips of all of it."""
        return self.units * self.entry.unit.chips

    @property
    def scenario(self) -> Scenario:
        """What is run in the end: the deployment under the highest load it bears."""
        return under(self.trial, self.place)

    def worth(self, goal: Goal) -> float:
        """Return what it is worth: by that run, or by all of its loads in the longest runs where fronts count."""
        if goal.of_fronts:
            return self.entry.worth(goal) or 0.0
        return goal.worth(self.point, self.chips)

    @property
    def point(self) -> dict[str, Any]:
        """That run."""
        return next(point for point in self.verdict.points if point["place"] == self.place)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a search.

    Attributes
    ----------
    entries
        Every deployment that was possible, in the order looked at.
    stages
        Deployments that put a stage alone under load.
    confirmed
        The best of each split, the best of all first; empty if nothing meets the SLO.
    pruned
        What was left out before.
    considered
        Deployments looked at, possible or not.
    stopped
        The round that the time did not suffice for, or None.
    """

    entries: tuple[Entry, ...]
    stages: tuple[Entry, ...]
    confirmed: tuple[Confirmed, ...]
    pruned: Pruned
    considered: int
    stopped: str | None
