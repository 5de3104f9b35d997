"""Images, videos and sounds of requests, in ragged columns beside the arrivals.

In a trace's ``media`` column an item is its kind and, after colons, what is known of it, and items are separated by
semicolons: ``image:1280x720;image:540t@200#7;video:640x360x32;audio:30s``. That is pixels (and frames), seconds, tokens
that the prompt counts already, how many tokens of text stand before it, if any, and a name for its content, if another
one may be the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from hardware.errors import TraceError
from workloads.columns import IntColumn, cuts, frozen, picked

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

__all__ = ["KINDS", "Content", "Item", "Media", "media_of", "written_items"]

#: What an item may be; a :class:`Media` holds positions in it.
KINDS: Final = ("image", "video", "audio")

_COLUMNS: Final = ("kind", "width", "height", "frames", "duration_ms", "tokens", "content", "place")
#: Those of one item of a request, as a source tells them.
_TOLD: Final = _COLUMNS[:-1]


class Item(NamedTuple):
    """An image, a video or a sound as a reader found it.

    Attributes
    ----------
    kind
        ``image``, ``video`` or ``audio``.
    width, height, frames, duration_ms, tokens
        Zero where nothing is known.
    content
        Any name for what it shows; None for one like no other.
    place
        Tokens of the request's text before it.
    """

    kind: str = "image"
    width: int = 0
    height: int = 0
    frames: int = 0
    duration_ms: int = 0
    tokens: int = 0
    content: Hashable = None
    place: int = 0


class Content(NamedTuple):
    """What is known of an item but for its identity: equal ones are encoded alike.

    Attributes
    ----------
    kind
        One of :data:`KINDS`.
    width, height, frames
        Pixels, and sampled frames of a video; 0 where they are unknown.
    duration_ms
        Of a sound; 0 where it is unknown.
    tokens
        It takes of the prompt, where the source counts them; else 0.
    """

    kind: str
    width: int
    height: int
    frames: int
    duration_ms: int
    tokens: int

    @property
    def known(self) -> bool:
        """Whether it can be told what an encoder makes of it."""
        return self.tokens > 0 or self.duration_ms > 0 or (self.width > 0 and self.height > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Media:
    """Images, videos and sounds of n requests, as columns of 64-bit integers (read-only).

    Attributes
    ----------
    offsets
        int64[n + 1]; the items of request ``i`` are rows ``offsets[i]`` to ``offsets[i + 1]`` of the others, in the
        order in which they stand in the prompt.
    kind
        Positions in :data:`KINDS`.
    width, height, frames, duration_ms
        As of :class:`Content`; 0 where they are unknown.
    tokens
        Tokens of ``Arrivals.prompt_tokens`` that the item takes; 0 where the source does not count them: what the
        model's encoder makes of it comes on top then.
    content
        Names of inputs: equal ones are the same input.
    place
        Tokens of text between what all prompts share and the item: those of earlier turns, what a trace says, or 0,
        which it is where nothing is given.

    Raises
    ------
    TraceError
        When the offsets do not cut the columns into rows.
    """

    offsets: IntColumn
    kind: IntColumn
    width: IntColumn
    height: IntColumn
    frames: IntColumn
    duration_ms: IntColumn
    tokens: IntColumn
    content: IntColumn
    place: IntColumn = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not self.place.size:
            object.__setattr__(self, "place", np.zeros(self.kind.size, np.int64))
        for name in ("offsets", *_COLUMNS):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        if not all(cuts(self.offsets, getattr(self, name)) for name in _COLUMNS):
            raise TraceError(f"media offsets do not rise from 0 to the {self.kind.size} items there are")

    def __len__(self) -> int:
        return self.offsets.size - 1

    @property
    def counts(self) -> IntColumn:
        """Items of each request."""
        return np.diff(self.offsets)

    def head(self, limit: int) -> Media:
        """Return the items of the first ``limit`` requests."""
        offsets = self.offsets[: limit + 1]
        return Media(offsets, *(getattr(self, name)[: offsets[-1]] for name in _COLUMNS))

    def taken(self, rows: IntColumn) -> Media:
        """Return the items of some requests, rising."""
        offsets, places = picked(self.offsets, rows)
        return Media(offsets, *(getattr(self, name)[places] for name in _COLUMNS))

    def gathered(self, offsets: IntColumn, items: IntColumn, place: IntColumn) -> Media:
        """Return other requests' items: of request ``i`` those that ``items`` names from ``offsets[i]`` on.

        Parameters
        ----------
        offsets
            int64[m + 1], where each of m requests begins in the other two.
        items, place
            int64[offsets[-1]], rows of items, and where each stands.
        """
        return Media(offsets, *(getattr(self, name)[items] for name in _TOLD), place)  # type: ignore[call-arg]

    def contents(self) -> Iterator[Content]:
        """Yield what is known of each item, request by request."""
        columns = (getattr(self, name).tolist() for name in _TOLD[1:-1])
        for kind, *known in zip(self.kind.tolist(), *columns, strict=True):
            yield Content(KINDS[kind], *known)

    def tokens_of_requests(self) -> IntColumn:
        """Return the tokens that the items of each request take of its prompt."""
        sums = np.concatenate(([0], np.cumsum(self.tokens)))
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]


def media_of(rows: Iterable[Sequence[Item]]) -> Media:
    """Return the items of some requests as columns; an item whose content has no name is like no other."""
    offsets: list[int] = [0]
    found: list[tuple[int, ...]] = []
    names: dict[Hashable, int] = {}
    for items in rows:
        for place, item in enumerate(items, offsets[-1]):
            content = names.setdefault((place,) if item.content is None else item.content, len(names))
            known = (item.width, item.height, item.frames, item.duration_ms, item.tokens)
            found.append((KINDS.index(item.kind), *known, content, item.place))
        offsets.append(len(found))
    table = np.array(found, np.int64).reshape(-1, len(_COLUMNS))
    return Media(np.array(offsets, np.int64), *(table[:, i] for i in range(len(_COLUMNS))))


def written_items(media: Media) -> Iterator[str]:
    """Yield the items of each request as they are written in a ``media`` column."""
    _, repeated = np.unique(media.content, return_inverse=True)
    again = np.bincount(repeated)[repeated] > 1 if media.content.size else repeated
    texts = [
        _written(known) + (f"@{place}" if place else "") + (f"#{content}" if same else "")
        for known, place, content, same in zip(
            media.contents(), media.place.tolist(), media.content.tolist(), again.tolist(), strict=True
        )
    ]
    for start, end in pairwise(media.offsets.tolist()):
        yield ";".join(texts[start:end])


def _written(item: Content) -> str:
    parts = [item.kind]
    if item.width or item.height:
        parts.append(f"{item.width}x{item.height}" + (f"x{item.frames}" if item.frames else ""))
    if item.duration_ms:
        parts.append(f"{item.duration_ms / 1000:g}s")
    if item.tokens:
        parts.append(f"{item.tokens}t")
    return ":".join(parts)
