"""A deployment in a search: what it might reach, and what came of it round by round."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from simulator.fronts import area
from simulator.trials import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from simulator.fronts import Points
    from simulator.objectives import Goal
    from simulator.scenario import Scenario
    from simulator.search_space import Unit
    from simulator.step_bounds import Bound
    from simulator.trials import Verdict

__all__ = ["FIRST_GUESS", "LONG", "LONGER", "SHORT", "Entry", "Rung", "entry_of"]


class Rung(NamedTuple):
    """A round of trials.

    Attributes
    ----------
    name
        What it is called in results.
    lasts
        How long runs last, in times of what the SLO allows a mean request.
    apart
        Loads of the ladder: each this share of the one before.
    at_least, at_most
        Requests that are simulated at least, and at most.
    chips
        Chips that are simulated at once.
    """

    name: str
    lasts: float
    apart: float
    at_least: int
    at_most: int
    chips: int


SHORT: Final = Rung("short", 5, 0.9, 150, 700, 32)
LONGER: Final = Rung("longer", 10, 0.965, 400, 2000, 32)
LONG: Final = Rung("long", 20, 0.98, 1000, 4500, 32)

#: Where a bound is tried first.
FIRST_GUESS: Final = 0.6
#: Loads below this share of the bound are not tried.
_LEAST: Final = 3e-3


@dataclass(slots=True)
class Entry:
    """A deployment in a search.

    Attributes
    ----------
    unit, units
        What it repeats, and how often.
    bound_per_s
        Requests per second that no unit of it can surpass.
    at_best
        What it would be worth if it bore them.
    expected_per_s
        Requests per second that a unit is expected to bear, to begin with.
    trials
        Trials and what came of them, by the names of rungs, in order.
    foreseen_per_s
        Of a stage alone, what it bears if it is like those tried before it; 0 where nothing is known. It says where to
        begin in a ladder, and nothing else.
    corners
        Tokens per second of a user and of a chip that it cannot surpass both; empty where nobody asked.
    curves
        Trials of shares of the highest load it bears, by the names of rungs.
    left_at
        The round after which it did not go on, or what ruled it out; None while it goes on.
    why
        The reason, in words.
    """

    unit: Unit
    units: int
    bound_per_s: float
    at_best: float
    expected_per_s: float
    trials: dict[str, tuple[Trial, Verdict]] = field(default_factory=dict)
    foreseen_per_s: float = 0.0
    corners: Points = ()
    curves: dict[str, list[tuple[Trial, Verdict]]] = field(default_factory=dict)
    left_at: str | None = None
    why: str = ""

    @property
    def last(self) -> tuple[Trial, Verdict] | None:
        """The last trial and what came of it."""
        return next(reversed(self.trials.values()), None)

    @property
    def load(self) -> float | None:
        """The highest load borne in the last trial; None where there is none."""
        if self.last is None or self.last[1].place is None:
            return None
        return self.last[0].ladder[self.last[1].place]

    @property
    def point(self) -> dict[str, Any] | None:
        """The run at that load."""
        return None if self.last is None else self.last[1].at(self.last[1].place)

    def chips(self, goal: Goal) -> int:
        """Return the chips of all of it, under the load it bears where that is a number of units."""
        units = int(self.load) if goal.axis == "units" and self.load is not None else self.units
        return units * self.unit.chips

    def worth(self, goal: Goal) -> float | None:
        """Return what it is worth by its last trial; None where it bears nothing."""
        return self.worth_by(next(reversed(self.trials), ""), goal)

    def worth_by(self, round_name: str, goal: Goal) -> float | None:
        """Return what it is worth by a round; None where it bears nothing then."""
        if goal.of_fronts:
            return area(self.places(goal, round_name)) or None
        trial, verdict = self.trials.get(round_name, (None, None))
        point = None if verdict is None else verdict.at(verdict.place)
        if point is None or trial is None:
            return None
        units = int(point["load"]) if goal.axis == "units" else trial.units
        return goal.worth(point, units * self.unit.chips)

    def places(self, goal: Goal, round_name: str | None = None) -> Points:
        """Return tokens per second of a user and of a chip at the highest load borne in a round, and at lighter ones.

        Parameters
        ----------
        goal
            What loads are.
        round_name
            The round, the last one by default.
        """
        name = next(reversed(self.trials), "") if round_name is None else round_name
        kept = self.kept(name)
        return tuple(goal.place(point, trial.units * self.unit.chips) for trial, point in kept if point["mean_tpot_ms"])

    def kept(self, round_name: str) -> Iterator[tuple[Trial, dict[str, Any]]]:
        """Yield the run at the highest load it bears by a round, and those at shares of it that it bears too.

        The latter may be of a round before: where nobody waits for long, short runs tell what long ones do.
        """
        if round_name in self.trials and self.trials[round_name][1].place is not None:
            rounds = list(self.trials)[: list(self.trials).index(round_name) + 1]
            traced = next((self.curves[name] for name in reversed(rounds) if name in self.curves), ())
            for trial, verdict in (self.trials[round_name], *traced):
                point = verdict.at(verdict.place)
                if point is not None:
                    yield trial, point

    def runs(self) -> Iterator[tuple[str, Trial, dict[str, Any]]]:
        """Yield every run of it: its round, its trial and its row."""
        for name, (trial, verdict) in self.trials.items():
            yield from ((name, trial, point) for point in verdict.points)
        for name, curve in self.curves.items():
            round_name = "curve" if name == LONG.name else f"{name} curve"
            yield from ((round_name, trial, point) for trial, verdict in curve for point in verdict.points)

    def rank(self, goal: Goal) -> tuple[float, float]:
        """Return what deployments are put in order by: worth, and where that is the same the share within the SLO."""
        worth = self.worth(goal)
        return (float("-inf"), 0.0) if worth is None or self.point is None else (worth, self.point["slo_attainment"])

    def hope(self, goal: Goal) -> float:
        """Return what it should be worth by its last trial, were loads of the ladder as close as one likes.

        Straight between the highest load it bears and the next above, by the shares of requests within the SLO: rungs
        of short runs are too far apart to tell who goes on.
        """
        worth = self.worth(goal)
        if worth is None or self.last is None or self.point is None:
            return float("-inf")
        trial, verdict = self.last
        above = [point for point in verdict.points if point["place"] < self.point["place"]]
        if goal.axis == "units" or not above:
            return worth
        missed, target = max(above, key=lambda point: point["place"]), trial.scenario.slo.attainment
        kept = self.point["slo_attainment"]
        between = float((kept - target) / (kept - missed["slo_attainment"]))
        more = 1 + between * float(missed["load"] / self.point["load"] - 1)
        return worth * more if worth > 0 else worth / more

    def leave(self, after: str, why: str) -> None:
        """Do not go on, for a reason."""
        if self.left_at is None:
            self.left_at, self.why = after, why


def entry_of(unit: Unit, bounds: Sequence[Bound], goal: Goal, most_chips: int) -> Entry:
    """Return the deployment of as many units as there are chips for.

    Parameters
    ----------
    unit
        What it repeats.
    bounds
        What an instance of each of its members cannot surpass.
    goal
        What it is ranked by.
    most_chips
        Chips there are.
    """
    rate = min(bound.rate_per_s * count for bound, (_, count) in zip(bounds, unit.members, strict=True))
    corners = goal.corners(unit, bounds) if goal.of_fronts else ()
    at_best = area(corners) if corners else goal.at_best(unit, rate)
    return Entry(unit, most_chips // unit.chips, rate, at_best, FIRST_GUESS * rate, corners=corners)


def ladder_of(entry: Entry, goal: Goal, rung: Rung, most_chips: int, allowed_s: float) -> tuple[float, ...]:
    """Return the loads to try, each easier to bear than the one before: from what nothing can surpass.

    Parameters
    ----------
    entry
        The deployment.
    goal
        What a load is.
    rung
        How far apart loads are.
    most_chips
        Chips there are.
    allowed_s
        How long the SLO allows a mean request, s.
    """
    unit = entry.unit
    if goal.axis == "units":
        least = ceil(goal.traffic.rate_per_s / entry.bound_per_s)
        return tuple(float(units) for units in range(least, most_chips // unit.chips + 1))
    top = entry.bound_per_s * entry.units * (1 if goal.axis == "rate" else 2 * allowed_s)
    loads, load = [], top
    while load >= top * _LEAST:
        loads.append(float(f"{load:.4g}") if goal.axis == "rate" else float(ceil(load)))
        load *= rung.apart
    return tuple(dict.fromkeys(loads))


def together_of(unit: Unit, rung: Rung) -> int:
    """Return how many units are simulated at once: a router gains little from more of them."""
    return max(1, rung.chips // unit.chips)


def place_of(ladder: tuple[float, ...], load: float) -> int:
    """Return the place of the first load that is as easy to bear as a given one, or of the last."""
    rising = ladder[-1] > ladder[0]
    return next((i for i, at in enumerate(ladder) if (at >= load if rising else at <= load)), len(ladder) - 1)


def floor_of(entry: Entry, goal: Goal, ladder: tuple[float, ...], worth: float) -> int | None:
    """Return the last place of a ladder at which a deployment may be worth so much; None for none."""
    found = None
    for place, load in enumerate(ladder):
        if best_at(entry, goal, load) < worth:
            break
        found = place
    return found


def best_at(entry: Entry, goal: Goal, load: float) -> float:
    """Return the most that bearing a load may be worth."""
    if goal.axis == "units":
        return -load * entry.unit.chips
    # A user has one request at a time at most, and no more come than nothing can surpass.
    rate = load / entry.units if goal.axis == "rate" else entry.bound_per_s
    return goal.at_best(entry.unit, rate)


def requests_of(entry: Entry, goal: Goal, rung: Rung, allowed_s: float) -> int:
    """Return how many requests all units of a deployment get in a run of a round, whatever the load."""
    lasts_s = rung.lasts * allowed_s
    if goal.axis == "units":
        return min(max(ceil(goal.traffic.rate_per_s * lasts_s), rung.at_least), rung.at_most)
    simulated = min(entry.units, together_of(entry.unit, rung))
    wanted = max(ceil(entry.expected_per_s * simulated * lasts_s), rung.at_least)
    return ceil(min(wanted, rung.at_most) * entry.units / simulated)


def trial_of(  # noqa: PLR0913 - what a trial is made of
    entry: Entry,
    base: Scenario,
    goal: Goal,
    rung: Rung,
    ladder: tuple[float, ...],
    *,
    hint: int,
    floor: int | None,
    allowed_s: float,
) -> Trial:
    """Return a trial of one unit of a deployment.

    Raises
    ------
    ValidationError
        If its pools do not go together.
    """
    return Trial(
        scenario=entry.unit.scenario(base),
        label=f"deployment {entry.unit.label(entry.units)!r}",
        axis=goal.axis,
        ladder=ladder,
        hint=hint,
        units=entry.units,
        together=together_of(entry.unit, rung),
        settles_s=allowed_s,
        requests=requests_of(entry, goal, rung, allowed_s),
        floor=floor,
    )
