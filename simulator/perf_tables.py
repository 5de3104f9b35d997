"""What ``servesim perf list`` and ``perf show`` print: the kernel tables there are, and their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from hardware.errors import CatalogueError, suggest
from perfdb.audit import TableFile, table_files
from perfdb.tables import find_table, system_of
from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from rich.table import Table

__all__ = ["chosen_files", "chosen_rows", "listing", "rows_table"]


def listing(root: Path, chip: str | None, framework: str | None) -> Table:
    """Return the tables of a database."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - 0.1 s that --help must not pay

    files = chosen_files(root, chip, framework, None)
    table = plain_table(
        f"{len(files):,} kernel tables in {root}", "chip", "family", "framework", "version", "table", "rows"
    )
    total = 0
    for file in files:
        rows = pq.ParquetFile(file.path).metadata.num_rows
        total += rows
        cells = (file.system, file.family, file.framework, file.version + "*" * _current(root, file), file.table)
        table.add_row(*(Text(cell) for cell in cells), f"{rows:,}")
    table.add_section()
    table.add_row("all", "", "", "", "", f"{total:,}")
    return table


def chosen_files(root: Path, chip: str | None, framework: str | None, table: str | None) -> list[TableFile]:
    """Return the tables of a chip, framework and name; None is any.

    Raises
    ------
    CatalogueError
        If there are none.
    """
    wanted = (None if chip is None else system_of(chip), framework, table)
    files = list(table_files(root))
    names = [{getattr(file, part) for file in files} for part in ("system", "framework", "table")]
    for key, name, known in zip(("--chip", "--framework", "table"), wanted, names, strict=True):
        if name is not None and name not in known:
            raise CatalogueError(f"{key} {name}: there are no such tables in {root}; {suggest(name, known)}")
    found = [file for file in files if all(w in (None, have) for w, have in zip(wanted, _parts(file), strict=True))]
    if not found:
        raise CatalogueError(
            f"{root}: found no table {table or ''} of {chip or 'any chip'} and {framework or 'framework'}"
        )
    return found


def chosen_rows(
    root: Path, table: str, where: tuple[str | None, str | None, str | None], values: Sequence[str]
) -> tuple[str, pd.DataFrame]:
    """Return the rows of one table and what to call it.

    Parameters
    ----------
    root
        The ``systems`` folder.
    table
        Its name.
    where
        Chip, framework and version; None takes the first there is and the version that is priced from.
    values
        ``COLUMN=VALUE`` of the wanted rows.

    Raises
    ------
    CatalogueError
        If there is no such table, version, column or value.
    """
    import pandas as pd  # noqa: PLC0415 - --help stays light

    chip, framework, version = where
    files = chosen_files(root, chip, framework, table)
    current = [file for file in files if _current(root, file)]
    if version is None:
        file = (current or files)[0]
    else:
        known = sorted({file.version for file in files})
        if version not in known:
            raise CatalogueError(f"--version {version}: there is no such version of {table}; {suggest(version, known)}")
        file = next(file for file in files if file.version == version)
    rows = pd.read_parquet(file.path)
    for value in values:
        rows = _with_value(rows, value)
    return f"{file.table} of {file.system}, {file.framework} {file.version}: {len(rows):,} rows", rows


def rows_table(title: str, rows: pd.DataFrame, limit: int) -> Table:
    """Return the first rows as a table, without the columns that say the same in all."""
    shown = [name for name in rows.columns if name == "latency" or (rows[name] != rows[name].iloc[0]).any()]
    table = plain_table(title if len(rows) <= limit else f"{title}, the first {limit}", *map(str, shown))
    for values in rows[shown].head(limit).itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in values))
    return table


def _with_value(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    column, equals, wanted = value.partition("=")
    if not equals or column not in rows.columns:
        raise CatalogueError(f"--where {value}: expected COLUMN=VALUE; {suggest(column, map(str, rows.columns))}")
    found = rows[rows[column].astype(str) == wanted]
    if found.empty:
        known = [str(one) for one in sorted(rows[column].unique())]
        raise CatalogueError(f"--where {value}: no row has it; {suggest(wanted, known[:30])}")
    return found


def _cell(value: Any) -> str:  # noqa: ANN401 - whatever a table holds
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _current(root: Path, file: TableFile) -> bool:
    return find_table(root, file.system, file.family, file.framework, file.table) == file.path


def _parts(file: TableFile) -> tuple[str, str, str]:
    return file.system, file.framework, file.table
