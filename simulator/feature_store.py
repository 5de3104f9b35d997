"""A store of features, shared by all instances and keyed by what was encoded."""

from __future__ import annotations

from math import inf

__all__ = ["FeatureStore"]


class FeatureStore:
    """Features by the content they were made of, the one that was used longest ago dropped where room is short.

    As EPD-Serve's MM Store (arXiv 2601.11590, section 3.2): a content that is there is neither encoded again nor
    sent again by whoever encoded it.

    Parameters
    ----------
    capacity_bytes
        Of all features together; features larger than that are not kept.

    Attributes
    ----------
    asked, hits
        Contents looked for, and those that were there or being encoded already.
    held_bytes, dropped
        Bytes that are there, and contents dropped to make room.
    """

    def __init__(self, capacity_bytes: float = inf) -> None:
        self.capacity_bytes = capacity_bytes
        self._sizes: dict[int, int] = {}
        self.asked = self.hits = self.held_bytes = self.dropped = 0

    def __contains__(self, content: int) -> bool:
        return content in self._sizes

    def use(self, content: int) -> bool:
        """Tell whether features are there, which are used now if so."""
        size = self._sizes.pop(content, None)
        if size is None:
            return False
        self._sizes[content] = size
        return True

    def put(self, content: int, size_bytes: int) -> None:
        """Keep features that were made now."""
        if self.use(content) or size_bytes > self.capacity_bytes:
            return
        self._sizes[content] = size_bytes
        self.held_bytes += size_bytes
        while self.held_bytes > self.capacity_bytes:
            oldest = next(iter(self._sizes))
            self.held_bytes -= self._sizes.pop(oldest)
            self.dropped += 1
