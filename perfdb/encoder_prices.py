"""What runs of an encoder cost, folded into a few curves: a run is priced by sums over what it encodes.

Over many images of different sizes attention costs what it does over equal sequences with as many patches and as many
pairs of patches that see each other, as prompts of different lengths do (``docs/decisions/004-chunk-prices.md``).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from perfdb.compile import HostTime
from perfdb.estimate import Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from perfdb.encoder_operators import EncoderAttention, EncoderOperators
    from perfdb.media_rules import Seen
    from perfdb.row_operators import RowOperator
    from perfdb.sources import SourceChain

__all__ = ["EncoderCosts", "EncoderWork", "RowTimes", "compile_encoder"]

_ORIGINS: Final = len(Origin)
#: Rows and lengths are priced at so many points per doubling, up to these powers of two.
_PER_DOUBLING: Final = 4
_ROW_DOUBLINGS: Final = 20
_LENGTH_DOUBLINGS: Final = 17
#: Sequences are priced at powers of two up to the largest batch that tables hold, 64; more are in proportion.
_SEQUENCE_DOUBLINGS: Final = 6
_NO_HOST: Final = HostTime()


class EncoderWork(NamedTuple):
    """Sums over what one run encodes: what its price depends on.

    Attributes
    ----------
    items
        Images, videos or sounds.
    patches, tokens
        As of :class:`perfdb.media_rules.Seen`.
    pairs, window_pairs
        Pairs of patches that see each other in a layer: the squares of the lengths of sequences, or of windows.
    """

    items: int
    patches: int
    tokens: int
    pairs: int
    window_pairs: int

    @classmethod
    def of(cls, items: Iterable[Seen]) -> EncoderWork:
        """Return the sums over some items."""
        count = patches = tokens = pairs = window_pairs = 0
        for seen in items:
            count += 1
            patches += seen.patches
            tokens += seen.tokens
            for length, times in seen.sequences:
                pairs += times * length * length
            for length, times in seen.windows:
                window_pairs += times * length * length
        return cls(count, patches, tokens, pairs, window_pairs)


@dataclass(frozen=True, slots=True)
class RowTimes:
    """Time of operators over a number of rows, a straight line between knots and beyond the last.

    Attributes
    ----------
    knots
        Rows, increasing from 0.
    ns
        Time at each.
    by_origin
        The same by origin, shape (knots, origins).
    """

    knots: tuple[int, ...]
    ns: tuple[float, ...]
    by_origin: NDArray[np.float64]

    @classmethod
    def priced(cls, operators: Sequence[RowOperator], source: SourceChain) -> RowTimes:
        """Return the prices of operators that run over the same rows, one after the other."""
        knots = np.unique(np.rint(2.0 ** (np.arange(_PER_DOUBLING * _ROW_DOUBLINGS + 1) / _PER_DOUBLING)))
        rows = knots.astype(np.int64)
        total = np.zeros((len(rows) + 1, _ORIGINS))
        place = np.arange(1, len(rows) + 1)
        for operator in operators:
            found = source.rows(operator, rows)
            np.add.at(total, (place, found.origin), operator.count * found.ns)
        return cls((0, *rows.tolist()), tuple(total.sum(axis=1).tolist()), total)

    def at(self, rows: int) -> float:
        """Return the time over ``rows`` rows, ns; nothing over none."""
        knots, ns = self.knots, self.ns
        if rows <= 1:
            return ns[rows]
        i = min(bisect_right(knots, rows), len(knots) - 1)
        low = knots[i - 1]
        return ns[i - 1] + (ns[i] - ns[i - 1]) * (rows - low) / (knots[i] - low)

    def origins(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the time of runs over so many rows by origin, shape (runs, origins)."""
        knots = np.array(self.knots)
        i = np.clip(np.searchsorted(knots, rows, "right"), 1, len(knots) - 1)
        weight = ((rows - knots[i - 1]) / (knots[i] - knots[i - 1]))[:, None]
        found: NDArray[np.float64] = self.by_origin[i - 1] + (self.by_origin[i] - self.by_origin[i - 1]) * weight
        beyond = rows > knots[-1]
        found[beyond, Origin.EXTRAPOLATED] += found[beyond][:, : Origin.EXTRAPOLATED].sum(axis=1)
        found[beyond, : Origin.EXTRAPOLATED] = 0.0
        return found


