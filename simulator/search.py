"""The search: which deployment of a model meets the latency targets of a traffic, and is worth the most.

Instances are screened by bounds that nothing can surpass; what is left is put under load by simulation, many
deployments in short runs and few in long ones. Which runs are made follows from results alone, so that an interrupted
search ends as one that was not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from simulator.entries import (
    LONG,
    LONGER,
    SHORT,
    Entry,
    Rung,
    floor_of,
    ladder_of,
    place_of,
    trial_of,
)
from simulator.found import Confirmed, Found
from simulator.objectives import stage_goal
from simulator.screening import Look, Screened, look_key, screen
from simulator.search_space import Choice, Pruned, Unit, choices_of, units_apart
from simulator.trials import Trial, Verdict, run_trial, trial_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from simulator.journal import Journal, Summary
    from simulator.objectives import Goal
    from simulator.search_table import Searched

    Make = Callable[[Mapping[str, Any], Callable[[str, Any, Journal], Summary]], dict[str, Summary]]

__all__ = ["Search"]

#: Deployments tried side by side before the best of them is a yardstick for the next.
_WAVE: Final = 8
#: What is worth less than this share of the best in a round does not go on.
_CLOSE: Final = 0.9
#: Deployments of each split that go on to a round.
_GO_ON: Final = {"longer": 4, "long": 2}
#: Disaggregated deployments composed of what their stages bear alone, in all and of a pair of kinds of instances.
_COMPOSED, _OF_A_PAIR = 16, 3
#: Instances of the other stage beside one under trial, for each that its bound asks for.
_AMPLE: Final = 2.0
#: Chips of a deployment of which half are the stage under trial: instances of one stage help each other out.
_STAGE_CHIPS: Final = 16
#: Shares of the load that a deployment bears under which it is run, too.
_LIGHTER: Final = (0.15, 0.3, 0.5, 0.75)
#: Where a bound is tried first.
_FIRST_GUESS: Final = 0.6


class Search:
    """A search.

    Parameters
    ----------
    searched
        What it is about.
    goal
        What deployments are ranked by.
    make
        Makes runs of a kind of work and keeps them, such as :func:`simulator.parallel.run_missing`.
    late
        Tells whether time is up.
    """

    def __init__(self, searched: Searched, goal: Goal, make: Make, late: Callable[[], bool]) -> None:
        self._searched, self._goal, self._make, self._late = searched, goal, make, late
        self._base, self._table, self._slo = searched.scenario, searched.table, searched.scenario.slo
        self._chips = searched.table.gpus or 1
        allowed_s = goal.traffic.allowed_s(self._slo.ttft_ms, self._slo.tpot_ms, self._slo.e2e_ms)
        self._allowed_s = searched.table.duration_s / LONG.lasts if searched.table.duration_s else allowed_s
        self._pruned, self._entries, self._considered = Pruned(), list[Entry](), 0
        self._stages: list[Entry] = []
        self._stopped: str | None = None

    def run(self) -> Found:
        """Search."""
        screened = self._screen()
        for entries in (self._colocated(screened), self._apart(screened)):
            self._race(entries)
        for rung in (LONGER, LONG):
            self._refine(rung)
        self._trace()
        best = [entry for split in self._table.splits if (entry := self._best(split)) is not None]
        confirmed = [found for entry in best if (found := self._confirm(entry)) is not None]
        confirmed.sort(key=lambda found: -self._goal.worth(found.point, found.chips))
        return Found(
            tuple(self._entries),
            tuple(self._stages),
            tuple(confirmed),
            self._pruned,
            self._considered,
            self._stopped,
        )

    # --- screening -----------------------------------------------------------------------------------

    def _screen(self) -> dict[Choice, Screened]:
        """Look at every instance."""
        choices = choices_of(self._searched, self._pruned)
        looks = [Look.at(choice, self._base, self._goal.traffic) for choice in choices]
        keys = [look_key(look) for look in looks]
        found = self._make(dict(zip(keys, looks, strict=True)), screen)
        target = self._slo.attainment
        return {choice: Screened.of(found[key], target) for choice, key in zip(choices, keys, strict=True)}

    def _colocated(self, screened: Mapping[Choice, Screened]) -> list[Entry]:
        units = [Unit(((choice, 1),)) for choice in screened if choice.role == "colocated"]
        return list(self._possible(units, screened))

    def _apart(self, screened: Mapping[Choice, Screened]) -> list[Entry]:
        """Return disaggregated deployments, composed of what their stages bear alone."""
        stages = {role: [c for c in screened if c.role == role] for role in ("prefill", "decode")}
        pairs = [
            (prefill, decode)
            for prefill in stages["prefill"]
            for decode in stages["decode"]
            if (prefill.model, prefill.pool.engine) == (decode.model, decode.pool.engine)
        ]
        units = [unit for pair in pairs for unit in units_apart(*pair, self._table)]
        entries = list(self._possible(units, screened))
        return self._compose(entries, self._alone(entries, screened))

    def _possible(self, units: Sequence[Unit], screened: Mapping[Choice, Screened]) -> Iterator[Entry]:
        """Yield the deployments that no bound rules out; count the others."""
        self._considered += len(units)
        for unit in units:
            bounds = [screened[choice] for choice, _ in unit.members]
            out = next((one for one in bounds if one.reason is not None), None)
            if out is not None:
                self._pruned.add(str(out.reason), f"{unit.label()}: {out.example}")
                continue
            rate = min(
                one.bound.rate_per_s * count
                for one, (_, count) in zip(bounds, unit.members, strict=True)
                if one.bound is not None
            )
            entry = Entry(unit, self._chips // unit.chips, rate, self._goal.at_best(unit, rate), _FIRST_GUESS * rate)
            if not entry.units or not ladder_of(entry, self._goal, SHORT, self._chips, self._allowed_s):
                self._pruned.add("more chips than there are", f"{unit.label()}: {unit.chips} chips")
                continue
            yield entry

    # --- stages alone --------------------------------------------------------------------------------

    def _alone(self, entries: Sequence[Entry], screened: Mapping[Choice, Screened]) -> dict[Choice, float]:
        """Return the requests per second that an instance of each stage bears beside more than enough of the other."""
        pairs = dict.fromkeys((entry.unit.members[0][0], entry.unit.members[1][0]) for entry in entries)
        bounds = {choice: one.bound for choice, one in screened.items() if one.bound is not None}
        rates = {choice: bound.rate_per_s for choice, bound in bounds.items()}
        # The other stage is to be the last to miss the SLO.
        alone_ms = {choice: bound.tpot_ms or bound.ttft_ms or 0.0 for choice, bound in bounds.items()}
        asked: dict[Choice, Entry] = {}
        for number in (0, 1):
            for choice in dict.fromkeys(pair[number] for pair in pairs):
                partners = [pair[1 - number] for pair in pairs if pair[number] == choice]
                partner = min(partners, key=lambda other: alone_ms[other])
                count = max(1, min(self._chips, _STAGE_CHIPS) // 2 // choice.chips)
                rate = count * rates[choice]
                members = [(choice, count), (partner, 1 + int(_AMPLE * rate / rates[partner]))]
                unit = Unit(tuple(members if number == 0 else members[::-1]))
                asked[choice] = Entry(unit, 1, rate, 0.0, _FIRST_GUESS * rate)
        goal = stage_goal(self._goal)
        self._stages = list(asked.values())
        for start in range(0, len(self._stages), _WAVE):
            if self._stop("stages"):
                break
            self._try(self._stages[start : start + _WAVE], SHORT, goal, {})
        return {
            choice: goal.rate_per_chip(entry.point, entry.unit.chips) * entry.unit.chips / entry.unit.count(choice)
            for choice, entry in asked.items()
            if entry.point is not None
        }

    def _compose(self, entries: Sequence[Entry], alone: Mapping[Choice, float]) -> list[Entry]:
        """Return the deployments that should be worth the most by what their stages bear alone."""
        known = []
        for entry in entries:
            rates = [alone.get(choice, 0.0) * count for choice, count in entry.unit.members]
            if min(rates) > 0:
                entry.expected_per_s = min(*rates, entry.bound_per_s)
                known.append((self._goal.at_best(entry.unit, entry.expected_per_s), entry))
            else:
                self._pruned.add("a stage of it bears no load within the SLO", entry.unit.label())
        known.sort(key=lambda found: -found[0])
        taken: dict[tuple[Choice, ...], int] = {}
        composed: list[Entry] = []
        for _, entry in known:
            pair = tuple(choice for choice, _ in entry.unit.members)
            if len(composed) < _COMPOSED and taken.get(pair, 0) < _OF_A_PAIR:
                taken[pair] = taken.get(pair, 0) + 1
                composed.append(entry)
            else:
                self._pruned.add("worth less by what its stages bear alone", entry.unit.label())
        return composed

    # --- simulation ----------------------------------------------------------------------------------

    def _stop(self, what: str) -> bool:
        """Tell whether time is up, and remember for what."""
        if self._stopped is None and self._late():
            self._stopped = what
        return self._stopped is not None

    def _race(self, entries: list[Entry]) -> None:
        """Put deployments under load in short runs, the most promising first."""
        self._entries += entries
        apart = [entry.unit.split == "disaggregated" for entry in entries]
        if not any(apart):
            entries = sorted(entries, key=lambda entry: -entry.at_best)
        for start in range(0, len(entries), _WAVE):
            wave = entries[start : start + _WAVE]
            if self._stop(SHORT.name):
                for entry in wave:
                    entry.leave("time", "the time did not suffice")
                continue
            best = self._best(wave[0].unit.split)
            worth = None if best is None else best.worth(self._goal)
            floors = {} if worth is None else self._floors(wave, SHORT, worth)
            going = [entry for entry in wave if entry.left_at is None]
            self._try(going, SHORT, self._goal, floors)

    def _floors(self, entries: Sequence[Entry], rung: Rung, worth: float) -> dict[int, int]:
        """Return the last place worth trying of each deployment; those that are never worth so much leave."""
        target = worth * _CLOSE if worth > 0 else worth / _CLOSE
        floors = {}
        for entry in entries:
            ladder = ladder_of(entry, self._goal, rung, self._chips, self._allowed_s)
            place = floor_of(entry, self._goal, ladder, target)
            if place is None:
                entry.leave("bound", "could not be worth as much even without any queueing")
            else:
                floors[id(entry)] = place
        return floors

    def _try(self, entries: Sequence[Entry], rung: Rung, goal: Goal, floors: Mapping[int, int]) -> None:
        """Put deployments on trial side by side, and note what comes of it."""
        trials: dict[str, Trial] = {}
        keys: list[tuple[Entry, str]] = []
        for entry in entries:
            ladder = ladder_of(entry, goal, rung, self._chips, self._allowed_s)
            floor = floors.get(id(entry))
            hint = self._hint(entry, goal, ladder, floor)
            try:
                trial = trial_of(
                    entry, self._base, goal, rung, ladder, hint=hint, floor=floor, allowed_s=self._allowed_s
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
        return place_of(ladder, ladder[0] * entry.expected_per_s / entry.bound_per_s)

    def _best(self, split: str) -> Entry | None:
        """Return the deployment of a split that is worth the most by the longest runs there are."""
        going = [entry for entry in self._entries if entry.unit.split == split and entry.left_at is None]
        found = [entry for entry in going if entry.worth(self._goal) is not None]
        return max(found, key=lambda entry: (len(entry.trials), entry.worth(self._goal) or 0.0), default=None)

    def _refine(self, rung: Rung) -> None:
        """Put the best of each split under load in longer runs."""
        going: list[Entry] = []
        for split in self._table.splits:
            found = [entry for entry in self._entries if entry.unit.split == split and entry.left_at is None]
            found = [entry for entry in found if entry.worth(self._goal) is not None]
            found.sort(key=lambda entry: -(entry.worth(self._goal) or 0.0))
            for place, entry in enumerate(found):
                short = self._goal.falls_short(
                    entry.worth(self._goal) or 0.0, found[0].worth(self._goal) or 0.0, _CLOSE
                )
                if place >= _GO_ON[rung.name] or short:
                    entry.leave(next(reversed(entry.trials)), "others are worth more")
                else:
                    going.append(entry)
        if going and not self._stop(rung.name):
            self._try(going, rung, self._goal, {})

    def _trace(self) -> None:
        """Run what went beyond short runs under lighter loads too: fewer tokens of a chip, more for each user."""
        asked: dict[str, tuple[Entry, Trial]] = {}
        for entry in self._entries:
            load = entry.load
            if load is None or LONGER.name not in entry.trials or self._goal.axis == "units":
                continue
            trial = entry.trials[SHORT.name][0]
            for share in _LIGHTER:
                ladder = (float(f"{load * share:.4g}") if self._goal.axis == "rate" else max(1.0, round(load * share)),)
                one = replace(trial, ladder=ladder, hint=0, floor=None)
                asked[trial_key(one)] = (entry, one)
        if self._stop("curve"):
            return
        found = self._make({key: trial for key, (_, trial) in asked.items()}, run_trial)
        for key, (entry, trial) in asked.items():
            entry.curve.append((trial, Verdict.of(found[key])))

    # --- all of it -----------------------------------------------------------------------------------

    def _confirm(self, entry: Entry) -> Confirmed | None:
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
