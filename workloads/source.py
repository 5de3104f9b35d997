"""Trace files as numbered lines of bytes, plain or gzipped, and a first look at their columns."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, cast

from hardware.errors import TraceError
from workloads.readers.fields import LENIENT, csv_line, json_object, shown
from workloads.readers.protocol import BadRowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from workloads.readers.protocol import Container, NumberedLines

__all__ = ["Columns", "decode", "look", "numbered_lines", "open_trace"]

_GZIP_MAGIC: Final = b"\x1f\x8b"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINES_LOOKED_AT: Final = 100


class Columns(NamedTuple):
    """What the start of a file tells about the rest.

    Attributes
    ----------
    container
        ``csv``, or ``json`` for JSON lines and JSON documents.
    keys
        The header's columns, or the keys of the first object.
    line
        The line they were found on.
    """

    container: Container
    keys: tuple[str, ...]
    line: int


def open_trace(path: Path) -> BinaryIO:
    """Open a trace for reading bytes, through gzip where it starts like a gzip file.

    Raises
    ------
    TraceError
        When there is no such file, or it cannot be read.
    """
    try:
        _check_is_file(path)
        with path.open("rb") as stream:
            zipped = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        return cast("BinaryIO", gzip.open(path)) if zipped else path.open("rb")
    except (OSError, ValueError) as error:
        raise TraceError(
            f"{path}: cannot be read ({getattr(error, 'strerror', error)}), expected a readable trace"
        ) from None


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise TraceError(f"{path}: no such file, expected a trace{_neighbours(path)}")
    if not path.is_file():
        raise TraceError(f"{path}: not a file, expected a trace (to read a stream, save it first)")


def _neighbours(path: Path) -> str:
    """Name a file of nearly that name, if there is one."""
    from difflib import get_close_matches  # noqa: PLC0415 - only on the way out

    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return ""
    close = get_close_matches(path.name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def numbered_lines(stream: BinaryIO) -> NumberedLines:
    """Yield the lines of a file that are not blank, with their numbers from 1.

    Raises
    ------
    BadRowError
        After the last whole line, when the file is damaged from there on.
    """
    try:
        for number, raw in enumerate(stream, 1):
            line = raw.removeprefix(_BYTE_ORDER_MARK).strip() if number == 1 else raw.strip()
            if line:
                yield number, line
    except EOFError:
        raise BadRowError("truncated file", "the gzip stream stops early, expected a whole file") from None
    except (OSError, zlib.error) as error:
        raise BadRowError("damaged file", f"reading on fails ({error}), expected a sound file") from None


def decode(line: bytes) -> str:
    """Return a line as text.

    Raises
    ------
    BadRowError
        When it is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError:
        detail = f"bytes {shown(line)} are not UTF-8, expected text"
        raise BadRowError("undecodable bytes", detail) from None


def look(path: Path, fits: Callable[[Sequence[str]], bool], container: Container | None = None) -> Columns:
    """Return the columns of a trace.

    Parameters
    ----------
    path
        The trace.
    fits
        Tells keys that a format knows from others. In JSON lines the keys are those of all fitting objects
        among the first hundred lines, so that a bad first row is reported as a row, not taken for the rule.
    container
        ``csv`` or ``json`` when that is known; else the first line decides.

    Raises
    ------
    TraceError
        When the file is empty, or its start is neither a header line nor JSON.
    """
    with open_trace(path) as stream:
        lines = numbered_lines(stream)
        number = 1
        try:
            number, first = next(lines, (1, b""))
            if not first:
                raise TraceError(f"{path}:1: the file is empty, expected a trace")
            if first.startswith(b"["):
                _refuse_list(path, number, first)
            if container == "csv" or (container is None and not first.startswith(b"{")):
                header = tuple(name.strip() for name in csv_line(decode(first)))
                return Columns("csv", header, number)
            if first == b"{":
                document = b"\n".join([first, *(line for _, line in lines)])
                return Columns("json", tuple(json_object(decode(document), LENIENT)), number)
            return _keys_of_lines([(number, first), *_until_damage(lines)], fits)
        except BadRowError as problem:
            raise TraceError(f"{path}:{number}: {problem}") from None


def _refuse_list(path: Path, number: int, first: bytes) -> None:
    raise TraceError(
        f"{path}:{number}: starts a JSON list ({shown(first[:30].decode(errors='replace'))}), expected one"
        " object per line; a file of texts, such as ShareGPT's, first needs its tokens counted with the"
        " model's tokenizer: write prompt_tokens and output_tokens on each line"
    )


def _until_damage(lines: NumberedLines) -> NumberedLines:
    """Yield the next lines; damage after them is left to whoever reads the rows."""
    with suppress(BadRowError):
        yield from islice(lines, _LINES_LOOKED_AT - 1)


def _keys_of_lines(lines: Sequence[tuple[int, bytes]], fits: Callable[[Sequence[str]], bool]) -> Columns:
    """Return the keys of the objects that fit, all together; failing that, the keys of the first object."""
    found: list[Columns] = []
    problems: list[BadRowError] = []
    for number, line in lines:
        try:
            found.append(Columns("json", tuple(json_object(decode(line), LENIENT)), number))
        except BadRowError as bad:
            problems.append(bad)
    if not found:
        raise problems[0]
    fitting = [columns for columns in found if fits(columns.keys)]
    if not fitting:
        return found[0]
    union = dict.fromkeys(key for columns in fitting for key in columns.keys)
    return Columns("json", tuple(union), fitting[0].line)
