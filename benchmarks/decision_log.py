"""Decisions of an engine in a file: what changes from step to step, compressed."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from simulator.decisions import Decision, DecisionLog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["pack", "unpack"]


def pack(log: DecisionLog, about: Mapping[str, Any]) -> bytes:
    """Return a file of decisions, and of what else is to be known about them.

    A step is three lists: requests and tokens as far as they differ from the step before (0 for who computes nothing
    any more), requests and cached tokens of those admitted, requests preempted. A step like the one before adds 1 to a
    number.
    """
    instances = {number: list(_changes(log.decisions(number))) for number in sorted(log.by_instance)}
    text = json.dumps({**about, "steps": log.steps, "instances": instances}, separators=(",", ":"))
    return zlib.compress(text.encode(), 9)


def unpack(content: bytes) -> tuple[DecisionLog, dict[str, Any]]:
    """Return what a file of :func:`pack` holds."""
    about = json.loads(zlib.decompress(content))
    log = DecisionLog()
    for number, steps in about.pop("instances").items():
        for decision in _decisions(steps):
            log.note(int(number), decision)
    return log, about


def _changes(decisions: Sequence[Decision]) -> Iterator[Any]:
    before: dict[int, int] = {}
    alike = 0
    for decision in decisions:
        now = dict(decision.tokens)
        changed = {i: now.get(i, 0) for i in sorted({*before, *now}) if before.get(i, 0) != now.get(i, 0)}
        if not (changed or decision.admitted or decision.preempted):
            alike += 1
            continue
        if alike:
            yield alike
        alike, before = 0, now
        yield [_flat(changed.items()), _flat(decision.admitted), list(decision.preempted)]
    if alike:
        yield alike


def _flat(pairs: Any) -> list[int]:  # noqa: ANN401 - any pairs of numbers
    return [number for pair in pairs for number in pair]


def _decisions(steps: Sequence[Any]) -> Iterator[Decision]:
    tokens: dict[int, int] = {}
    for step in steps:
        if isinstance(step, int):
            for _ in range(step):
                yield Decision.of(tokens, {}, ())
            continue
        changed, admitted, preempted = step
        tokens.update(_pairs(changed))
        tokens = {index: new for index, new in tokens.items() if new}
        yield Decision.of(tokens, dict(_pairs(admitted)), preempted)


def _pairs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(numbers[::2], numbers[1::2], strict=True)