@dataclass(frozen=True, slots=True)
class _Attention:
    """Time of attention, all layers, by equal sequences and their length; between knots both on logarithmic axes.

    Attributes
    ----------
    log_ns
        Logarithm (base 2) of the time, ns, by doublings of the sequences, then by length.
    origin
        Of each, shape (doublings of sequences, lengths).
    """

    log_ns: tuple[tuple[float, ...], ...]
    origin: NDArray[np.uint8]

    @classmethod
    def priced(cls, operator: EncoderAttention, source: SourceChain) -> _Attention:
        """Return the prices of one operator."""
        sequences = 2 ** np.arange(_SEQUENCE_DOUBLINGS + 1)
        lengths = np.rint(2.0 ** (np.arange(_PER_DOUBLING * _LENGTH_DOUBLINGS + 1) / _PER_DOUBLING)).astype(np.int64)
        batch, tokens = (axis.ravel() for axis in np.meshgrid(sequences, lengths, indexing="ij"))
        found = source.attention(operator, batch, tokens)
        ns = operator.count * found.ns.reshape(len(sequences), -1)
        # More patches, or more sequences, never cost less: the noise of the smallest kernels is smoothed away.
        ns = np.maximum.accumulate(np.maximum.accumulate(ns, axis=1), axis=0)
        rows = tuple(tuple(row) for row in np.log2(ns).tolist())
        return cls(rows, found.origin.reshape(len(sequences), -1))

    def at(self, patches: float, pairs: float) -> float:
        """Return the time over sequences with so many patches and pairs in all, ns."""
        if not pairs:
            return 0.0
        length, sequences = pairs / patches, patches * patches / pairs
        x = _PER_DOUBLING * min(math.log2(length), _LENGTH_DOUBLINGS - 0.001)
        y = min(math.log2(sequences), _SEQUENCE_DOUBLINGS - 0.001)
        i, j = int(y), int(x)
        u, v = y - i, x - j
        low, high = self.log_ns[i], self.log_ns[i + 1]
        log_ns = (1 - u) * (low[j] + v * (low[j + 1] - low[j])) + u * (high[j] + v * (high[j + 1] - high[j]))
        more = max(sequences / 2**_SEQUENCE_DOUBLINGS, 1.0) * max(length / 2**_LENGTH_DOUBLINGS, 1.0) ** 2
        return float(2.0**log_ns) * more

    def origins(self, patches: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the time of runs by origin, shape (runs, origins): the worst of the knots around each."""
        total = np.zeros((len(patches), _ORIGINS))
        rows, columns = self.origin.shape
        for run in np.flatnonzero(pairs):
            length, sequences = pairs[run] / patches[run], patches[run] ** 2 / pairs[run]
            i = int(min(math.log2(sequences), rows - 1.001))
            j = int(min(_PER_DOUBLING * math.log2(length), columns - 1.001))
            beyond = sequences > 2**_SEQUENCE_DOUBLINGS or length > 2**_LENGTH_DOUBLINGS
            at_least = Origin.EXTRAPOLATED if beyond else Origin.INTERPOLATED
            worst = max(int(self.origin[i : i + 2, j : j + 2].max()), at_least)
            total[run, worst] = self.at(int(patches[run]), int(pairs[run]))
        return total


@dataclass(frozen=True, slots=True)
class EncoderCosts:
    """Prices of the runs of one encoder on one instance.

    Attributes
    ----------
    per_patch, per_token
        Operators over patches and over tokens.
    full, windowed
        Attention within sequences and windows; None where no layer has it.
    host
        Time of the host: per run, per item, and per kernel it launches while others run.
    launches
        Kernels of a run.
    ranks
        Chips that encode items side by side, each all of an item.
    features
        Elements of the features of one token.
    """

    per_patch: RowTimes
    per_token: RowTimes
    full: _Attention | None
    windowed: _Attention | None
    host: HostTime
    launches: int
    ranks: int
    features: int

    def batch_ns(self, items: Sequence[Seen]) -> int:
        """Return the time of one run over some items, ns: that of the chip that has most to do; nothing over none."""
        return self.work_ns(self.slowest(items))

    def slowest(self, items: Sequence[Seen]) -> EncoderWork:
        """Return the work of the chip that takes longest over its part of the items.

        Notes
        -----
        Largest first, each to the chip that has fewest patches so far, as vLLM deals them out
        (``get_load_balance_assignment`` in ``vllm/model_executor/models/vision.py``).
        """
        if self.ranks == 1:
            return EncoderWork.of(items)
        parts: list[list[Seen]] = [[] for _ in range(self.ranks)]
        loads = [0] * self.ranks
        for item in sorted(items, key=lambda seen: -seen.patches):
            rank = loads.index(min(loads))
            parts[rank].append(item)
            loads[rank] += item.patches
        return max((EncoderWork.of(part) for part in parts), key=self.work_ns)

    def work_ns(self, work: EncoderWork) -> int:
        """Return the time of one run with so much work on each chip, ns."""
        if not work.items:
            return 0
        kernels = self.kernels_ns(work)
        launched = self.host.launch_ns * self.launches
        return round(max(kernels, launched)) + self.host.step_ns + self.host.sequence_ns * work.items

    def kernels_ns(self, work: EncoderWork) -> float:
        """Return the time of the kernels of one run, ns."""
        ns = self.per_patch.at(work.patches) + self.per_token.at(work.tokens)
        if self.full is not None:
            ns += self.full.at(work.patches, work.pairs)
        if self.windowed is not None:
            ns += self.windowed.at(work.patches, work.window_pairs)
        return ns

    def feature_bytes(self, tokens: int) -> int:
        """Return the bytes of the features of so many tokens, in 16 bits."""
        return 2 * self.features * tokens

    def time_by_origin(self, table: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
        """Return the time of logged runs by origin of its price.

        Parameters
        ----------
        table
            Columns named as the fields of :class:`EncoderWork`, int64, shape (runs,): the work of the slowest chip.

        Returns
        -------
        dict
            Nanoseconds under ``measured, interpolated, extrapolated, borrowed, roofline`` and ``host``, as
            :func:`perfdb.shares.time_by_origin` returns them for steps; together what the runs cost, up to rounding.
        """
        patches, tokens = table["patches"], table["tokens"]
        total = self.per_patch.origins(patches) + self.per_token.origins(tokens)
        for attention, pairs in ((self.full, "pairs"), (self.windowed, "window_pairs")):
            if attention is not None:
                total += attention.origins(patches, table[pairs])
        waits = np.maximum(self.host.launch_ns * self.launches - total.sum(axis=1), 0.0)
        host = waits + self.host.step_ns + self.host.sequence_ns * table["items"]
        by_origin = total.sum(axis=0)
        return {origin.name.lower(): float(by_origin[origin]) for origin in Origin} | {"host": float(host.sum())}


def compile_encoder(operators: EncoderOperators, source: SourceChain, host: HostTime = _NO_HOST) -> EncoderCosts:
    """Return the compiled costs of an encoder.

    Parameters
    ----------
    operators
        What a run takes on one chip (:func:`perfdb.encoder_operators.encoder_operators`).
    source
        Prices the operators.
    host
        Time of the host that kernels do not hide.

    Raises
    ------
    CostError
        If the source cannot price an operator.
    """
    return EncoderCosts(
        per_patch=RowTimes.priced(operators.per_patch, source),
        per_token=RowTimes.priced(operators.per_token, source),
        full=_Attention.priced(operators.full, source) if operators.full else None,
        windowed=_Attention.priced(operators.windowed, source) if operators.windowed else None,
        host=host,
        launches=operators.launches,
        ranks=operators.ranks,
        features=operators.features,
    )
