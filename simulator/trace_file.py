"""Writing a workload as a trace file: plain CSV, or Mooncake's JSON lines where there are block hashes."""

from __future__ import annotations

import gzip
import io
from contextlib import contextmanager, suppress
from itertools import repeat
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from hardware.errors import OutputError
from workloads.media import written_items

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

    from workloads.table import Arrivals

__all__ = ["TraceForm", "left_out", "trace_form", "write_trace"]

TraceForm: TypeAlias = Literal["csv", "mooncake"]

#: Tokens of a block in Mooncake's traces (https://github.com/kvcache-ai/Mooncake, FAST25-release/traces).
_MOONCAKE_BLOCK_TOKENS: Final = 512
_OPTIONAL: Final = (
    ("blocks", "block hashes"),
    ("prefixes", "shared prefixes"),
    ("session", "sessions"),
    ("later", "turns that wait for an answer"),
    ("media", "images"),
)


def trace_form(path: Path) -> TraceForm:
    """Return the form a file's name asks for: ``csv`` for .csv, ``mooncake`` for .jsonl, .gz after either.

    Raises
    ------
    OutputError
        If it has neither ending.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".csv"):
        return "csv"
    if name.endswith(".jsonl"):
        return "mooncake"
    raise OutputError(f"-o {path}: expected a name that ends in .csv, or in .jsonl for Mooncake's form (.gz after it)")


def left_out(arrivals: Arrivals, form: TraceForm) -> tuple[str, ...]:
    """Return in words which columns of a workload a form has no place for."""
    return tuple(
        words
        for name, words in _OPTIONAL
        if getattr(arrivals, name) is not None and (form, name) not in {("mooncake", "blocks"), ("csv", "media")}
    )


def write_trace(arrivals: Arrivals, path: Path) -> None:
    """Write a workload; the file appears whole or not at all, and one of that name is replaced.

    CSV has the columns ``arrival_s`` (9 decimals, so that no nanosecond is lost), ``prompt_tokens``,
    ``output_tokens`` and, where requests carry any, ``media``; Mooncake's JSON lines have ``timestamp`` (ms),
    ``input_length``, ``output_length`` and ``hash_ids``. Equal workloads give equal bytes, zipped or not.

    Parameters
    ----------
    arrivals
        What to write.
    path
        The file; its ending says the form, see :func:`trace_form`.

    Raises
    ------
    OutputError
        If the file cannot be written, or its form needs block hashes that are not there.
    """
    lines = _csv_lines(arrivals) if trace_form(path) == "csv" else _mooncake_lines(arrivals, path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _opened(partial, zipped=path.name.lower().endswith(".gz")) as stream:
            stream.writelines(lines)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"-o {path}: cannot be written ({error.strerror or error}); name another file") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, *, zipped: bool) -> Iterator[TextIO]:
    with path.open("wb") as raw:
        # Neither name nor time in the gzip header: they would make equal traces differ.
        inner = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if zipped else raw
        with io.TextIOWrapper(inner, encoding="utf-8", newline="\n") as stream:
            yield stream


def _csv_lines(arrivals: Arrivals) -> Iterator[str]:
    media = repeat("") if arrivals.media is None else (f",{items}" for items in written_items(arrivals.media))
    yield f"arrival_s,prompt_tokens,output_tokens{'' if arrivals.media is None else ',media'}\n"
    for (time_ns, prompt, output), items in zip(_rows(arrivals), media, strict=False):
        yield f"{time_ns // 10**9}.{time_ns % 10**9:09d},{prompt},{output}{items}\n"


def _mooncake_lines(arrivals: Arrivals, path: Path) -> Iterator[str]:
    blocks = arrivals.blocks
    if blocks is None or blocks.block_tokens != _MOONCAKE_BLOCK_TOKENS:
        found = "none" if blocks is None else f"those of {blocks.block_tokens}-token blocks"
        raise OutputError(
            f"-o {path}: Mooncake's form needs hashes of {_MOONCAKE_BLOCK_TOKENS}-token blocks, "
            f"found {found} in {arrivals.source}; name a file that ends in .csv"
        )
    return (
        f'{{"timestamp": {_ms(time_ns)}, "input_length": {prompt}, "output_length": {output}, '
        f'"hash_ids": {blocks.of(row).tolist()}}}\n'
        for row, (time_ns, prompt, output) in enumerate(_rows(arrivals))
    )


def _rows(arrivals: Arrivals) -> Iterator[tuple[int, int, int]]:
    columns = (arrivals.arrival_ns, arrivals.prompt_tokens, arrivals.output_tokens)
    return zip(*(column.tolist() for column in columns), strict=True)


def _ms(time_ns: int) -> str:
    """Return nanoseconds as exact milliseconds."""
    whole, rest = divmod(time_ns, 10**6)
    return f"{whole}.{rest:06d}".rstrip("0") if rest else str(whole)
