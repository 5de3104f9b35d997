"""Replay measured cases, and set what the simulator says beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from hardware.errors import UserError
from perfdb.tables import tables_sha256
from simulator.case_scenario import case_replay
from simulator.cases import METRICS
from simulator.made_by import versions
from simulator.replay import part_of, run_replay
from simulator.scores import grouped, score

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from simulator.case_scenario import Replay
    from simulator.cases import Case
    from simulator.journal import Journal, Summary
    from simulator.launch_rules import LaunchRules

__all__ = ["CONCURRENCY", "SETS", "Validation", "validate"]

#: Upper ends of the ranges of users that errors are told by.
CONCURRENCY: Final = (4, 8, 16, 32, 64, 128, 256, 1 << 30)

#: Which cases a table is of: those to trust, each once; and all.
SETS: Final[Mapping[str, str]] = {"clean": "clean and distinct cases", "all": "all cases"}

_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "source": ("source", "mode", "engine", "chip"),
    "model": ("engine", "model"),
    "concurrency": ("engine", "users"),
}


@dataclass(frozen=True, slots=True)
class Validation:
    """What came of the cases.

    Attributes
    ----------
    cases
        What was measured.
    predicted
        Figures by case id; a case that is not there was skipped.
    skipped
        Why, by case id.
    chips
        What the chip of each case is called here, by case id.
    """

    cases: tuple[Case, ...]
    predicted: Mapping[str, Mapping[str, float]]
    skipped: Mapping[str, str]
    chips: Mapping[str, str]

    def table(self) -> pd.DataFrame:
        """Return a row for each case and metric that was measured, ``predicted`` NaN where there is no prediction."""
        return pd.DataFrame(
            [
                _labels(case)
                | {
                    "chip": self.chips[case.case_id],
                    "metric": metric,
                    "measured": case.measured[metric],
                    "predicted": found,
                }
                for case in self.cases
                for metric in METRICS
                if metric in case.measured
                for found in [self.predicted.get(case.case_id, {}).get(metric, float("nan"))]
            ]
        )

    def content(self, tables: Path | None = None) -> dict[str, Any]:
        """Return the content of ``report.json``.

        Parameters
        ----------
        tables
            The ``systems`` folder whose tables were named; None for those of the installed package.
        """
        table = self.table()
        sets = {"clean": table[table["trusted"]], "all": table}
        reasons = pd.Series(list(self.skipped.values()), dtype=object).value_counts(sort=False)
        ordered = sorted(reasons.items(), key=lambda item: (-int(item[1]), str(item[0])))
        return {
            "servesim": "validate",
            "cases": len(self.cases),
            "predicted": len(self.predicted),
            "skipped": {str(reason): int(count) for reason, count in ordered},
            "tables": None if tables is None else {"folder": str(tables), "sha256": tables_sha256(tables)},
            "scores": {name: _scores(rows) for name, rows in sets.items()},
            "versions": versions(),
        }


def validate(
    cases: Sequence[Case],
    rules: LaunchRules,
    run: Callable[[Mapping[str, Replay], Callable[[str, Replay, Journal], Summary]], Mapping[str, Summary]],
) -> Validation:
    """Replay cases and take the figures of each; what cannot be replayed is skipped with the reason.

    Parameters
    ----------
    cases
        What was measured.
    rules
        How it was launched.
    run
        Makes the runs, each once however many cases are about it, as :func:`simulator.parallel.run_missing` does.
    """
    skipped: dict[str, str] = {}
    keys: dict[str, str] = {}
    replays: dict[str, Replay] = {}
    for case in cases:
        try:
            replay = case_replay(case, rules)
        except UserError as error:
            skipped[case.case_id] = " ".join(str(error).split())
            continue
        keys[case.case_id] = key = replay.key
        replays[key] = replay
    found = run(replays, run_replay)
    predicted: dict[str, Mapping[str, float]] = {}
    for case in cases:
        if case.case_id not in keys:
            continue
        result = found[keys[case.case_id]]
        part = part_of(case)
        if "skipped" in result:
            skipped[case.case_id] = result["skipped"]
        elif part in result["figures"]:
            predicted[case.case_id] = result["figures"][part]
        else:
            skipped[case.case_id] = f"the recorded requests name no {part}"
    order = [case.case_id for case in cases]
    return Validation(
        tuple(cases),
        {name: predicted[name] for name in order if name in predicted},
        dict(sorted(skipped.items())),
        {case.case_id: rules.chip_name(case) or "unknown" for case in cases},
    )


def _labels(case: Case) -> dict[str, Any]:
    """Return what cases are told apart by in tables and pictures."""
    users = case.numbers.get("concurrency")
    return {
        "case_id": case.case_id,
        "source": case.origin,
        "mode": case.mode,
        "engine": case.engine,
        "model": case.model,
        "users": "open loop" if users is None else _range(users),
        "trusted": case.trusted,
    }


def _range(users: float) -> str:
    """Return the range of users a number lies in, in words that sort by it."""
    above = 0
    for most in CONCURRENCY:
        if users <= most:
            return f"{above + 1:>3} to {most:>3}" if most < 1 << 30 else f"{above + 1:>3} and more"
        above = most
    raise AssertionError


def _scores(rows: pd.DataFrame) -> dict[str, Any]:
    """Return scores by metric: of all rows, and of groups."""
    found: dict[str, Any] = {}
    for metric in METRICS:
        of = rows[rows["metric"] == metric] if len(rows) else rows
        if len(of):
            predicted = [None if value != value else float(value) for value in of["predicted"]]  # noqa: PLR0124 - NaN
            found[metric] = {"total": score(of["measured"].tolist(), predicted).content()} | {
                kind: [{"group": list(name), **one.content()} for name, one in grouped(of, by).items()]
                for kind, by in _GROUPS.items()
            }
    return found
