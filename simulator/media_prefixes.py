"""What prompts begin with where images stand among their text: an image's content is part of what names a prefix."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from workloads.prefixes import prefixes_of
from workloads.table import Prefixes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.request_media import Encodable, RequestMedia
    from workloads.table import Arrivals

__all__ = ["shared_prefixes", "with_media"]


#: What a span is and what stands before it: the name before, its kind, its own name, and where it ends.
_Meaning: TypeAlias = tuple[int, str, int, int]


class _Span(NamedTuple):
    name: int
    end: int


def shared_prefixes(arrivals: Arrivals, media: RequestMedia | None) -> Prefixes | None:
    """Return what the prompts of a workload share, their images among it; None where that is nothing, or unknown.

    Hashes of whole prompts that a source counts images in name these already.
    """
    prefixes = prefixes_of(arrivals)
    if media is None or (arrivals.blocks is not None and arrivals.image_tokens is not None):
        return prefixes
    return with_media(prefixes, media)


def with_media(prefixes: Prefixes | None, media: RequestMedia) -> Prefixes | None:
    """Return what prompts share, their images among it; None where that is nothing.

    vLLM hashes a block of a prompt together with the identities of the images in it, and SGLang puts a hash of each
    image in the place of its tokens: equal text after different images is no equal prefix, and equal images are one.

    Parameters
    ----------
    prefixes
        What the texts of prompts share; None for nothing.
    media
        The images and where they stand.
    """
    names: dict[_Meaning, int] = {}
    rows = [_woven(_texts(prefixes, index), items, names) for index, items in enumerate(media)]
    count = Counter(span.name for row in rows for span in row)
    for row in rows:
        # What nobody else has is looked for by nobody.
        while row and row[-1].name >= 0 and count[row[-1].name] == 1:
            row.pop()
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    contents, ends = (np.array(list(chain.from_iterable(column)), np.int64) for column in _columns(rows))
    return Prefixes(offsets, contents, ends) if contents.size else None


def _columns(rows: Sequence[Sequence[_Span]]) -> tuple[list[list[int]], list[list[int]]]:
    return [[span.name for span in row] for row in rows], [[span.end for span in row] for row in rows]


def _texts(prefixes: Prefixes | None, index: int) -> list[_Span]:
    if prefixes is None:
        return []
    start, end = prefixes.offsets[index], prefixes.offsets[index + 1]
    return list(map(_Span, prefixes.contents[start:end].tolist(), prefixes.ends[start:end].tolist()))


def _woven(texts: Sequence[_Span], items: Sequence[Encodable], names: dict[_Meaning, int]) -> list[_Span]:
    """Return the spans of one prompt; ``names`` gives each a number for what it is and what stands before it."""
    found: list[_Span] = []
    shift = done = 0

    def add(kind: str, what: int, end: int) -> None:
        before = found[-1].name if found else -1
        name = what if what < 0 else names.setdefault((before, kind, what, end), len(names))
        found.append(_Span(name, end))

    for item in items:
        at = item.start - shift
        while done < len(texts) and texts[done].end <= at:
            add("text", texts[done].name, texts[done].end + shift)
            done += 1
        if (found[-1].end if found else 0) < item.start:
            if done == len(texts) or texts[done].name < 0:
                # Text that nobody else has stands before it.
                return found
            add("text", texts[done].name, item.start)
        add("image", item.content, item.end)
        shift += item.tokens
    for text in texts[done:]:
        add("text", text.name, text.end + shift)
    return found
