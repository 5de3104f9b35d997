"""KV kept in host memory after its blocks on the chips are gone, the least recently used given up first.

Whatever a request leaves behind is written there as it leaves; chips and hosts talk both ways at once, and writing
delays nobody. While its blocks are on the chips they are found there, so that it does not matter that engines write
them earlier.
"""

from __future__ import annotations

from collections.abc import Iterable  # noqa: TC003 - looked up where this is compiled

from simulator.prefix_cache import PrefixCache
from simulator.radix_node import shared_tokens
from simulator.request import Request

__all__ = ["HostStore"]


class HostStore:
    """The host memory of one instance.

    Parameters
    ----------
    blocks, block_tokens
        Its capacity.

    Attributes
    ----------
    written, read
        Blocks copied to the host, and back.
    """

    __slots__ = ("_cache", "read", "written")

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self._cache = PrefixCache(blocks, block_tokens)
        self.written = self.read = 0

    def find(self, request: Request) -> int:
        """Return how many blocks from the start of a request's tokens are here; never all of its tokens."""
        return self._cache.find(request)[0]

    def comes(self, request: Request, here: int, others: Iterable[Request]) -> bool:
        """Tell whether blocks of a request, of which ``here`` are on the chips, are being copied there for others."""
        there, size = self.find(request), self._cache.block_tokens
        for other in others:
            first, last = max(here, other.found // size), min(there, other.computed // size)
            if first < last and first < shared_tokens(request, other) // size:
                return True
        return False

    def fetch(self, request: Request, blocks: int) -> None:
        """Note that ``blocks`` of a request's blocks are copied to the chips: what is here of it is given up last."""
        self.read += blocks
        cache, visitor = self._cache, _visitor(request, request.tokens)
        visitor.computed = cache.claim(visitor) * cache.block_tokens
        cache.release(visitor)

    def store(self, request: Request) -> None:
        """Keep the full blocks of a request that computed ``request.computed`` tokens, as many as there is room for."""
        cache = self._cache
        full = min(request.computed // cache.block_tokens, cache.blocks)
        visitor = _visitor(request, full * cache.block_tokens + 1)
        missing = full - cache.claim(visitor)
        self.written += missing
        visitor.computed = full * cache.block_tokens
        cache.take(missing)
        cache.register(visitor, visitor.computed)
        cache.release(visitor)


def _visitor(request: Request, tokens: int) -> Request:
    """Return a request of the same contents and so many tokens, to hold blocks for an instant."""
    visitor = Request(request.index, tokens)
    visitor.prefix, visitor.prefix_ends = request.prefix, request.prefix_ends
    visitor.epoch, visitor.named = request.epoch, request.named
    return visitor
