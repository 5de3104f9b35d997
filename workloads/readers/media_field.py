"""The ``media`` column of a trace, as :mod:`workloads.media` says it is written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from workloads.limits import MAX_TOKENS
from workloads.media import Item
from workloads.readers.fields import shown
from workloads.readers.protocol import BadRowError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["parse_items"]

_ITEM: Final = re.compile(
    r"(image|video|audio)(?::(\d{1,6})x(\d{1,6})(?:x(\d{1,6}))?)?(?::(\d{1,7}(?:\.\d{1,3})?)s)?(?::(\d{1,9})t)?(?:@(\d{1,9}))?(?:#(\d{1,18}))?",
    re.ASCII,
)
_EXPECTED: Final = (
    "items such as image:1280x720, video:640x360x32, audio:30s or image:540t@200#7, separated by semicolons"
)


def parse_items(text: str, prompt: int = MAX_TOKENS) -> tuple[Item, ...]:
    """Return the items of one row of a ``media`` column.

    Parameters
    ----------
    text
        What the row has.
    prompt
        Tokens of its prompt.

    Raises
    ------
    BadRowError
        When it is not written as above, or items stand before those they follow or behind the text.

    Examples
    --------
    >>> parse_items("video:640x360x32#7")
    (Item(kind='video', width=640, height=360, frames=32, duration_ms=0, tokens=0, content=7, place=0),)
    """
    if not text:
        return ()
    found = []
    for part in text.split(";"):
        match = _ITEM.fullmatch(part.strip())
        if match is None:
            raise BadRowError("not media", f"media is {shown(text)}, expected {_EXPECTED}")
        kind, *sizes, seconds, tokens, place, content = match.groups()
        width, height, frames = (int(size or 0) for size in sizes)
        duration_ms = round(float(seconds or 0) * 1000)
        name = None if content is None else int(content)
        found.append(Item(kind, width, height, frames, duration_ms, int(tokens or 0), name, int(place or 0)))
    _check_places(found, prompt, text)
    return tuple(found)


def _check_places(items: Sequence[Item], prompt: int, text: str) -> None:
    """Refuse items that stand before those they follow, or behind the text of a prompt of so many tokens."""
    places = [item.place for item in items]
    written = max(prompt - sum(item.tokens for item in items), 0)
    if places != sorted(places) or places[-1] > written:
        raise BadRowError(
            "not media",
            f"media is {shown(text)}, expected places that rise and lie within the {written} tokens of text",
        )
