"""From hashes of equal blocks to the spans that prompts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workloads.table import Prefixes

if TYPE_CHECKING:
    from workloads.table import Arrivals, BlockHashes, IntColumn

__all__ = ["prefixes_of"]


def prefixes_of(arrivals: Arrivals) -> Prefixes | None:
    """Return what the prompts of a workload share; None where the source does not say.

    Blocks that always occur together become one span, and blocks of one prompt alone are left out, so that
    prompts have a few spans each, whatever the size of a block.
    """
    if arrivals.prefixes is not None or arrivals.blocks is None:
        return arrivals.prefixes
    return _merged(arrivals.blocks, arrivals.prompt_tokens)


def _merged(blocks: BlockHashes, prompt_tokens: IntColumn) -> Prefixes:
    rows = np.repeat(np.arange(len(blocks)), np.diff(blocks.offsets))
    place = np.arange(rows.size) - blocks.offsets[rows]
    names = _chained(_numbered(blocks.hashes), place)
    count = np.bincount(names)[names]
    shared = count > 1
    # Every prompt with a block has the one before it too: equal counts, so always together.
    begins = (place == 0) | (count != np.roll(count, 1))
    first = np.flatnonzero(shared & begins)
    last = np.flatnonzero(shared & np.append(begins[1:], True))
    ends = np.minimum((place[last] + 1) * blocks.block_tokens, prompt_tokens[rows[last]])
    offsets = np.append(0, np.cumsum(np.bincount(rows[first], minlength=len(blocks))))
    return Prefixes(offsets, names[first], ends)


def _numbered(hashes: IntColumn) -> IntColumn:
    """Return hashes numbered from 0, equal ones alike."""
    numbers: IntColumn = np.unique(hashes, return_inverse=True)[1].astype(np.int64)
    return numbers


def _chained(names: IntColumn, place: IntColumn) -> IntColumn:
    """Return names that stand for everything before them too, as they should already.

    A source that names blocks by their own tokens alone gives one name to blocks after different prefixes.
    """
    before = np.where(place == 0, -1, np.roll(names, 1))
    known = np.full(int(names.max(initial=-1)) + 1, -1)
    known[names] = before
    if bool((known[names] == before).all()):
        return names
    numbers: dict[tuple[int, int], int] = {}
    chained, previous = np.empty_like(names), -1
    for row, (name, at) in enumerate(zip(names.tolist(), place.tolist(), strict=True)):
        previous = numbers.setdefault((previous if at else -1, name), len(numbers))
        chained[row] = previous
    return chained
