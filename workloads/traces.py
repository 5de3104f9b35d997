"""Reading a trace file of any known format into one Arrivals table, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from hardware.errors import TraceError, suggest
from workloads.readers import READERS
from workloads.readers.fields import shown
from workloads.readers.protocol import BadRowError
from workloads.rows import GrowingTable, Rejects
from workloads.source import decode, look, numbered_lines, open_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.readers.protocol import Layout, NumberedLines
    from workloads.source import Columns
    from workloads.table import Arrivals

__all__ = ["detect_format", "read_trace"]

_TEXT_KEYS: Final = ("conversations", "messages", "prompt")


def read_trace(  # noqa: PLR0913 - each is a choice of the user's, named as in a scenario
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the scenario's key
    *,
    on_error: Literal["raise", "skip"] = "raise",
    limit: int | None = None,
    rate_scale: float = 1.0,
    spread: bool = True,
    seed: int = 0,
) -> Arrivals:
    """Read a trace, plain or gzipped.

    Rows are the lines that are not blank, without a CSV's header. Every one of them ends up in the table or
    in its ``skipped`` counts, except those after ``limit``, which are not read.

    Parameters
    ----------
    path
        The file.
    format
        A name in READERS; None tells it from the columns.
    on_error
        What to do with a row that cannot be used: ``raise``, or ``skip`` it and count it by reason.
    limit
        Take only the first so many good rows.
    rate_scale
        2.0 replays twice as fast.
    spread
        Spread arrivals that share a tick of a coarse clock (Mooncake's) at random over that tick.
    seed
        Of the random places.

    Returns
    -------
    Arrivals
        With the first arrival at 0.

    Raises
    ------
    TraceError
        Naming file and line, what was found and what was expected.

    Examples
    --------
    >>> read_trace("conversation.jsonl", limit=1000)  # doctest: +SKIP
    """
    _check_options(on_error, limit)
    path = Path(path)
    columns, name = _columns_and_format(path, format)
    try:
        layout = READERS[name].layout(columns.keys)
    except TraceError as error:
        raise TraceError(f"{path}:{columns.line}: {error}") from None
    table, rejects = GrowingTable(layout), Rejects(path, skip=on_error == "skip")
    with open_trace(path) as stream:
        lines = numbered_lines(stream)
        if columns.container == "csv":
            next(lines, None)
        _collect(layout.rows(lines) if layout.rows else lines, layout, table, rejects, limit)
    return table.arrivals(rejects, spread=spread, seed=seed).rescaled(rate_scale)


def detect_format(path: str | Path) -> str:
    """Tell a trace's format from its columns.

    Returns
    -------
    str
        A name in READERS.

    Raises
    ------
    TraceError
        When no format fits, or more than one.
    """
    return _columns_and_format(Path(path), None)[1]


def _check_options(on_error: str, limit: int | None) -> None:
    if on_error not in {"raise", "skip"}:
        raise TraceError(f"on_error is {on_error!r}, {suggest(on_error, ('raise', 'skip'))}")
    if limit is not None and limit < 1:
        raise TraceError(f"limit is {limit}, expected at least 1 row")


def _columns_and_format(path: Path, name: str | None) -> tuple[Columns, str]:
    if name is None:
        columns = look(path, _fits_any_json)
        return columns, _detect(path, columns)
    if name not in READERS:
        raise TraceError(f"{path}: format is {name!r}, {suggest(name, READERS)}")
    columns = look(path, READERS[name].matches, READERS[name].container)
    if not READERS[name].matches(columns.keys):
        raise TraceError(f"{_found(path, columns)}, expected {READERS[name].expects} (format {name!r}){_hint(columns)}")
    return columns, name


def _fits_any_json(keys: Sequence[str]) -> bool:
    return any(reader.matches(keys) for reader in READERS.values() if reader.container == "json")


def _detect(path: Path, columns: Columns) -> str:
    fitting = [name for name, reader in READERS.items() if reader.container == columns.container]
    fitting = [name for name in fitting if READERS[name].matches(columns.keys)]
    fitting = [name for name in fitting if not READERS[name].generic] or fitting
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(READERS)
    if fitting:
        raise TraceError(f"{_found(path, columns)}, which fit {' and '.join(fitting)}: say which with format")
    raise TraceError(f"{_found(path, columns)}, expected those of one of the formats {known}{_hint(columns)}")


def _found(path: Path, columns: Columns) -> str:
    kind = "columns" if columns.container == "csv" else "keys"
    return f"{path}:{columns.line}: found the {kind} {shown(', '.join(columns.keys))}"


def _hint(columns: Columns) -> str:
    if not set(_TEXT_KEYS) & set(columns.keys):
        return ""
    return (
        "; texts without token counts cannot be replayed: count them with the model's tokenizer and add"
        " prompt_tokens and output_tokens"
    )


def _collect(rows: NumberedLines, layout: Layout, table: GrowingTable, rejects: Rejects, limit: int | None) -> None:
    """Parse rows into the table until the file or the limit ends."""
    line = 0
    try:
        for line, raw in rows:
            try:
                table.add(layout.parse(decode(raw)))
            except BadRowError as bad:
                rejects.add(line, bad)
                continue
            if len(table) == limit:
                return
    except BadRowError as damage:
        # Raised between rows: what is wrong is the file from here on.
        rejects.add(line + 1, damage)
