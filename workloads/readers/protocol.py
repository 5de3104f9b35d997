"""What a trace format has to provide, and what it hands over for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator, Sequence

    from workloads.media import Item

__all__ = ["BadRowError", "Container", "Layout", "NumberedLines", "Reader", "Row"]

Container: TypeAlias = Literal["csv", "json"]

NumberedLines: TypeAlias = "Iterator[tuple[int, bytes]]"
"""Lines that are not blank, each with its number in the file, from 1."""


class BadRowError(Exception):
    """One row cannot be used; the file-level reader turns it into a TraceError or counts it.

    Parameters
    ----------
    reason
        A short name to count by.
    detail
        What was found and what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Row(NamedTuple):
    """One request as a reader found it.

    Attributes
    ----------
    time_ns
        On the trace's own clock, whose zero does not matter.
    prompt_tokens, output_tokens
        At least 1 each.
    items
        Images, videos and sounds, in their order in the prompt, which counts the tokens of those that have any.
    session
        Any name for the conversation, None outside one.
    hashes
        Of the prompt's blocks.
    """

    time_ns: int
    prompt_tokens: int
    output_tokens: int
    items: Sequence[Item] = ()
    session: Hashable = None
    hashes: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read one file of a format, once its columns are known.

    Attributes
    ----------
    parse
        Turns one line of text into a row, or raises BadRowError.
    columns
        The optional columns of Arrivals this file fills: ``session``, ``media``.
    block_tokens
        Tokens per prefix block; 0 where the file has no block hashes.
    coarse_clock
        Many rows share a time stamp only because the clock ticks slowly; see ``workloads.spreading``.
    rows
        Cuts the file into rows where they are not simply its lines.
    """

    parse: Callable[[str], Row]
    columns: Collection[str] = ()
    block_tokens: int = 0
    coarse_clock: bool = False
    rows: Callable[[NumberedLines], NumberedLines] | None = None


class Reader(Protocol):
    """A trace format.

    Attributes
    ----------
    container
        ``csv`` (a header line, then rows) or ``json`` (one object per line).
    expects
        The columns or keys, in words, for error messages.
    example
        A small file of the format: three requests at 0, 2 and 5 s, prompts of 600, 1100 and 30 tokens,
        answers of 10, 20 and 30.
    generic
        Gives way where a more specific format fits the same columns.
    """

    container: Container
    expects: str
    example: str
    generic: bool

    def matches(self, keys: Sequence[str]) -> bool:
        """Tell whether a file with these columns, or these keys in its first object, is of this format."""
        ...

    def layout(self, keys: Sequence[str]) -> Layout:
        """Return how to read a file whose columns or keys match."""
        ...
