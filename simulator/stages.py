"""Stages alone: what an instance bears of prompts, or of decoding, beside more than enough of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulator.entries import SHORT, Entry
from simulator.objectives import stage_goal
from simulator.race import CLOSE, WAVE
from simulator.search_space import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulator.race import Race
    from simulator.search_space import Choice
    from simulator.step_bounds import Bound

__all__ = ["FIRST_GUESS", "Stages"]

#: Instances of the other stage beside one under trial, for each that its bound asks for.
_AMPLE: Final = 2.0
#: Chips of the stage under trial: its instances help each other out.
_STAGE_CHIPS: Final = 8
#: Prompts are over within their TTFT, so that fewer of them show what an instance bears.
_RUNGS: Final = {"prefill": SHORT._replace(at_most=400), "decode": SHORT}
#: Where a bound is tried first.
FIRST_GUESS: Final = 0.6


class Stages:
    """Instances of one stage, and what they bear alone.

    Parameters
    ----------
    race
        Puts deployments under load.
    pairs
        Instances of both stages that go together.
    bounds
        What each cannot surpass.

    Attributes
    ----------
    entries
        The deployments that put a stage under load.
    """

    def __init__(self, race: Race, pairs: Sequence[tuple[Choice, Choice]], bounds: Mapping[Choice, Bound]) -> None:
        self._race, self._pairs, self._bounds = race, pairs, bounds
        self._partners: dict[Choice, list[Choice]] = {}
        for pair in pairs:
            for choice, other in (pair, pair[::-1]):
                self._partners.setdefault(choice, []).append(other)
        self._tried: dict[Choice, Entry] = {}
        self._goal = stage_goal(race.goal)

    @property
    def entries(self) -> list[Entry]:
        """The deployments that put a stage under load."""
        return list(self._tried.values())

    def rates(self) -> dict[Choice, float]:
        """Return the requests per second that an instance bears; of those that no partner makes worth while, none."""
        while wave := self._next():
            if self._race.stop("stages"):
                break
            fresh = {choice: self._deployment(choice) for choice in wave}
            self._tried |= fresh
            for role, rung in _RUNGS.items():
                self._race.attempt([one for choice, one in fresh.items() if choice.role == role], rung, self._goal, {})
        return {choice: self._rate(choice) for choice in self._tried}

    def _next(self) -> list[Choice]:
        """Return who is to be tried next: of each stage those that might do best with the best of partners."""
        best = max((self._together(*pair) for pair in self._pairs if set(pair) <= self._tried.keys()), default=0.0)
        wave: list[Choice] = []
        for number in (0, 1):
            left = [one for one in dict.fromkeys(pair[number] for pair in self._pairs) if one not in self._tried]
            hopes = {one: max(self._together(one, other) for other in self._partners[one]) for one in left}
            promising = [one for one in left if hopes[one] >= CLOSE * best]
            wave += sorted(promising, key=lambda one: -hopes[one])[: WAVE // 2]
        return wave

    def _together(self, one: Choice, other: Choice) -> float:
        """Return the requests per second and chip of two stages in the best of ratios."""
        rates = [self._rate(choice) for choice in (one, other)]
        return 1 / (one.chips / rates[0] + other.chips / rates[1]) if min(rates) > 0 else 0.0

    def _rate(self, choice: Choice) -> float:
        """Return what an instance bears, or its bound before it was tried."""
        entry = self._tried.get(choice)
        if entry is None:
            return self._bounds[choice].rate_per_s
        if entry.point is None:
            return 0.0
        chips = entry.unit.chips
        return self._goal.rate_per_chip(entry.point, chips) * chips / entry.unit.count(choice)

    def _deployment(self, choice: Choice) -> Entry:
        """Return a deployment that ends with what one stage bears."""
        # The other stage is to be the last to miss the SLO.
        partner = min(self._partners[choice], key=self._alone_ms)
        count = max(1, min(self._race.chips, _STAGE_CHIPS) // choice.chips)
        rate = count * self._bounds[choice].rate_per_s
        members = [(choice, count), (partner, 1 + int(_AMPLE * rate / self._bounds[partner].rate_per_s))]
        unit = Unit(tuple(members if choice.role == "prefill" else members[::-1]))
        return Entry(unit, 1, rate, 0.0, FIRST_GUESS * rate)

    def _alone_ms(self, choice: Choice) -> float:
        bound = self._bounds[choice]
        return bound.tpot_ms or bound.ttft_ms or 0.0
