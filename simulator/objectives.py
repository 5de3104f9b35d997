"""What deployments are ranked by, and what the best that a deployment may reach would be worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from hardware.errors import ScenarioError
from simulator.fronts import area

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.fronts import Points
    from simulator.scenario import Scenario
    from simulator.search_space import Unit
    from simulator.step_bounds import Bound
    from simulator.traffic import Traffic
    from simulator.trials import Axis

__all__ = ["Goal", "goal_of", "stage_goal"]


@dataclass(frozen=True, slots=True)
class Goal:
    """An objective, for one traffic. What it makes of a deployment is worth more where it is higher.

    Of two loads that are borne within the SLO the higher is worth more, however many of the requests meet it: how much
    of the allowed share is used up is a matter of where the ladder of loads has its rungs.

    Attributes
    ----------
    objective
        A key of :data:`simulator.search_table.OBJECTIVES`.
    axis
        What deployments are put under.
    traffic
        What they serve.
    chip_hour
        Currency per hour of a chip, by its name.

    Notes
    -----
    By ``pareto`` a deployment is worth the area under its own front: of output tokens per second of a chip, over those
    of a user, of its runs from light loads to the highest that it bears.
    """

    objective: str
    axis: Axis
    traffic: Traffic
    chip_hour: Mapping[str, float]

    def rate_per_chip(self, point: Mapping[str, Any], chips: int) -> float:
        """Return the requests per second and chip of a run, of a deployment of so many chips."""
        if self.axis == "users":
            return float(point["request_throughput"]) / float(point["chips"])
        return (float(point["load"]) if self.axis == "rate" else self.traffic.rate_per_s) / chips

    def tokens_per_chip(self, point: Mapping[str, Any], chips: int) -> float:
        """Return the output tokens per second and chip of a run that keeps up with its load."""
        return self.rate_per_chip(point, chips) * float(point["mean_output_tokens"])

    @property
    def of_fronts(self) -> bool:
        """Whether deployments are worth what all their loads enclose, and not what one of them is."""
        return self.objective == "pareto"

    def place(self, point: Mapping[str, Any], chips: int) -> tuple[float, float]:
        """Return the output tokens per second of a user and of a chip in a run."""
        return 1e3 / float(point["mean_tpot_ms"]), self.tokens_per_chip(point, chips)

    def worth(self, point: Mapping[str, Any], chips: int) -> float:
        """Return what a run that keeps the SLO is worth, of a deployment of so many chips."""
        if self.objective == "chips":
            return -float(chips)
        if self.of_fronts:
            return area([self.place(point, chips)])
        rate = self.rate_per_chip(point, chips)
        if self.objective == "cost":
            tokens = rate * float(point["mean_output_tokens"])
            return -float(point["cost_per_hour"]) / float(point["chips"]) / 3600 / tokens * 1e6
        return rate

    def at_best(self, unit: Unit, rate_per_s: float) -> float:
        """Return what a unit would be worth if it bore a rate; by ``pareto``, what that is of a chip."""
        if self.objective == "chips":
            return -float(unit.chips * ceil(self.traffic.rate_per_s / rate_per_s))
        if self.objective == "cost":
            return -self._hour(unit) / 3600 / (rate_per_s * self.traffic.output_tokens) * 1e6
        return rate_per_s / unit.chips

    def corners(self, unit: Unit, bounds: Sequence[Bound]) -> Points:
        """Return the tokens per second of a user and of a chip that a unit cannot surpass both.

        Parameters
        ----------
        unit
            The unit.
        bounds
            What an instance of each of its members cannot surpass.
        """
        counts = [count for _, count in unit.members]
        rate = min(bound.rate_per_s * count for bound, count in zip(bounds, counts, strict=True))
        per_chip = self.traffic.output_tokens / unit.chips
        # Whoever decodes is the last of all.
        return tuple((1e3 / tpot_ms, per_chip * min(rate, most * counts[-1])) for tpot_ms, most in bounds[-1].speeds)

    def _hour(self, unit: Unit) -> float:
        return sum(self.chip_hour[choice.pool.chip] * choice.chips * count for choice, count in unit.members)

    def falls_short(self, worth: float, best: float, share: float) -> bool:
        """Tell whether something is worth less than a share of the best."""
        return worth < (best * share if best > 0 else best / share)

    def shown(self, worth: float) -> float:
        """Return the figure a person knows: costs and chips are positive."""
        return abs(worth)


def stage_goal(goal: Goal) -> Goal:
    """Return the goal by which stages alone are measured: what they bear."""
    return replace(goal, axis="users" if goal.axis == "users" else "rate", objective="goodput")


def goal_of(objective: str, scenario: Scenario, chips: tuple[str, ...], traffic: Traffic) -> Goal:
    """Return the goal of a search.

    Raises
    ------
    ScenarioError
        If a cost is wanted and a chip has no price, or the fewest chips and there is no rate to serve.
    """
    prices = scenario.cost.chip_hour
    without = [chip for chip in chips if chip not in prices]
    if objective == "cost" and without:
        raise ScenarioError(
            f"search.objective is 'cost', but cost.chip_hour has no price of {' and '.join(without)}; add one"
        )
    closed = scenario.workload.closed_loop is not None
    if objective == "chips" and (closed or not traffic.rate_per_s):
        raise ScenarioError(
            "search.objective is 'chips', but the workload has no rate that must be served; expected an open loop, or "
            "objective 'goodput' or 'cost'"
        )
    if objective == "pareto" and not traffic.later_tokens:
        raise ScenarioError(
            "search.objective is 'pareto', but answers have one token, so that no user has a speed; expected longer "
            "ones, or objective 'goodput'"
        )
    axis: Axis = "units" if objective == "chips" else "users" if closed else "rate"
    return Goal(objective, axis, traffic, prices)
