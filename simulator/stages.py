"""Stages alone: what an instance bears of encoding, prompts or decoding, beside more than enough of the others."""

from __future__ import annotations

from math import ceil
from statistics import median_high
from typing import TYPE_CHECKING, Final

from simulator.entries import FIRST_GUESS, SHORT, Entry
from simulator.objectives import stage_goal
from simulator.race import CLOSE, WAVE
from simulator.search_space import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.race import Race
    from simulator.search_space import Choice
    from simulator.step_bounds import Bound

__all__ = ["Stages"]

#: Instances of the other stages beside one under trial, for each that its bound asks for.
_AMPLE: Final = 2.0
#: Chips of the stage under trial: its instances help each other out.
_STAGE_CHIPS: Final = 8
#: How fast users are served is theirs to say.
_DECODING: Final = ("decode", "colocated")
#: Images and prompts are over within their TTFT, so that fewer of them show what an instance bears.
_FEWER: Final = SHORT._replace(at_most=400)
_RUNGS: Final = {"encode": _FEWER, "prefill": _FEWER, "decode": SHORT, "colocated": SHORT}


class Stages:
    """Instances of one stage, and what they bear alone.

    Parameters
    ----------
    race
        Puts deployments under load.
    combinations
        Instances of all stages that go together, in the order of the stages.
    bounds
        What each cannot surpass.
    tried
        Deployments that put a stage under load, by the instance that is under trial; added to.
    """

    def __init__(
        self,
        race: Race,
        combinations: Sequence[tuple[Choice, ...]],
        bounds: Mapping[Choice, Bound],
        tried: dict[Choice, Entry],
    ) -> None:
        self._race, self._tried, self._goal = race, tried, stage_goal(race.goal)
        stages: list[dict[Choice, int]] = [{} for _ in combinations[0]] if combinations else []
        for choices in combinations:
            for stage, choice in zip(stages, choices, strict=True):
                stage.setdefault(choice, len(stage))
        self._choices = [list(stage) for stage in stages]
        self._places = [tuple(s[c] for s, c in zip(stages, choices, strict=True)) for choices in combinations]
        self._bounds = {choice: bounds[choice] for stage in self._choices for choice in stage}

    def rates(self) -> dict[Choice, float]:
        """Return the requests per second that an instance bears; of those that no partner makes worth while, none."""
        while wave := self._next():
            if self._race.stop(
                "stages", first=not any(choice in self._tried for stage in self._choices for choice in stage)
            ):
                break
            fresh = {choice: self._deployment(choice, stage) for choice, stage in wave}
            self._tried |= fresh
            for role, rung in _RUNGS.items():
                mine = [one for choice, one in fresh.items() if choice.role == role]
                self._race.attempt(mine, rung, self._goal, {})
                if self._race.goal.of_fronts and role in _DECODING:
                    self._race.trace(mine, rung, self._goal)
        return {choice: self._rate(choice) for stage in self._choices for choice in stage if choice in self._tried}

    def _next(self) -> list[tuple[Choice, int]]:
        """Return who is to be tried next: of each stage those that might do best with the best of partners."""
        costs = [[self._chips_per_rate(choice) for choice in stage] for stage in self._choices]
        tried = [[choice in self._tried for choice in stage] for stage in self._choices]
        hopes = [[0.0] * len(stage) for stage in self._choices]
        best = 0.0
        for places in self._places:
            together = 1 / sum(costs[stage][place] for stage, place in enumerate(places))
            for stage, place in enumerate(places):
                hopes[stage][place] = max(hopes[stage][place], together)
            if all(tried[stage][place] for stage, place in enumerate(places)):
                best = max(best, together)
        wave: list[tuple[Choice, int]] = []
        for stage, choices in enumerate(self._choices):
            hope = hopes[stage]
            left = [
                place
                for place, choice in enumerate(choices)
                if not tried[stage][place] and (hope[place] >= CLOSE * best or self._faster(choice, stage))
            ]
            left.sort(key=lambda place: -hope[place])
            # The first two show how far bounds are from what is borne.
            wave += [(choices[place], stage) for place in left[: WAVE // 2 if any(tried[stage]) else WAVE // 4]]
        return wave

    def _faster(self, choice: Choice, stage: int) -> bool:
        """Tell whether users might be faster than with all others that bear as much: for fronts that counts too."""
        alone_ms, chips = self._bounds[choice].tpot_ms, self._chips_per_rate(choice)
        if not self._race.goal.of_fronts or alone_ms is None or chips == float("inf"):
            return False
        tried = [one for one in self._choices[stage] if one in self._tried]
        return not any(
            (self._bounds[one].tpot_ms or 0.0) <= alone_ms and CLOSE * self._chips_per_rate(one) <= chips
            for one in tried
        )

    def speeds(self, choice: Choice) -> tuple[list[float], list[float]]:
        """Return loads of an instance that decodes, requests/s, rising, and the tokens per second of a user at each."""
        entry = self._tried[choice]
        chips, count = entry.unit.chips, entry.unit.count(choice)
        kept = entry.kept(next(reversed(entry.trials), ""))
        known = sorted(
            (self._goal.rate_per_chip(point, chips) * chips / count, 1e3 / point["mean_tpot_ms"])
            for _, point in kept
            if point["mean_tpot_ms"]
        )
        return [rate for rate, _ in known], [speed for _, speed in known]

    def _chips_per_rate(self, choice: Choice) -> float:
        """Return the chips that a request per second takes; in the best of ratios those of all stages add up."""
        rate = self._rate(choice)
        return choice.chips / rate if rate else float("inf")

    def _rate(self, choice: Choice) -> float:
        """Return what an instance bears, or its bound before it was tried."""
        entry = self._tried.get(choice)
        if entry is None:
            return self._bounds[choice].rate_per_s
        if entry.point is None:
            return 0.0
        chips = entry.unit.chips
        return self._goal.rate_per_chip(entry.point, chips) * chips / entry.unit.count(choice)

    def _deployment(self, choice: Choice, stage: int) -> Entry:
        """Return a deployment that ends with what one stage bears."""
        place, bound = self._choices[stage].index(choice), self._bounds[choice].rate_per_s
        mine = [places for places in self._places if places[stage] == place]
        others = {
            other: [self._choices[other][one] for one in dict.fromkeys(places[other] for places in mine)]
            for other in range(len(self._choices))
            if other != stage
        }
        # More than all chips can bear of any other stage is never asked of it.
        most = min(max(self._most(partner) for partner in partners) for partners in others.values())
        count = max(1, min(min(self._race.chips, _STAGE_CHIPS) // choice.chips, ceil(most / bound)))
        rate = min(count * bound, most)
        members = {stage: (choice, count)}
        for other, partners in others.items():
            # The other stages are to be the last to miss the SLO.
            partner = min(partners, key=self._alone_ms)
            members[other] = (partner, 1 + int(_AMPLE * rate / self._bounds[partner].rate_per_s))
        unit = Unit(tuple(members[number] for number in sorted(members)))
        return Entry(unit, 1, rate, 0.0, FIRST_GUESS * rate, foreseen_per_s=self._guess(choice.role) * rate)

    def _guess(self, role: str) -> float:
        """Return the share of its bound that a stage should bear: what those of its role did so far."""
        tried = [entry for choice, entry in self._tried.items() if choice.role == role and entry.point is not None]
        return median_high(entry.expected_per_s / entry.bound_per_s for entry in tried) if tried else FIRST_GUESS

    def _most(self, choice: Choice) -> float:
        return self._bounds[choice].rate_per_s * (self._race.chips // choice.chips)

    def _alone_ms(self, choice: Choice) -> float:
        bound = self._bounds[choice]
        return bound.tpot_ms or bound.ttft_ms or 0.0
