"""Runs of KV blocks that hold one content and share their users; see :mod:`simulator.prefix_cache`."""

from __future__ import annotations

__all__ = ["Piece"]


class Piece:
    """Full blocks of one content, side by side, with the same users.

    Parameters
    ----------
    content
        What they hold; None if nobody will look for it, and then only their number means something.
    start, end
        Their positions in a sequence: blocks ``start`` to ``end - 1``.
    users
        Requests that hold them; without any they are free, but can be found until they are taken.

    Attributes
    ----------
    rest
        The piece cut off its end, which whoever held both goes on with.
    older, newer
        Neighbours in the queue of free pieces.
    """

    __slots__ = ("content", "end", "newer", "older", "rest", "start", "users")

    def __init__(self, content: int | None, start: int, end: int, users: int) -> None:
        self.content, self.start, self.end, self.users = content, start, end, users
        self.rest = self.older = self.newer = self

    def join(self, newer: Piece) -> None:
        """Enter the queue just before ``newer``."""
        older = newer.older
        self.older, self.newer = older, newer
        older.newer = newer.older = self

    def quit(self) -> None:
        """Leave the queue."""
        self.older.newer, self.newer.older = self.newer, self.older
