"""The least time that encoding takes, whatever is encoded together: prices that no run of an encoder undercuts.

Linear programming duality again (``docs/decisions/032-search.md``): prices on an item, a patch, a token and a pair of
patches such that no run costs less than what is encoded in it is worth. What a traffic is worth by them bounds the
time that it takes, however it is put together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from perfdb.encoder_prices import EncoderWork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from perfdb.encoder_prices import EncoderCosts
    from perfdb.media_rules import Seen
    from simulator.encoder_load import Encoded, EncoderLoad

__all__ = ["EncodePrices", "encode_prices", "lone_encode_ns"]

#: Sequences of one run that are looked at: curves are in proportion beyond.
_SEQUENCES: Final = (1, 2, 4, 8, 16, 32, 64)
#: Lengths of sequences that are looked at per doubling.
_PER_DOUBLING: Final = 16
#: The most rows that curves have knots for.
_MOST_ROWS: Final = 2**20


@dataclass(frozen=True, slots=True)
class EncodePrices:
    """Nanoseconds that what is encoded takes at least, on one chip that encodes items alone."""

    item_ns: float = 0.0
    patch_ns: float = 0.0
    token_ns: float = 0.0
    pair_ns: float = 0.0
    window_pair_ns: float = 0.0

    def of(self, work: EncoderWork | Encoded) -> float:
        """Return the least time that some work takes, ns."""
        attention = self.pair_ns * work.pairs + self.window_pair_ns * work.window_pairs
        return self.item_ns * work.items + self.patch_ns * work.patches + self.token_ns * work.tokens + attention


def encode_prices(
    costs: EncoderCosts, load: EncoderLoad, encoded: Encoded, *, most_tokens: float, most_items: float
) -> EncodePrices:
    """Return prices that no run of an encoder undercuts, and that are highest for what a mean request brings.

    Parameters
    ----------
    costs
        Prices of runs.
    load
        What items there are.
    encoded
        What a mean request brings.
    most_tokens, most_items
        Of one run; an item of more tokens runs alone.
    """
    tokens = max(min(most_tokens, _MOST_ROWS), load.most_tokens)
    rows = int(max(min(tokens * load.dense, _MOST_ROWS), load.largest))
    items = max(1.0, min(most_items, tokens / max(load.least_tokens, 1)))
    host = costs.host
    of_run = host.sequence_ns + host.step_ns / items
    whole, windowed = _attention(costs, load, encoded, rows)
    of_patch = _cheapest(costs.per_patch.at, costs.per_patch.knots, load.smallest, rows)
    kernels = EncodePrices(
        of_run,
        of_patch + whole[0] + windowed[0],
        _cheapest(costs.per_token.at, costs.per_token.knots, load.least_tokens, int(tokens)),
        whole[1],
        windowed[1],
    )
    launches = EncodePrices(of_run + host.launch_ns * costs.launches / items)
    return max(kernels, launches, key=lambda prices: prices.of(encoded))


def lone_encode_ns(costs: EncoderCosts, prices: EncodePrices, items: Sequence[Seen], *, sharded: bool) -> float:
    """Return the least time that encoding takes of a request that is alone, ns.

    Parameters
    ----------
    costs, prices
        Prices of runs, and those that no run undercuts.
    items
        What it brings.
    sharded
        Items are dealt to all encoders.
    """
    if not items:
        return 0.0
    longest = max(costs.batch_ns([item]) for item in dict.fromkeys(items))
    if sharded:
        return float(longest)
    return max(float(longest), prices.of(EncoderWork.of(items)) / costs.ranks)


def _cheapest(at: Callable[[int], float], knots: Sequence[int], least: int, most: int) -> float:
    """Return the least time per row over so many rows at least and at most; curves are straight between knots."""
    rows = [max(least, 1), *(knot for knot in knots if least < knot < most), max(most, 1)]
    return min(at(n) / n for n in rows)


def _attention(
    costs: EncoderCosts, load: EncoderLoad, encoded: Encoded, rows: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return prices of a patch and of a pair for both kinds of attention."""
    kinds = ((costs.full, load.lengths, encoded.pairs), (costs.windowed, load.windows, encoded.window_pairs))
    found = []
    for attention, (least, most), pairs in kinds:
        if attention is None or not pairs:
            found.append((0.0, 0.0))
            continue
        lengths = np.unique(np.append(np.geomspace(least, most, 2 + int(_PER_DOUBLING * np.log2(most / least))), most))
        each = [_per_patch(attention.at, length, rows) for length in lengths.tolist()]
        found.append(_tangent(lengths, np.array(each), pairs / encoded.patches))
    return found[0], found[1]


def _per_patch(at: Callable[[float, float], float], length: float, rows: int) -> float:
    """Return the least time of attention per patch, over equal sequences."""
    counts = [count for count in _SEQUENCES if count * length <= rows] or [1]
    most = max(min(rows / length, _SEQUENCES[-1]), 1.0)
    return min(at(count * length, count * length * length) / (count * length) for count in (*counts, most))


def _tangent(x: NDArray[np.float64], y: NDArray[np.float64], at: float) -> tuple[float, float]:
    """Return the straight line below all points that is highest at a place between them: its height at 0, its slope."""
    at = min(max(at, float(x[0])), float(x[-1]))
    below, above = x[:, None], x[None, :]
    brackets = (below <= at) & (above >= at) & (below < above)
    if not brackets.any():
        return float(y[np.argmin(np.abs(x - at))]), 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (y[None, :] - y[:, None]) / (above - below)
    height = np.where(brackets, y[:, None] + slope * (at - below), np.inf)
    i, j = np.unravel_index(int(np.argmin(height)), height.shape)
    return float(y[i] - slope[i, j] * x[i]), float(slope[i, j])
