"""Inter-token latency over all requests, exact, from runs of steps: no gap is ever stored during a run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from perfdb.step_series import cumulatives

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from perfdb.step_prices import DecodeCurve, StepPrices
    from simulator.records import Ledger, StepLog

__all__ = ["TokenGaps", "token_gaps"]


@dataclass(frozen=True, slots=True)
class TokenGaps:
    """Times between consecutive tokens of one request, pooled over requests.

    Attributes
    ----------
    gap_ns
        Distinct gaps, increasing, shape (gaps,).
    count
        How often each occurs, same shape.
    seconds
        Seconds of the run in which tokens appear, first tokens included, increasing, shape (seconds,).
    per_second
        Tokens that appear in each of them, same shape.
    """

    gap_ns: NDArray[np.int64]
    count: NDArray[np.int64]
    seconds: NDArray[np.int64]
    per_second: NDArray[np.int64]

    def mean_ms(self) -> float:
        """Return the mean gap, ms; 0 where there is none."""
        total = int(self.count.sum())
        return float((self.gap_ns * (self.count / total)).sum() / 1e6) if total else 0.0

    def std_ms(self) -> float:
        """Return the population standard deviation, ms."""
        total = int(self.count.sum())
        if not total:
            return 0.0
        deviation = self.gap_ns / 1e6 - self.mean_ms()
        return float(np.sqrt((deviation**2 * (self.count / total)).sum()))

    def percentile_ms(self, q: float) -> float:
        """Return a percentile, ms, as ``numpy.percentile`` (linear) over all gaps one by one would."""
        total = int(self.count.sum())
        if not total:
            return 0.0
        place = q / 100 * (total - 1)
        below = int(np.floor(place))
        ends = np.cumsum(self.count)
        low, high = (
            self.gap_ns[np.searchsorted(ends, rank, side="right")] for rank in (below, min(below + 1, total - 1))
        )
        return float(low + (place - below) * (high - low)) / 1e6


def token_gaps(
    logs: Sequence[StepLog],
    prices: Sequence[StepPrices],
    ledger: Ledger,
    *,
    paces: Sequence[StepLog] | None = None,
    after_ns: int = 0,
) -> TokenGaps:
    """Return the pooled gaps that end at or after a time.

    Parameters
    ----------
    logs, prices
        The step log and the step prices of each instance, or of each of its ranks.
    ledger
        First tokens, gaps over preemptions, and standstills.
    paces
        The step log that says how long the steps of each log were, that of the slowest rank; by default its own.
    after_ns
        End of the warm-up.
    """
    first, stall_ends = ledger.column("first_token_ns"), ledger.column("stall_ends")
    gaps_found = [_counted(ledger.column("stalls")[stall_ends >= after_ns])]
    seconds_found = [_counted(first[first >= 0] // 10**9), _counted(stall_ends // 10**9)]
    gaps_found += _over_pauses(ledger.pauses.table(), after_ns)
    tables = [log.table() for log in logs]
    gaps_found += [_joins(table, after_ns) for table in tables]
    for price, table in _by_price(_by_pace(tables, paces or logs), prices):
        for ends, gaps, sequences in _runs(table, price):
            kept = slice(None) if after_ns == 0 else ends >= after_ns
            gaps_found.append(_added_up(gaps[kept], sequences[kept]))
            seconds_found.append(_added_up(ends // 10**9, sequences))
    return TokenGaps(*_merged(gaps_found), *_merged(seconds_found))


_Counted: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64]]"
_Table: TypeAlias = "dict[str, NDArray[np.int64]]"


def _joins(table: Mapping[str, NDArray[np.int64]], after_ns: int) -> _Counted:
    """Return the gaps of sequences that came from another instance, counted off: theirs are among the stalls."""
    rows = (table["joined"] > 0) & (table["start_ns"] + table["duration_ns"] >= after_ns)
    return table["duration_ns"][rows], -table["joined"][rows]


def _counted(values: NDArray[np.int64]) -> _Counted:
    return np.unique(values, return_counts=True)


def _over_pauses(pauses: Mapping[str, NDArray[np.int64]], after_ns: int) -> list[_Counted]:
    """Return what gaps over standstills add, and the steps that stand for them in the log, counted off."""
    kept = pauses["end_ns"] >= after_ns
    sequences = pauses["sequences"][kept]
    return [(pauses["step_ns"][kept], -sequences), (pauses["gap_ns"][kept], sequences)]


def _merged(pieces: Sequence[_Counted]) -> _Counted:
    values, total = _added_up(*(np.concatenate(part) for part in zip(*pieces, strict=True)))
    return values[total > 0], total[total > 0]


def _added_up(values: NDArray[np.int64], count: NDArray[np.int64]) -> _Counted:
    """Return the distinct values, increasing, and how often each occurs."""
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    return ordered[first], np.add.reduceat(count[order], first) if len(first) else count


def _by_pace(tables: Sequence[_Table], paces: Sequence[StepLog]) -> list[_Table | None]:
    """Return for each log the steps that were as long as its pace says, with the ``sequences`` that produced tokens.

    Ranks that step together have one pace: theirs are added up at the first of them, and nothing is at the others.
    """
    found: list[_Table | None] = []
    for pace, members in groupby(zip(paces, tables, strict=True), itemgetter(0)):
        steps = pace.table()
        sequences = np.zeros(len(steps["steps"]), np.int64)
        for place, (_, table) in enumerate(members):
            rows = np.searchsorted(steps["start_ns"], table["start_ns"])
            np.add.at(sequences, rows, table["decodes"])
            found.append(None if place else {**steps, "sequences": sequences})
    return found


def _by_price(tables: Sequence[_Table | None], prices: Sequence[StepPrices]) -> Iterator[tuple[StepPrices, _Table]]:
    """Yield each set of prices once, with the steps of all instances that share it."""
    left = [(price, table) for price, table in zip(prices, tables, strict=True) if table is not None]
    while left:
        price = left[0][0]
        shared = [table for other, table in left if other is price]
        yield price, {name: np.concatenate([table[name] for table in shared]) for name in shared[0]}
        left = [(other, table) for other, table in left if other is not price]


def _runs(
    table: Mapping[str, NDArray[np.int64]], prices: StepPrices
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (ends, durations, sequences) of all decoding steps: those by themselves, then one batch size at a time."""
    # A step by itself lasted as long as it did, beside a neighbour on its chips perhaps.
    lone, decoding = table["steps"] == 1, table["sequences"] > 0
    rows = lone & decoding
    yield table["start_ns"][rows] + table["duration_ns"][rows], table["duration_ns"][rows], table["sequences"][rows]
    rows = np.flatnonzero(~lone & decoding)
    rows = rows[np.argsort(table["decodes"][rows], kind="stable")]
    batches, first = np.unique(table["decodes"][rows], return_index=True)
    for n, runs in zip(batches.tolist(), np.split(rows, first)[1:], strict=True):
        start_ns, context, steps = (table[name][runs] for name in ("start_ns", "context", "steps"))
        unrolled = _unroll(start_ns, context, steps, prices.decode_curve(n), prices.constant_ns(n))
        yield *unrolled, np.repeat(table["sequences"][runs], steps)


def _unroll(
    start_ns: NDArray[np.int64],
    context: NDArray[np.int64],
    steps: NDArray[np.int64],
    curve: DecodeCurve,
    constant_ns: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the end and the duration of every single step of some runs of one batch size."""
    first = np.cumsum(steps) - steps
    number = np.arange(int(steps.sum())) - np.repeat(first, steps)
    at = np.repeat(context, steps) + number
    before, after = cumulatives(curve, at), cumulatives(curve, at + 1)
    began = np.repeat(start_ns - cumulatives(curve, context), steps)
    return began + (number + 1) * constant_ns + after, constant_ns + after - before
