"""Nodes of a radix tree over runs of tokens; see :mod:`simulator.radix_cache`."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.request import Request

__all__ = ["Node", "Text", "shared_tokens"]

#: Where a request's own tokens end: further than any sequence.
_OPEN_END = 1 << 60


class Text:
    """What a request's tokens are part of: contents in order, and the number of tokens up to the end of each.

    Parameters
    ----------
    request
        Whose tokens; after its prefix comes a content of its own, which has no end.
    """

    __slots__ = ("contents", "ends")

    def __init__(self, request: Request) -> None:
        self.contents: Sequence[int] = (*request.prefix, request.own_content)
        self.ends: Sequence[int] = (*request.prefix_ends, _OPEN_END)

    def at(self, place: int) -> int:
        """Return the content of the token at a place."""
        contents = self.contents
        return contents[0] if len(contents) == 1 else contents[bisect_right(self.ends, place)]

    def slice(self, start: int, end: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the contents from one place to another, and their ends."""
        if len(self.contents) == 1:
            return self.contents, (end,)
        first, last = bisect_right(self.ends, start), bisect_right(self.ends, end - 1)
        return self.contents[first : last + 1], (*self.ends[first:last], end)


def shared_tokens(one: Request, other: Request) -> int:
    """Return the tokens that two requests begin with in common."""
    first, second, shared = Text(one), Text(other), 0
    for content, end, others, others_end in zip(first.contents, first.ends, second.contents, second.ends, strict=False):
        if content != others:
            break
        shared = min(end, others_end)
        if end != others_end:
            break
    return shared


class Node:
    """Tokens that follow each other, evicted together.

    Attributes
    ----------
    parent
        The node whose tokens come before; None for the root.
    children
        By the content of the last token of their first page, which tells pages apart that begin at one place.
    key
        What its parent finds it by.
    start, end
        Places of its tokens in a sequence.
    contents, ends
        What they are part of, and the place up to which each content goes.
    locks
        Requests that hold it, or a node below it.
    time
        When it was last looked at, by a clock that counts looks.
    queued
        It is among the leaves that wait to be evicted.
    """

    __slots__ = ("children", "contents", "end", "ends", "key", "locks", "parent", "queued", "start", "time")

    def __init__(  # noqa: PLR0913, PLR0917 - all that a node is
        self,
        parent: Node | None,
        key: int,
        start: int,
        end: int,
        contents: Sequence[int],
        ends: Sequence[int],
        time: int,
    ) -> None:
        self.parent, self.key = parent, key
        self.children: dict[int, Node] = {}
        self.start, self.end, self.contents, self.ends = start, end, contents, ends
        self.locks = 0
        self.time = time
        self.queued = False

    def common(self, text: Text, limit: int) -> int:
        """Return the place up to which a text has the node's tokens, ``limit`` at most."""
        place, number = self.start, bisect_right(text.ends, self.start)
        for content, end in zip(self.contents, self.ends, strict=True):
            if text.contents[number] != content:
                break
            place = min(end, text.ends[number])
            if place < end:
                break
            number += text.ends[number] == end
        return min(place, limit)

    def cut(self, place: int, rest_key: int, time: int) -> Node:
        """Cut the node in two at a place, and return the first part: a new node above this one.

        Parameters
        ----------
        place
            Where the second part begins, a page boundary.
        rest_key
            What the second part is found by.
        time
            When the first part was last looked at.
        """
        number = bisect_right(self.ends, place)
        begun = (self.ends[number - 1] if number else self.start) < place
        contents = self.contents[: number + begun]
        ends = (*self.ends[:number], place) if begun else self.ends[:number]
        parent = self.parent
        first = Node(parent, self.key, self.start, place, contents, ends, time)
        first.locks = self.locks
        first.children[rest_key] = self
        if parent is not None:
            parent.children[self.key] = first
        self.parent, self.key, self.start = first, rest_key, place
        self.contents, self.ends = self.contents[number:], self.ends[number:]
        return first
