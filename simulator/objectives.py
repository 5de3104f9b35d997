"""What deployments are ranked by, and what the best that a deployment may reach would be worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from hardware.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.scenario import Scenario
    from simulator.search_space import Unit
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

    def worth(self, point: Mapping[str, Any], chips: int) -> float:
        """Return what a run that keeps the SLO is worth, of a deployment of so many chips."""
        if self.objective == "chips":
            return -float(chips)
        rate = self.rate_per_chip(point, chips)
        if self.objective == "cost":
            tokens = rate * float(point["mean_output_tokens"])
            return -float(point["cost_per_hour"]) / float(point["chips"]) / 3600 / tokens * 1e6
        return rate

    def at_best(self, unit: Unit, rate_per_s: float) -> float:
        """Return what a unit would be worth if it bore a rate."""
        if self.objective == "chips":
            return -float(unit.chips * ceil(self.traffic.rate_per_s / rate_per_s))
        if self.objective == "cost":
            return -self._hour(unit) / 3600 / (rate_per_s * self.traffic.output_tokens) * 1e6
        return rate_per_s / unit.chips

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
    axis: Axis = "units" if objective == "chips" else "users" if closed else "rate"
    return Goal(objective, axis, traffic, prices)
