"""The search: which deployment of a model meets the latency targets of a traffic, and is worth the most.

Instances are screened by bounds that nothing can surpass; what is left is put under load by simulation, many
deployments in short runs and few in long ones. Which runs are made follows from results alone, so that an interrupted
search ends as one that was not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from perfdb.load_model import load_model
from simulator.apart import Apart
from simulator.entries import LONG, LONGER, SHORT, Entry, entry_of, ladder_of
from simulator.found import Found
from simulator.race import CLOSE, Race
from simulator.screening import Look, Screened, look_key, screen
from simulator.search_space import Choice, Pruned, Unit, choices_of, stages_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from simulator.journal import Journal, Summary
    from simulator.objectives import Goal
    from simulator.search_table import Searched

    Make = Callable[[Mapping[str, Any], Callable[[str, Any, Journal], Summary]], dict[str, Summary]]

__all__ = ["Search"]

#: Layouts that are worth this share of the best with usual options are tried with others too.
_WORTH_OPTIONS: Final = 0.7
#: Of the time, the share for short runs, and of that of a split with stages apart, the share for stages alone.
_FOR_SHORT: Final = 0.75
_FOR_STAGES: Final = 0.6


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
        Tells whether a share of the time is up.
    """

    def __init__(self, searched: Searched, goal: Goal, make: Make, late: Callable[[float], bool]) -> None:
        self._searched, self._goal, self._make = searched, goal, make
        self._race = Race(searched, goal, make, late)
        self._pruned, self._considered = Pruned(), 0
        self._screened: dict[Choice, Screened] = {}

    def run(self) -> Found:
        """Search."""
        layouts: dict[object, list[Choice]] = {}
        for choice in choices_of(self._searched, self._pruned):
            layouts.setdefault(choice.layout, []).append(choice)
        # The last of the values of an option is its usual one.
        self._screen([choices[-1] for choices in layouts.values()])
        self._screen([one for choices in layouts.values() if self._refused(choices[-1]) for one in choices[:-1]])
        splits = len(self._searched.table.splits)
        self._race.share = _FOR_SHORT / splits
        self._colocated(layouts.values())
        apart = self._apart(layouts.values())
        self._race.share = 1.0
        for rung in (LONGER, LONG):
            self._race.refine(rung)
        self._race.trace_finalists()
        best = [entry for split in self._searched.table.splits if (entry := self._race.best(split)) is not None]
        confirmed = [found for entry in best if (found := self._race.confirm(entry)) is not None]
        confirmed.sort(key=lambda found: -found.worth(self._goal))
        considered = self._considered + apart.considered
        entries = tuple(self._race.entries)
        return Found(entries, apart.stages, tuple(confirmed), self._pruned, considered, self._race.stopped)

    # --- screening -----------------------------------------------------------------------------------

    def _screen(self, choices: Sequence[Choice]) -> None:
        """Look at instances."""
        base, goal = self._searched.scenario, self._goal
        looks = {choice: Look.at(choice, base, goal.traffic, speeds=goal.of_fronts) for choice in choices}
        keys = {choice: look_key(look) for choice, look in looks.items()}
        found = self._make({keys[choice]: look for choice, look in looks.items()}, screen)
        target = self._searched.scenario.slo.attainment
        self._screened |= {choice: Screened.of(found[key], target) for choice, key in keys.items()}

    def _refused(self, choice: Choice) -> bool:
        return self._screened[choice].reason is not None

    def _possible(self, units: Sequence[Unit]) -> Iterator[Entry]:
        """Yield the deployments that no bound rules out; count the others."""
        self._considered += len(units)
        for unit in units:
            looks = [self._screened[choice] for choice, _ in unit.members]
            out = next((look for look in looks if look.reason is not None), None)
            if out is not None:
                self._pruned.add(str(out.reason), f"{unit.label()}: {out.example}")
                continue
            bounds = [look.bound for look in looks if look.bound is not None]
            entry = entry_of(unit, bounds, self._goal, self._race.chips)
            if not entry.units or not ladder_of(entry, self._goal, SHORT, self._race.chips, self._race.allowed_s):
                self._pruned.add("more chips than there are", f"{unit.label()}: {unit.chips} chips")
                continue
            yield entry

    # --- deployments ---------------------------------------------------------------------------------

    def _colocated(self, layouts: Iterable[Sequence[Choice]]) -> None:
        """Try every layout with its usual options, and those that do well with others."""
        mine = [choices for choices in layouts if choices[0].role == "colocated" and not choices[0].apart]
        first = [one for choices in mine for one in choices if one in self._screened]
        entries = self._ranked(first)
        self._race.run(entries, _WORTH_OPTIONS)
        good = {entry.unit.members[0][0].layout for entry in self._worth_options(entries)}
        others = [one for choices in mine for one in choices if one not in self._screened]
        self._screen([one for one in others if one.layout in good])
        self._race.run(self._ranked([one for one in others if one.layout in good]), CLOSE)
        for one in others:
            if one.layout not in good:
                self._considered += 1
                self._pruned.add("its layout is worth much less with usual options", one.label)

    def _ranked(self, choices: Sequence[Choice]) -> list[Entry]:
        entries = list(self._possible([Unit(((choice, 1),)) for choice in choices]))
        return sorted(entries, key=lambda entry: -entry.at_best)

    def _worth_options(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        best = self._race.best("colocated")
        top = None if best is None else best.worth(self._goal)
        for entry in entries:
            worth = entry.worth(self._goal)
            if top is not None and worth is not None and not self._goal.falls_short(worth, top, _WORTH_OPTIONS):
                yield entry

    def _apart(self, layouts: Iterable[Sequence[Choice]]) -> Apart:
        """Try deployments whose stages are apart, split by split; return what they were composed by."""
        table, every = self._searched.table, [one for choices in layouts for one in choices]
        apart = Apart(self._race, table, self._screened, self._pruned)
        encodes, slice_ = load_model(self._searched.scenario.model.name).encoder is not None, self._race.share
        if "colocated" not in table.splits:
            self._race.share = 0.0
        for split in table.splits:
            stages = stages_of(split, encodes=encodes)
            if len(stages) == 1:
                continue
            kinds = [[one for one in every if one.pool.stages == pool] for pool in stages]
            self._screen([one for kind in kinds for one in kind if one not in self._screened])
            apart.run(kinds, (self._race.share + _FOR_STAGES * slice_, self._race.share + slice_))
        return apart
