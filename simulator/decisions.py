"""What schedulers decided, step by step, and where two of them part."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Decision", "DecisionLog", "Difference", "EnoughStepsError", "compare_decisions"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One step of an engine.

    Attributes
    ----------
    tokens
        Requests and the tokens they compute, in order of the requests' numbers.
    admitted
        Requests taken from the queue, in that order, and the tokens of each that were found in the cache.
    preempted
        Requests put back into the queue, in order of their numbers.
    """

    tokens: tuple[tuple[int, int], ...]
    admitted: tuple[tuple[int, int], ...]
    preempted: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Mapping[int, int], admitted: Mapping[int, int], preempted: Iterable[int]) -> Decision:
        """Return the decision that does this."""
        return cls(tuple(sorted(tokens.items())), tuple(admitted.items()), tuple(sorted(preempted)))


class EnoughStepsError(Exception):
    """As many steps were written down as somebody asked for; not an error of anybody."""


class DecisionLog:
    """Decisions of every instance, in order.

    Parameters
    ----------
    most
        Steps of all instances together after which :class:`EnoughStepsError` ends the run; None for all there are.

    Attributes
    ----------
    by_instance
        Decisions by number of instance.
    steps
        How many they are.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self.by_instance: dict[int, list[Decision]] = {}
        self.steps = 0

    def note(self, instance: int, decision: Decision) -> None:
        """Write down the next decision of an instance.

        Raises
        ------
        EnoughStepsError
            If there are as many as somebody asked for.
        """
        if self.steps == self._most:
            raise EnoughStepsError
        self.steps += 1
        self.by_instance.setdefault(instance, []).append(decision)

    @property
    def full(self) -> bool:
        """Whether there are as many steps as somebody asked for."""
        return self.steps == self._most

    def decisions(self, instance: int) -> Sequence[Decision]:
        """Return the decisions of an instance."""
        return self.by_instance.get(instance, ())


@dataclass(frozen=True, slots=True)
class Difference:
    """The first step of an instance in which two schedulers do not decide the same.

    Attributes
    ----------
    instance, step
        Its number, and that of the step, from 0.
    ours, theirs
        What each decided; None for one that had nothing left to do.
    """

    instance: int
    step: int
    ours: Decision | None
    theirs: Decision | None

    def lines(self) -> list[str]:
        """Return in words how the two differ."""
        nothing = Decision((), (), ())
        ours, theirs = self.ours or nothing, self.theirs or nothing
        ends = [
            f"{name} has no step {self.step}"
            for name, found in (("ours", self.ours), ("vLLM", self.theirs))
            if found is None
        ]
        sides = (
            ("tokens to compute", dict(ours.tokens), dict(theirs.tokens)),
            ("cached tokens at admission", dict(ours.admitted), dict(theirs.admitted)),
            ("preempted", dict.fromkeys(ours.preempted, 1), dict.fromkeys(theirs.preempted, 1)),
        )
        found = [line for what, one, other in sides for line in _differing(what, one, other)]
        if not found and not ends:
            found = [f"order of admission: ours {_order(ours)}, vLLM {_order(theirs)}"]
        return ends + found


def _order(decision: Decision) -> list[int]:
    return [index for index, _ in decision.admitted]


def _differing(what: str, ours: Mapping[int, int], theirs: Mapping[int, int]) -> Iterable[str]:
    """Yield a line per request for which two sides have something else."""
    for index in sorted({*ours, *theirs}):
        one, other = ours.get(index), theirs.get(index)
        if one != other:
            yield f"request {index}, {what}: ours {_said(one)}, vLLM {_said(other)}"


def _said(number: int | None) -> str:
    return "none" if number is None else str(number)


def compare_decisions(ours: DecisionLog, theirs: DecisionLog) -> tuple[int, list[Difference]]:
    """Return the number of steps that differ, and the first of each instance that has one.

    Of two logs that were cut, what only one of them has got to does not count.
    """
    differing, firsts = 0, []
    cut = ours.full or theirs.full
    for instance in sorted({*ours.by_instance, *theirs.by_instance}):
        sides = ours.decisions(instance), theirs.decisions(instance)
        pairs = zip(*sides, strict=False) if cut else zip_longest(*sides)
        places = [(step, *pair) for step, pair in enumerate(pairs) if pair[0] != pair[1]]
        differing += len(places)
        if places:
            firsts.append(Difference(instance, *places[0]))
    return differing, firsts
