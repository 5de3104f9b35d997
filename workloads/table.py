"""The workload as columns: one frozen table of numbers, whatever it was made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from hardware.errors import TraceError
from workloads.columns import IntColumn, cuts, frozen, picked
from workloads.limits import LAST_ARRIVAL_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workloads.media import Media

__all__ = ["Arrivals", "BlockHashes", "IntColumn", "Prefixes"]


@dataclass(frozen=True, slots=True, eq=False)
class BlockHashes:
    """The prompt of each request as hashes of fixed-size blocks, in a ragged column.

    A block's hash stands for its tokens and everything before them, so equal hashes share a prefix.

    Attributes
    ----------
    offsets
        int64[n + 1]; the hashes of request ``i`` are ``hashes[offsets[i]:offsets[i + 1]]``.
    hashes
        int64[offsets[-1]].
    block_tokens
        Tokens per block; the last block of a prompt may hold fewer.

    Raises
    ------
    TraceError
        When the offsets do not cut the hashes into rows.
    """

    offsets: IntColumn
    hashes: IntColumn
    block_tokens: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", frozen(self.offsets))
        object.__setattr__(self, "hashes", frozen(self.hashes))
        if self.block_tokens < 1:
            raise TraceError(f"block_tokens is {self.block_tokens}, expected at least 1")
        if not cuts(self.offsets, self.hashes):
            raise TraceError(f"block offsets do not rise from 0 to the {self.hashes.size} hashes there are")

    def __len__(self) -> int:
        return self.offsets.size - 1

    def of(self, row: int) -> IntColumn:
        """Return the hashes of one request, from the start of its prompt."""
        return self.hashes[self.offsets[row] : self.offsets[row + 1]]

    def head(self, limit: int) -> BlockHashes:
        """Return the first ``limit`` requests' hashes."""
        offsets = self.offsets[: limit + 1]
        return BlockHashes(offsets, self.hashes[: offsets[-1]], self.block_tokens)

    def taken(self, rows: IntColumn) -> BlockHashes:
        """Return the hashes of some requests, rising."""
        offsets, places = picked(self.offsets, rows)
        return BlockHashes(offsets, self.hashes[places], self.block_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """What prompts begin with, as spans that others may share, in two ragged columns.

    A span is named by its content. A name stands for the span's tokens and everything before them, so that
    equal names are equal prefixes. ``-1 - i`` is what request ``i`` alone has: what follows the last span of
    its prompt, and its answer.

    Attributes
    ----------
    offsets
        int64[n + 1]; request ``i`` has the spans from ``offsets[i]`` to ``offsets[i + 1]``.
    contents
        int64[offsets[-1]], names.
    ends
        int64[offsets[-1]], tokens from the start of the prompt to the end of each span: they rise and do not
        go beyond the prompt.

    Raises
    ------
    TraceError
        When the offsets do not cut the spans into rows.
    """

    offsets: IntColumn
    contents: IntColumn
    ends: IntColumn

    def __post_init__(self) -> None:
        for name in ("offsets", "contents", "ends"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        if not (cuts(self.offsets, self.contents) and cuts(self.offsets, self.ends)):
            raise TraceError(f"prefix offsets do not rise from 0 to the {self.contents.size} spans there are")

    def __len__(self) -> int:
        return self.offsets.size - 1

    def head(self, limit: int) -> Prefixes:
        """Return the first ``limit`` requests' spans."""
        offsets = self.offsets[: limit + 1]
        return Prefixes(offsets, self.contents[: offsets[-1]], self.ends[: offsets[-1]])

    def taken(self, rows: IntColumn, place: IntColumn) -> Prefixes:
        """Return the spans of some requests, rising; ``place`` is where each of all requests goes, -1 for nowhere.

        What a request alone has keeps its name where somebody else's goes, which is then nobody's.
        """
        offsets, places = picked(self.offsets, rows)
        contents = self.contents[places]
        owner = np.where(contents < 0, -1 - contents, 0)
        gone = place.size + owner
        named = np.where(contents < 0, -1 - np.where(place[owner] < 0, gone, place[owner]), contents)
        return Prefixes(offsets, named, self.ends[places])


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Requests in the order they arrive, as columns of n 64-bit integers (read-only).

    Attributes
    ----------
    arrival_ns
        int64[n], never decreasing; a trace starts at 0, a synthetic stream after its first gap.
    prompt_tokens, output_tokens
        int64[n], at least 1 each.
    source
        Where the rows come from, for reports.
    blocks
        Hashes of the prompts' blocks, where the source has them.
    prefixes
        What prompts share, where the source says it otherwise; see :func:`workloads.prefixes.prefixes_of`. Of text
        alone: the ends do not count ``media``.
    session
        int64[n], numbers from 0 by first appearance, -1 for a request outside any session.
    media
        Images, videos and sounds, where the source says anything of them.
    later
        int64[n], row of the turn that waits for a request's answer, -1 for none; None where all are open-loop.
        The ``arrival_ns`` of a turn that waits is when it would come if answers took no time.
    think_ns
        int64[n], time between an answer and the turn that waits for it, where one does.
    skipped
        Rows of the source left out, by reason.

    Raises
    ------
    TraceError
        When the columns differ in length, are empty, out of order or out of range.
    """

    arrival_ns: IntColumn
    prompt_tokens: IntColumn
    output_tokens: IntColumn
    source: str
    blocks: BlockHashes | None = None
    session: IntColumn | None = None
    prefixes: Prefixes | None = None
    media: Media | None = None
    later: IntColumn | None = None
    think_ns: IntColumn | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("arrival_ns", *_LOWEST):
            column = getattr(self, name)
            if column is not None:
                object.__setattr__(self, name, frozen(column))
        _check(self)

    def __len__(self) -> int:
        return self.arrival_ns.size

    @property
    def images(self) -> IntColumn | None:
        """Images, videos and sounds per request, int64[n], where the source counts them."""
        return None if self.media is None else self.media.counts

    @property
    def image_tokens(self) -> IntColumn | None:
        """The part of ``prompt_tokens`` that these take, int64[n], where the source says so."""
        return None if self.media is None or not self.media.tokens.any() else self.media.tokens_of_requests()

    def head(self, limit: int) -> Self:
        """Return the first ``limit`` requests (all of them when there are fewer).

        Raises
        ------
        TraceError
            When ``limit`` is below 1.
        """
        if limit < 1:
            raise TraceError(f"limit is {limit}, expected at least 1 request")
        if limit >= len(self):
            return self
        return replace(
            self,
            arrival_ns=self.arrival_ns[:limit],
            prompt_tokens=self.prompt_tokens[:limit],
            output_tokens=self.output_tokens[:limit],
            blocks=None if self.blocks is None else self.blocks.head(limit),
            prefixes=None if self.prefixes is None else self.prefixes.head(limit),
            media=None if self.media is None else self.media.head(limit),
            session=None if self.session is None else self.session[:limit],
            later=None if self.later is None else np.where(self.later[:limit] < limit, self.later[:limit], -1),
            think_ns=None if self.think_ns is None else self.think_ns[:limit],
        )

    def taken(self, rows: IntColumn) -> Self:
        """Return some of the requests, and the turns that wait for them where these are taken too.

        Parameters
        ----------
        rows
            int64, rising: the rows to take.
        """
        place = np.full(len(self), -1)
        place[rows] = np.arange(rows.size)
        kept = {
            name: column[rows]
            for name in ("arrival_ns", *_LOWEST)
            if name != "later" and (column := getattr(self, name)) is not None
        }
        later = None if self.later is None else self.later[rows]
        return replace(
            self,
            **kept,
            blocks=None if self.blocks is None else self.blocks.taken(rows),
            prefixes=None if self.prefixes is None else self.prefixes.taken(rows, place),
            media=None if self.media is None else self.media.taken(rows),
            later=None if later is None else np.where(later < 0, -1, place[later]),
        )

    def rescaled(self, rate_scale: float) -> Self:
        """Return the same requests at ``rate_scale`` times the rate: 2.0 replays twice as fast.

        Raises
        ------
        TraceError
            When ``rate_scale`` is not a positive number, or the last arrival would be over 146 years away.
        """
        if not (math.isfinite(rate_scale) and rate_scale > 0):
            raise TraceError(f"rate_scale is {rate_scale}, expected a positive number (2.0 is twice as fast)")
        if int(self.arrival_ns[-1]) > LAST_ARRIVAL_NS * rate_scale:
            raise TraceError(f"rate_scale {rate_scale} spreads the arrivals over 146 years; use a larger one")
        scaled = {
            name: np.rint(column / rate_scale).astype(np.int64)
            for name in ("arrival_ns", "think_ns")
            if (column := getattr(self, name)) is not None
        }
        return replace(self, **scaled)


_LOWEST: Final = {
    "prompt_tokens": 1,
    "output_tokens": 1,
    "session": -1,
    "later": -1,
    "think_ns": 0,
}


def _check(arrivals: Arrivals) -> None:
    """Raise a TraceError for the first law the columns break."""
    times_ns = arrivals.arrival_ns
    if not times_ns.size:
        raise TraceError(f"{arrivals.source}: no request, expected at least 1")
    if int(times_ns[0]) < 0 or int(times_ns[-1]) > LAST_ARRIVAL_NS or bool((np.diff(times_ns) < 0).any()):
        raise TraceError(f"{arrivals.source}: arrival_ns must never decrease, from 0 to 2**62 ns at most")
    for name, lowest in _LOWEST.items():
        column = getattr(arrivals, name)
        if column is not None and column.shape != times_ns.shape:
            raise TraceError(f"{arrivals.source}: {column.size} {name} for {times_ns.size} arrivals")
        if column is not None and int(column.min()) < lowest:
            raise TraceError(f"{arrivals.source}: {name} is {column.min()}, expected at least {lowest}")
    for words, ragged in (("block", arrivals.blocks), ("media", arrivals.media)):
        if ragged is not None and len(ragged) != times_ns.size:
            raise TraceError(f"{arrivals.source}: {len(ragged)} {words} rows for {times_ns.size} arrivals")
