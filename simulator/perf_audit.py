"""What ``servesim perf audit`` prints and writes: what screening says of every kernel table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from perfdb.audit import Audited, audit_table
from perfdb.screening import Verdict
from simulator.export import unwritable
from simulator.perf_tables import chosen_files
from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

__all__ = ["audit_all", "audit_report", "write_audit"]

_BAD = (Verdict.FASTER_THAN_LIGHT, Verdict.SLOWER_THAN_SIBLINGS, Verdict.BEATEN_BY_LONGER)
_MOST_EXAMPLES = 8


def audit_all(root: Path, chip: str | None, framework: str | None, table: str | None) -> list[Audited]:
    """Screen the tables of a chip, framework and name; None is any."""
    found = [audit_table(root, file) for file in chosen_files(root, chip, framework, table)]
    return [one for one in found if one is not None]


def audit_report(found: Sequence[Audited]) -> Group:
    """Return the tables with rows that are off, and the worst row of each of the worst."""
    off = [one for one in found if any(one.count(verdict) for verdict in _BAD)]
    table = plain_table(
        "Rows that are off", "table", "rows", "faster than light", "far slower than siblings", "beaten by longer"
    )
    table.columns[0].no_wrap = True
    for one in off:
        table.add_row(_name(one), f"{len(one.ns):,}", *(f"{one.count(verdict):,}" for verdict in _BAD))
    return Group(table, *_examples(off), Text(_totals(found)))


def write_audit(found: Sequence[Audited], folder: Path) -> None:
    """Write ``audit.csv``, a row per table, and ``rows.csv``, a row per row that is off.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    import pandas as pd  # noqa: PLC0415 - --help stays light

    try:
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([_row(one) for one in found]).to_csv(folder / "audit.csv", index=False)
        rows = [part for one in found if len(part := _bad_rows(one))]
        (pd.concat(rows) if rows else pd.DataFrame()).to_csv(folder / "rows.csv", index=False)
    except OSError as error:
        raise unwritable(folder, error) from error


def _name(one: Audited) -> Text:
    return Text(f"{one.file.system} {one.file.framework} {one.file.version} {one.file.table}")


def _row(one: Audited) -> dict[str, Any]:
    file, worst = one.file, one.worst()
    return {
        "chip": file.system,
        "framework": file.framework,
        "version": file.version,
        "table": file.table,
        "points": len(one.ns),
        **{verdict.name.lower(): one.count(verdict) for verdict in _BAD},
        "worst": "" if worst is None else one.describe(worst),
    }


def _bad_rows(one: Audited) -> pd.DataFrame:
    import numpy as np  # noqa: PLC0415 - --help stays light
    import pandas as pd  # noqa: PLC0415 - --help stays light

    rows = np.flatnonzero(one.verdict)
    file = one.file
    return pd.DataFrame(
        {
            "chip": file.system,
            "framework": file.framework,
            "version": file.version,
            "table": file.table,
            "reason": [Verdict(code).name.lower() for code in one.verdict[rows]],
            "point": [one.shape(int(row)) for row in rows],
            "us": one.ns[rows] / 1e3,
            "light_us": one.bound_ns[rows] / 1e3,
            "siblings_us": one.siblings_ns[rows] / 1e3,
        }
    )


def _examples(off: Sequence[Audited]) -> list[Text]:
    worst = sorted(off, key=lambda one: -sum(one.count(verdict) for verdict in _BAD))[:_MOST_EXAMPLES]
    lines = []
    for one in worst:
        point = one.worst()
        if point is not None:
            lines.append(Text(f"{_name(one)}, worst: {one.describe(point)}"))
    return lines


def _totals(found: Sequence[Audited]) -> str:
    rows = sum(len(one.ns) for one in found)
    counts = {verdict: sum(one.count(verdict) for one in found) for verdict in _BAD}
    named = sum(one.count(Verdict.SLOWER_THAN_SIBLINGS) for one in found if one.file.table != "gemm")
    aside = sum(counts.values()) - named
    return (
        f"{len(found):,} tables, {rows:,} points: {aside:,} cannot be and are not priced from; {named:,} more are far "
        "slower than in every other framework, which other kernels than projections may be: they stay."
    )
