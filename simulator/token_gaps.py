"""Inter-token latency over all requests, exact, from runs of steps: no gap is ever stored during a run."""

from __future__ import annotations

from dataclasses import dataclass
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
    tables = [_paced(log.table(), pace.table()) for log, pace in zip(logs, paces or logs, strict=True)]
    for price, table in _by_price(tables, prices):
        _note_joins(table, after_ns, gaps_found)
        for ends, gaps, sequences in _runs(table, price):
            kept = gaps if after_ns == 0 else gaps[ends >= after_ns]
            gaps_found.append(_counted(kept, sequences))
            seconds_found.append(_counted(ends // 10**9, sequences))
    return TokenGaps(*_merged(gaps_found), *_merged(seconds_found))


_Counted: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64]]"
_Table: TypeAlias = "dict[str, NDArray[np.int64]]"


def _note_joins(table: Mapping[str, NDArray[np.int64]], after_ns: int, found: list[_Counted]) -> None:
    """Take out the gaps of sequences that came from another instance: theirs are among the stalls."""
    rows = (table["joined"] > 0) & (table["start_ns"] + table["duration_ns"] >= after_ns)
    found.append((table["duration_ns"][rows], -table["joined"][rows]))


def _counted(values: NDArray[np.int64], times: int = 1) -> _Counted:
    distinct, count = np.unique(values, return_counts=True)
    return distinct, count * times


def _over_pauses(pauses: Mapping[str, NDArray[np.int64]], after_ns: int) -> list[_Counted]:
    """Return what gaps over standstills add, and the steps that stand for them in the log, counted off."""
    kept = pauses["end_ns"] >= after_ns
    sequences = pauses["sequences"][kept]
    return [(pauses["step_ns"][kept], -sequences), (pauses["gap_ns"][kept], sequences)]


def _merged(pieces: Sequence[_Counted]) -> _Counted:
    values, count = (np.concatenate(part) for part in zip(*pieces, strict=True))
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    if not len(first):
        return ordered, count
    total = np.add.reduceat(count[order], first)
    return ordered[first][total > 0], total[total > 0]


def _paced(table: _Table, pace: _Table) -> _Table:
    """Return a step log with the batch by which each of its steps was priced: ``batch, context`` and ``tokens``."""
    rows = np.searchsorted(pace["start_ns"], table["start_ns"])
    batch = {"batch": pace["decodes"][rows], "context": pace["context"][rows], "tokens": pace["tokens"][rows]}
    return {**table, **batch}


def _by_price(tables: Sequence[_Table], prices: Sequence[StepPrices]) -> Iterator[tuple[StepPrices, _Table]]:
    """Yield each set of prices once, with the step logs of all instances that share it."""
    left = list(zip(prices, tables, strict=True))
    while left:
        price = left[0][0]
        shared = [table for other, table in left if other is price]
        yield price, {name: np.concatenate([table[name] for table in shared]) for name in shared[0]}
        left = [(other, table) for other, table in left if other is not price]


def _runs(
    table: Mapping[str, NDArray[np.int64]], prices: StepPrices
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """Yield (ends, durations, sequences) of all decoding steps, one batch size at a time."""
    mixed = (table["tokens"] > 0) & (table["decodes"] > 0)
    for sequences in np.unique(table["decodes"][mixed]):
        rows = mixed & (table["decodes"] == sequences)
        duration = table["duration_ns"][rows]
        yield table["start_ns"][rows] + duration, duration, int(sequences)
    pure = table["tokens"] == 0
    # Both as one number: pairs are sorted twenty times as slowly.
    widest = int(table["decodes"].max(initial=0)) + 1
    pairs = table["batch"] * widest + table["decodes"]
    for pair in np.unique(pairs[pure]).tolist():
        n, sequences = divmod(pair, widest)
        rows = pure & (pairs == pair)
        # A step by itself lasted as long as it did, beside a neighbour on its chips perhaps.
        lone = rows & (table["steps"] == 1)
        lasted = table["duration_ns"][lone]
        yield table["start_ns"][lone] + lasted, lasted, sequences
        rows &= ~lone
        start_ns, context, steps = (table[name][rows] for name in ("start_ns", "context", "steps"))
        yield *_unroll(start_ns, context, steps, prices.decode_curve(n), prices.constant_ns(n)), sequences


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
