"""What ``servesim perf audit`` prints and writes: what screening says of every kernel table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.text import Text

from perfdb.audit import audit_table
from perfdb.screening import Verdict
from simulator.export import unwritable
from simulator.perf_tables import chosen_files
from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from perfdb.audit import Audited, TableFile

__all__ = ["Finding", "audit_all", "audit_report", "write_audit"]

_BAD = (Verdict.FASTER_THAN_LIGHT, Verdict.SLOWER_THAN_SIBLINGS, Verdict.BEATEN_BY_LONGER)
_MOST_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What is kept of one screened table.

    Attributes
    ----------
    file
        The table.
    points
        Its points.
    counts
        Points by verdict, the sound left out.
    worst
        The one that is furthest off, in words; empty where all are sound.
    rows
        A row for each that is off.
    """

    file: TableFile
    points: int
    counts: Mapping[Verdict, int]
    worst: str
    rows: pd.DataFrame

    @property
    def off(self) -> int:
        """Points that are not sound."""
        return sum(self.counts.values())

    @property
    def named(self) -> int:
        """Those that stay: slow, but of kernels that may be."""
        return 0 if self.file.table == "gemm" else self.counts[Verdict.SLOWER_THAN_SIBLINGS]

    @property
    def title(self) -> str:
        """What the table is of."""
        return f"{self.file.system} {self.file.framework} {self.file.version} {self.file.table}"


def audit_all(
    root: Path,
    chip: str | None,
    framework: str | None,
    table: str | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Screen the tables of a chip, framework and name; None is any. Told of how many are done, of how many."""
    files, found = chosen_files(root, chip, framework, table), []
    for done, file in enumerate(files, 1):
        one = audit_table(root, file)
        if one is not None:
            found.append(_finding(one))
        if on_progress is not None:
            on_progress(done, len(files))
    return found


def audit_report(found: Sequence[Finding]) -> Group:
    """Return the tables with rows that are off, and the worst row of each of the worst."""
    off = [one for one in found if one.off]
    table = plain_table("Rows that are off", "table", "rows", "beyond light", "far slower", "beaten")
    table.columns[0].no_wrap = True
    for one in off:
        table.add_row(Text(one.title), f"{one.points:,}", *(f"{one.counts[verdict]:,}" for verdict in _BAD))
    worst = sorted(off, key=lambda one: -one.off)[:_MOST_EXAMPLES]
    return Group(table, *(Text(f"{one.title}, worst: {one.worst}") for one in worst), Text(_totals(found)))


def write_audit(found: Sequence[Finding], folder: Path) -> None:
    """Write ``audit.csv``, a row per table, and ``rows.csv``, a row per row that is off.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([_row(one) for one in found]).to_csv(folder / "audit.csv", index=False)
        pd.concat([one.rows for one in found]).to_csv(folder / "rows.csv", index=False)
    except OSError as error:
        raise unwritable(folder, error) from error


def _finding(one: Audited) -> Finding:
    worst = one.worst()
    said = "" if worst is None else one.describe(worst)
    return Finding(one.file, len(one.ns), {verdict: one.count(verdict) for verdict in _BAD}, said, _bad_rows(one))


def _row(one: Finding) -> dict[str, Any]:
    counts = {verdict.name.lower(): count for verdict, count in one.counts.items()}
    return {**_whose(one.file), "points": one.points, **counts, "worst": one.worst}


def _bad_rows(one: Audited) -> pd.DataFrame:
    rows = np.flatnonzero(one.verdict)
    return pd.DataFrame(
        {
            **_whose(one.file),
            "reason": [Verdict(code).name.lower() for code in one.verdict[rows]],
            "point": [one.shape(int(row)) for row in rows],
            "us": one.ns[rows] / 1e3,
            "light_us": one.bound_ns[rows] / 1e3,
            "siblings_us": one.siblings_ns[rows] / 1e3,
        }
    )


def _whose(file: TableFile) -> dict[str, str]:
    return {"chip": file.system, "framework": file.framework, "version": file.version, "table": file.table}


def _totals(found: Sequence[Finding]) -> str:
    rows, named = sum(one.points for one in found), sum(one.named for one in found)
    aside = sum(one.off for one in found) - named
    return (
        f"{len(found):,} tables, {rows:,} points: {aside:,} cannot be and are not priced from; {named:,} more are far "
        "slower than in every other framework, which other kernels than projections may be: they stay."
    )
