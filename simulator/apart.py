"""Deployments whose stages are apart, composed of what their stages bear alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from simulator.entries import Entry, entry_of
from simulator.fronts import extends, front, spread
from simulator.race import CLOSE, LIGHTER
from simulator.search_space import Choice, Unit, ratios
from simulator.stages import Stages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from simulator.fronts import Points
    from simulator.race import Race
    from simulator.screening import Screened
    from simulator.search_space import Pruned
    from simulator.search_table import SearchTable
    from simulator.step_bounds import Bound

__all__ = ["Apart"]

#: Deployments composed of what their stages bear alone: most of all, and of a combination of kinds of instances.
_COMPOSED, _OF_A_COMBINATION = 10, 3


@dataclass(frozen=True, slots=True)
class _Combination:
    """Kinds of instances that go together, one of each stage.

    Attributes
    ----------
    choices
        The instances.
    bounds
        Requests per second that each cannot surpass.
    ratios
        How many there may be of each.
    """

    choices: tuple[Choice, ...]
    bounds: tuple[float, ...]
    ratios: tuple[tuple[int, ...], ...]

    def units(self) -> Iterator[tuple[Unit, float, tuple[int, ...]]]:
        """Yield each unit, the requests per second that it cannot surpass, and its ratio."""
        for counts in self.ratios:
            rate = min(bound * count for bound, count in zip(self.bounds, counts, strict=True))
            yield Unit(tuple(zip(self.choices, counts, strict=True))), rate, counts


@dataclass(frozen=True, slots=True)
class _Composed:
    """A unit, of which combination it is, and the requests per second that it should bear."""

    combination: _Combination
    unit: Unit
    expected_per_s: float


class Apart:
    """Deployments of one instance or more for each stage.

    Parameters
    ----------
    race
        Puts deployments under load.
    table
        What is tried.
    screened
        What came of the first look at instances.
    pruned
        What is left out; added to.

    Attributes
    ----------
    considered
        Deployments looked at, possible or not.
    """

    def __init__(self, race: Race, table: SearchTable, screened: Mapping[Choice, Screened], pruned: Pruned) -> None:
        self._race, self._table, self._screened, self._pruned = race, table, screened, pruned
        self._tried: dict[Choice, Entry] = {}
        self._bounds: dict[Choice, Bound] = {}
        self.considered = 0

    @property
    def stages(self) -> tuple[Entry, ...]:
        """The deployments that put a stage under load."""
        return tuple(self._tried.values())

    def run(self, kinds: Sequence[Sequence[Choice]], ends: tuple[float, float]) -> None:
        """Try the deployments of one split.

        Parameters
        ----------
        kinds
            Instances of each stage.
        ends
            Shares of the time after which no more stages are tried alone, and no more deployments.
        """
        possible = list(self._possible(kinds))
        self._bounds |= {choice: look.bound for choice, look in self._screened.items() if look.bound is not None}
        stages = Stages(self._race, [one.choices for one in possible], self._bounds, self._tried)
        self._race.share = ends[0]
        composed = self._composed(possible, stages)
        self._race.share = ends[1]
        self._race.run(composed, CLOSE)

    def _possible(self, kinds: Sequence[Sequence[Choice]]) -> Iterator[_Combination]:
        """Yield what goes together and no bound rules out; count the rest."""
        groups: dict[tuple[str, str], list[list[Choice]]] = {}
        for stage, choices in enumerate(kinds):
            for choice in choices:
                key = choice.model.model_dump_json(), choice.pool.engine
                groups.setdefault(key, [[] for _ in kinds])[stage].append(choice)
        for stages in groups.values():
            looks = [[(choice, self._screened[choice]) for choice in stage] for stage in stages]
            for members in product(*looks):
                choices = tuple(choice for choice, _ in members)
                fitting = self._fitting(choices)
                self.considered += len(fitting)
                out = next((look for _, look in members if look.reason is not None), None)
                if out is not None and fitting:
                    label = Unit(tuple((choice, 1) for choice in choices)).label()
                    self._pruned.add(str(out.reason), f"{label}: {out.example}", len(fitting))
                elif fitting:
                    found = tuple(look.bound.rate_per_s for _, look in members if look.bound is not None)
                    one = self._serving(_Combination(choices, found, fitting))
                    if one.ratios:
                        yield one

    def _fitting(self, choices: Sequence[Choice]) -> tuple[tuple[int, ...], ...]:
        """Return the ratios that the chips suffice for."""
        chips = [choice.chips for choice in choices]
        every = ratios(len(choices), self._table.unit_instances)
        return tuple(
            counts
            for counts in every
            if sum(one * count for one, count in zip(chips, counts, strict=True)) <= self._race.chips
        )

    def _serving(self, combination: _Combination) -> _Combination:
        """Return a combination with those ratios of which enough units fit to serve a rate that must be served."""
        goal = self._race.goal
        if goal.axis != "units":
            return combination
        kept = []
        for unit, rate, counts in combination.units():
            if ceil(goal.traffic.rate_per_s / rate) > self._race.chips // unit.chips:
                self._pruned.add("more chips than there are", f"{unit.label()}: {unit.chips} chips")
            else:
                kept.append(counts)
        return _Combination(combination.choices, combination.bounds, tuple(kept))

    def _composed(self, combinations: Sequence[_Combination], stages: Stages) -> list[Entry]:
        """Return the deployments that should be worth the most by what their stages bear alone."""
        rates, known = stages.rates(), []
        for combination in combinations:
            each = [rates.get(choice, 0.0) for choice in combination.choices]
            if min(each) <= 0:
                label = Unit(tuple((choice, 1) for choice in combination.choices)).label()
                reason = "a stage of it bears no load within the SLO, or too little"
                self._pruned.add(reason, label, len(combination.ratios))
                continue
            for unit, bound, counts in combination.units():
                expected = min(bound, *(rate * count for rate, count in zip(each, counts, strict=True)))
                known.append(_Composed(combination, unit, expected))
        chosen = self._along(known, stages) if self._race.goal.of_fronts else self._best(known)
        kept = set(chosen)
        less = [one for place, one in enumerate(known) if place not in kept]
        if less:
            self._pruned.add("worth less by what its stages bear alone", less[0].unit.label(), len(less))
        return [self._entry(known[place]) for place in chosen]

    def _entry(self, one: _Composed) -> Entry:
        bounds = [self._bounds[choice] for choice in one.combination.choices]
        entry = entry_of(one.unit, bounds, self._race.goal, self._race.chips)
        entry.expected_per_s = one.expected_per_s
        return entry

    def _best(self, known: Sequence[_Composed]) -> list[int]:
        """Return the places of those that should be worth the most, the best first."""
        goal = self._race.goal
        hopes = [goal.at_best(one.unit, one.expected_per_s) for one in known]
        taken: Counter[int] = Counter()
        chosen: list[int] = []
        for place in sorted(range(len(known)), key=lambda place: -hopes[place]):
            of = id(known[place].combination)
            short = goal.falls_short(hopes[place], max(hopes), CLOSE)
            if len(chosen) < _COMPOSED and taken[of] < _OF_A_COMBINATION and not short:
                taken[of] += 1
                chosen.append(place)
        return chosen

    def _along(self, known: Sequence[_Composed], stages: Stages) -> list[int]:
        """Return the places of those that together should enclose most, from light loads to full."""
        speeds: dict[int, tuple[list[float], list[float]]] = {}
        points: list[Points] = []
        for one in known:
            (choice, count), of = one.unit.members[-1], id(one.combination)
            if of not in speeds:
                speeds[of] = stages.speeds(choice)
            loads = one.expected_per_s * np.array((*LIGHTER, 1.0))
            users = np.interp(loads / count, *speeds[of]) if speeds[of][0] else np.zeros(len(loads))
            per_chip = loads * self._race.goal.traffic.output_tokens / one.unit.chips
            points.append(tuple(zip(users.tolist(), per_chip.tolist(), strict=True)))
        every = front(place for one in points for place in one)
        near = [place for place, one in enumerate(points) if extends(one, every, CLOSE)]
        return [near[place] for place in spread([points[place] for place in near], _COMPOSED)]
