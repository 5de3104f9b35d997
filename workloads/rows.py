"""Rows becoming columns: a table that grows by 8 bytes a number, and the account of rows left out."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path  # noqa: TC003 - looked up where this is compiled
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hardware.errors import TraceError
from workloads.media import media_of
from workloads.readers.protocol import BadRowError
from workloads.spreading import spread_ticks
from workloads.streams import stream
from workloads.table import Arrivals, BlockHashes

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from workloads.media import Item
    from workloads.readers.protocol import Layout, Row
    from workloads.table import IntColumn

__all__ = ["GrowingTable", "Rejects"]

_ALWAYS: Final = ("time_ns", "prompt_tokens", "output_tokens")


@dataclass(slots=True)
class Rejects:
    """The rows of one file that cannot be used: the first is an error, or all are counted.

    Attributes
    ----------
    path
        The file, for messages.
    skip
        Count instead of raising.
    counts
        Rows left out so far, by reason.
    """

    path: Path
    skip: bool
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, line: int, bad: BadRowError) -> None:
        """Count a row, or raise.

        Raises
        ------
        TraceError
            Naming the file and line, unless rows are to be skipped.
        """
        if not self.skip:
            raise TraceError(f"{self.path}:{line}: {bad}; on_error='skip' leaves such rows out") from None
        self.counts[bad.reason] = self.counts.get(bad.reason, 0) + 1


class GrowingTable:
    """The columns of a trace while it is read.

    Parameters
    ----------
    layout
        Says which columns there are.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._columns = {name: array("q") for name in _ALWAYS}
        self._appends = [column.append for column in self._columns.values()]
        self._numbers: Callable[[Row], tuple[int, ...]] = attrgetter(*_ALWAYS)
        self._session = array("q") if "session" in layout.columns else None
        self._items: list[Sequence[Item]] | None = [] if "media" in layout.columns else None
        self._sessions: dict[Hashable, int] = {None: -1}
        self._offsets = array("q", [0])
        self._hashes = array("q")
        self._latest_ns = 0

    def __len__(self) -> int:
        return len(self._columns["time_ns"])

    def add(self, row: Row) -> None:
        """Append a row.

        Raises
        ------
        BadRowError
            When it arrives before the row above it; nothing is appended then.
        """
        if row.time_ns < self._latest_ns:
            back_s = (self._latest_ns - row.time_ns) / 1e9
            detail = f"time goes back by {back_s:.9g} s, expected rows in the order of arrival"
            raise BadRowError("time goes backwards", detail)
        self._latest_ns = row.time_ns
        for append, number in zip(self._appends, self._numbers(row), strict=True):
            append(number)
        if self._session is not None:
            self._session.append(self._sessions.setdefault(row.session, len(self._sessions) - 1))
        if self._items is not None:
            self._items.append(row.items)
        if self._layout.block_tokens:
            self._hashes.extend(row.hashes)
            self._offsets.append(len(self._hashes))

    def arrivals(self, rejects: Rejects, *, spread: bool, seed: int) -> Arrivals:
        """Return what was read, its first arrival at 0.

        Raises
        ------
        TraceError
            When no row was good.
        """
        if not len(self):
            raise TraceError(f"{rejects.path}:1: {_nothing_read(rejects)}, expected at least one good row")
        columns: dict[str, Any] = {name: _column(values) for name, values in self._columns.items()}
        times_ns = columns.pop("time_ns")
        times_ns = times_ns - times_ns[0]
        if spread and self._layout.coarse_clock:
            times_ns = spread_ticks(times_ns, stream(seed, "spread"))
        media = None if self._items is None else media_of(self._items)
        return Arrivals(
            arrival_ns=times_ns,
            source=str(rejects.path),
            blocks=self._blocks(),
            session=None if self._session is None else _column(self._session),
            skipped=dict(rejects.counts),
            media=media,
            **columns,
        )

    def _blocks(self) -> BlockHashes | None:
        if not self._layout.block_tokens:
            return None
        return BlockHashes(_column(self._offsets), _column(self._hashes), self._layout.block_tokens)


def _column(values: Iterable[int]) -> IntColumn:
    return np.array(values, dtype=np.int64)


def _nothing_read(rejects: Rejects) -> str:
    if not rejects.counts:
        return "no rows follow"
    reasons = ", ".join(f"{rows} {reason}" for reason, rows in sorted(rejects.counts.items()))
    return f"all rows left out ({reasons})"
