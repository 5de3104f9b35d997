"""Room for features on an instance that encodes: those that somebody waits for, and those kept for equal inputs."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FeatureRoom"]


class FeatureRoom:
    """Features by the content they are made of, counted in tokens.

    Features that somebody needs stay; the others are kept for equal inputs while there is room, the one that was used
    longest ago dropped first.

    Parameters
    ----------
    capacity
        Tokens of all features together. Who asks for more than that gets it where nobody else has any.
    reusable
        Tokens of those that nobody needs.

    Attributes
    ----------
    needed, idle
        Tokens of features that somebody needs, and of those kept.
    peak
        The most of both together.
    """

    def __init__(self, capacity: float = inf, reusable: float = 0) -> None:
        self.capacity, self.reusable = capacity, reusable
        self.needed = self.idle = self.peak = 0
        self._users: dict[int, dict[tuple[int, int], None]] = {}
        self._tokens: dict[int, int] = {}
        self._made: dict[int, None] = {}
        self._kept: dict[int, int] = {}

    def __contains__(self, content: int) -> bool:
        """Whether the features of a content are there, needed or kept."""
        return content in self._made or content in self._kept

    def fits(self, sizes: Mapping[int, int]) -> bool:
        """Tell whether there is room for contents of so many tokens once what nobody needs is dropped."""
        more = sum(tokens for content, tokens in sizes.items() if content not in self._users)
        return not self._users or self.needed + more <= self.capacity

    def hold(self, content: int, tokens: int, user: tuple[int, int]) -> None:
        """Let somebody need the features of a content, there or to be made, whether or not there is room."""
        users = self._users.get(content)
        if users is None:
            users = self._users[content] = {}
            self._tokens[content] = tokens
            self.needed += tokens
            if self._kept.pop(content, None) is not None:
                self.idle -= tokens
                self._made[content] = None
            self._drop()
            self.peak = max(self.peak, self.needed + self.idle)
        users[user] = None

    def made(self, content: int) -> None:
        """Take note that features were made; nobody may need them any more."""
        if content in self._users:
            self._made[content] = None

    def release(self, content: int, user: tuple[int, int]) -> None:
        """Let somebody need features no more."""
        users = self._users[content]
        users.pop(user, None)
        if users:
            return
        del self._users[content]
        tokens = self._tokens.pop(content)
        self.needed -= tokens
        if content in self._made:
            del self._made[content]
            self._kept[content] = tokens
            self.idle += tokens
            self._drop()

    def _drop(self) -> None:
        while self._kept and (self.idle > self.reusable or self.needed + self.idle > self.capacity):
            self.idle -= self._kept.pop(next(iter(self._kept)))
