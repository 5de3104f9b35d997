"""A store of features, shared by all instances and keyed by what was encoded."""

from __future__ import annotations

from math import inf

__all__ = ["FeatureStore"]


class FeatureStore:
    """Features by the content they were made of, the one that was used longest ago dropped where room is short.

    As EPD-Serve's MM Store (arXiv 2601.11590, section 3.2): a content that is there is neither encoded again nor
    sent again by whoever encoded it. What somebody is about to fetch stays until that is done.

    Parameters
    ----------
    capacity_bytes
        Of all features together; features for which no room can be made are not kept.

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
        self._pins: dict[int, int] = {}
        self.asked = self.hits = self.held_bytes = self.dropped = 0

    def __contains__(self, content: int) -> bool:
        return content in self._sizes

    @property
    def pinned(self) -> int:
        """Contents that must stay."""
        return len(self._pins)

    def use(self, content: int) -> bool:
        """Tell whether features are there, which are used now if so."""
        size = self._sizes.pop(content, None)
        if size is None:
            return False
        self._sizes[content] = size
        return True

    def pin(self, content: int) -> None:
        """Let features stay that are there until :meth:`unpin` was called as often."""
        self._pins[content] = self._pins.get(content, 0) + 1

    def unpin(self, content: int) -> None:
        """Let features go as far as one caller of :meth:`pin` is concerned."""
        self._pins[content] -= 1
        if not self._pins[content]:
            del self._pins[content]

    def put(self, content: int, size_bytes: int) -> bool:
        """Keep features that were made now; tell whether there is room for them."""
        if self.use(content):
            return True
        over, drops = self.held_bytes + size_bytes - self.capacity_bytes, []
        for old, size in self._sizes.items():
            if over <= 0:
                break
            if old not in self._pins:
                drops.append(old)
                over -= size
        if over > 0:
            return False
        for old in drops:
            self.held_bytes -= self._sizes.pop(old)
        self.dropped += len(drops)
        self._sizes[content] = size_bytes
        self.held_bytes += size_bytes
        return True
