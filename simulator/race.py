"""Deployments put under load: many in short runs, few in long ones."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from simulator.entries import (
    LONG,
    SHORT,
    Entry,
    Rung,
    floor_of,
    ladder_of,
    place_of,
    trial_of,
)
from simulator.found import Confirmed
from simulator.fronts import area, extends, front, spread
from simulator.trials import Trial, Verdict, run_trial, trial_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulator.fronts import Points
    from simulator.journal import Journal, Summary
    from simulator.objectives import Goal
    from simulator.search_table import Searched

    Make = Callable[[Mapping[str, Any], Callable[[str, Any, Journal], Summary]], dict[str, Summary]]

__all__ = ["CLOSE", "LIGHTER", "WAVE", "Race"]

#: Deployments tried side by side before the best of them is a yardstick for the next.
WAVE: Final = 8
#: What is worth less than this share of the best in a round does not go on.
CLOSE: Final = 0.9
#: Deployments of each split that go on to a round.
_GO_ON: Final = {"longer": 4, "long": 2}
#: Deployments of all splits that go on for the front, beside the best of each.
_ON_FRONT: Final = {"longer": 8, "long": 5}
#: Shares of the load that a deployment bears under which it is run, too.
LIGHTER: Final = (0.15, 0.3, 0.5, 0.75)


class Race:
    """Deployments under load.

    Parameters
    ----------
    searched
        What the search is about.
    goal
        What deployments are ranked by.
    make
        Makes runs of a kind of work and keeps them, such as :func:`simulator.parallel.run_missing`.
    late
        Tells whether a share of the time is up.

    Attributes
    ----------
    share
        The share of the time after which what is tried now ends, as others are to be tried too.
    entries
        The deployments, in the order they joined.
    chips
        Chips there are.
    allowed_s
        How long the SLO allows a mean request, s: the unit of the length of runs.
    stopped
        The round that the time did not suffice for, or None.
    """

    def __init__(self, searched: Searched, goal: Goal, make: Make, late: Callable[[float], bool]) -> None:
        self.goal, self._make, self._late = goal, make, late
        self._base, self._splits = searched.scenario, searched.table.splits
        self.chips = searched.table.gpus or 1
        slo, lasts_s = searched.scenario.slo, searched.table.duration_s
        allowed_s = goal.traffic.allowed_s(slo.ttft_ms, slo.tpot_ms, slo.e2e_ms)
        self.allowed_s = lasts_s / LONG.lasts if lasts_s else allowed_s
        self._requests = searched.table.requests
        self.entries: list[Entry] = []
        self.stopped: str | None = None
        self.share = 1.0

    def stop(self, what: str, *, first: bool = False) -> bool:
        """Tell whether time is up, and remember for what; the first of a kind have all that is left."""
        up = self._late(1.0 if first else self.share)
        if up and self.stopped is None:
            self.stopped = what
        return up

    def run(self, entries: Sequence[Entry], close: float) -> None:
        """Put deployments of one split under load in short runs, in order.

        Parameters
        ----------
        entries
            The deployments, the most promising first.
        close
            One that is worth less than this share of the best so far is not looked at any closer.
        """
        known = {entry.unit.split for entry in self.entries}
        self.entries += entries
        for start in range(0, len(entries), WAVE):
            wave = entries[start : start + WAVE]
            if self.stop(SHORT.name, first=not start and wave[0].unit.split not in known):
                for entry in wave:
                    entry.leave("time", "the time did not suffice")
                continue
            if self.goal.of_fronts:
                self._along(wave)
                continue
            best = self.best(wave[0].unit.split)
            worth = None if best is None else best.worth(self.goal)
            floors = {} if worth is None else self._floors(wave, worth * close if worth > 0 else worth / close)
            self.attempt([entry for entry in wave if entry.left_at is None], SHORT, self.goal, floors)

    def _along(self, wave: Sequence[Entry]) -> None:
        """Put those under load, from light to full, that might extend the front of their split."""
        known = self.front(wave[0].unit.split)
        for entry in wave:
            if not extends(entry.corners, known, CLOSE):
                entry.leave("bound", "could not extend the front even without any queueing")
        going = [entry for entry in wave if entry.left_at is None]
        self.attempt(going, SHORT, self.goal, {})
        self.trace(going, SHORT, self.goal)

    def front(self, split: str) -> Points:
        """Return the front of the deployments of a split that go on."""
        return front(place for entry in self._bearing(split) for place in entry.places(self.goal))

    def _floors(self, entries: Sequence[Entry], target: float) -> dict[int, int]:
        """Return the last place worth trying of each deployment; those that are never worth so much leave."""
        floors = {}
        for entry in entries:
            place = floor_of(entry, self.goal, self._ladder(entry, self.goal, SHORT), target)
            if place is None:
                entry.leave("bound", "could not be worth as much even without any queueing")
            else:
                floors[id(entry)] = place
        return floors

    def _ladder(self, entry: Entry, goal: Goal, rung: Rung) -> tuple[float, ...]:
        return ladder_of(entry, goal, rung, self.chips, self.allowed_s)

    def attempt(self, entries: Sequence[Entry], rung: Rung, goal: Goal, floors: Mapping[int, int]) -> None:
        """Put deployments on trial side by side, and note what comes of it."""
        rung = rung._replace(at_least=ceil(rung.at_least * self._requests / LONG.at_least))
        trials: dict[str, Trial] = {}
        keys: list[tuple[Entry, str]] = []
        for entry in entries:
            ladder = self._ladder(entry, goal, rung)
            floor = floors.get(id(entry))
            hint = self._hint(entry, goal, ladder, floor)
            try:
                trial = trial_of(
                    entry, self._base, goal, rung, ladder, hint=hint, floor=floor, allowed_s=self.allowed_s
                )
            except ValidationError as error:
                entry.leave("pools", str(error.errors()[0]["msg"]))
                continue
            key = trial_key(trial)
            trials[key] = trial
            keys.append((entry, key))
        found = self._make(trials, run_trial)
        for entry, key in keys:
            entry.trials[rung.name] = (trials[key], Verdict.of(found[key]))
            if entry.point is None:
                entry.leave(rung.name, "misses the SLO at every load worth bearing")
            else:
                entry.expected_per_s = goal.rate_per_chip(entry.point, entry.chips(goal)) * entry.unit.chips

    def _hint(self, entry: Entry, goal: Goal, ladder: tuple[float, ...], floor: int | None) -> int:
        if entry.load is not None:
            return place_of(ladder, entry.load)
        if floor is not None:
            return max(0, floor - 2)
        if goal.axis == "units":
            return 0
        return place_of(ladder, ladder[0] * (entry.foreseen_per_s or entry.expected_per_s) / entry.bound_per_s)

    def best(self, split: str) -> Entry | None:
        """Return the deployment of a split that is worth the most by the longest runs there are."""
        return max(self._bearing(split), key=lambda entry: (len(entry.trials), entry.rank(self.goal)), default=None)

    def _bearing(self, split: str) -> list[Entry]:
        """Return the deployments of a split that go on and bear something."""
        going = [entry for entry in self.entries if entry.unit.split == split and entry.left_at is None]
        return [entry for entry in going if entry.point is not None]

    def refine(self, rung: Rung) -> None:
        """Put the best of each split under load in longer runs; the others leave."""
        going = self._on_front(_ON_FRONT[rung.name]) if self.goal.of_fronts else self._best_of_each(_GO_ON[rung.name])
        if going and not self.stop(rung.name):
            self.attempt(going, rung, self.goal, {})
            if self.goal.of_fronts and rung is LONG:
                self.trace(going, rung, self.goal)

    def _best_of_each(self, most: int) -> list[Entry]:
        """Return the deployments of each split that should be worth the most; the others leave."""
        going: list[Entry] = []
        for split in self._splits:
            hopes = [(entry.hope(self.goal), entry.rank(self.goal)[1], entry) for entry in self._bearing(split)]
            hopes.sort(key=lambda found: found[:2], reverse=True)
            for place, (hope, _, entry) in enumerate(hopes):
                if place >= most or self.goal.falls_short(hope, hopes[0][0], CLOSE):
                    entry.leave(next(reversed(entry.trials)), "others are worth more")
                else:
                    going.append(entry)
        return going

    def _on_front(self, most: int) -> list[Entry]:
        """Return the deployments that enclose most, others near their front, and the best of each split."""
        found = [entry for split in self._splits for entry in self._bearing(split)]
        places = [entry.places(self.goal) for entry in found]
        chosen, known = spread(places, most), front(place for one in places for place in one)
        near = [number for number, one in enumerate(places) if number not in chosen and extends(one, known, CLOSE)]
        chosen += sorted(near, key=lambda number: -area(places[number]))[: most - len(chosen)]
        best = [self.best(split) for split in self._splits]
        going = [one for number, one in enumerate(found) if number in chosen or any(one is other for other in best)]
        for entry in found:
            if all(entry is not one for one in going):
                entry.leave(next(reversed(entry.trials)), "others yield as much for users as fast")
        return going

    def trace_finalists(self) -> None:
        """Run the finalists under lighter loads too, unless that was done before."""
        if not self.goal.of_fronts and self.goal.axis != "units":
            self.trace([entry for entry in self.entries if LONG.name in entry.trials], SHORT, self.goal)

    def trace(self, entries: Sequence[Entry], rung: Rung, goal: Goal) -> None:
        """Run deployments under lighter loads too: fewer tokens of a chip, more for each user.

        Parameters
        ----------
        entries
            The deployments.
        rung
            The round whose trials say how many requests.
        goal
            What a load is.
        """
        asked: dict[str, tuple[Entry, Trial]] = {}
        for entry in entries:
            load = entry.load
            if load is None:
                continue
            trial = entry.trials[rung.name][0]
            for share in LIGHTER:
                ladder = (float(f"{load * share:.4g}") if goal.axis == "rate" else max(1.0, round(load * share)),)
                requests = max(1, round(trial.requests * share))
                one = replace(trial, ladder=ladder, hint=0, floor=None, requests=requests)
                asked[trial_key(one)] = (entry, one)
        if self.stop("curve"):
            return
        found = self._make({key: trial for key, (_, trial) in asked.items()}, run_trial)
        for key, (entry, trial) in asked.items():
            name = next(reversed(entry.trials))
            entry.curves.setdefault(name, []).append((trial, Verdict.of(found[key])))

    def confirm(self, entry: Entry) -> Confirmed | None:
        """Simulate all of a deployment: every unit, behind one router."""
        assert entry.last is not None  # noqa: S101 - only what was tried is confirmed
        assert entry.last[1].place is not None  # noqa: S101 - and bore something
        trial, verdict = entry.last
        units = trial.units if trial.axis != "units" else int(trial.ladder[entry.last[1].place])
        if units > trial.together:
            hint = entry.last[1].place
            trial = replace(trial, together=units, hint=hint, floor=None, climbs=False)
            (summary,) = self._make({trial_key(trial): trial}, run_trial).values()
            verdict = Verdict.of(summary)
        if verdict.place is None:
            entry.leave("whole", "all of it misses the SLO at the load that its parts bear")
            return None
        return Confirmed(entry, trial, verdict, verdict.place)
