"""Prefix caching as vLLM V1 does it, by runs of blocks instead of block by block.

vLLM keeps the hash of a full block after its request is gone, until the block is handed out again. Blocks that
nobody uses wait in a queue: those without a hash in front, then the others as they were freed, each request's
from its last block to its first. What happens to a block depends only on what it holds and on who uses it, so
blocks of one content that lie side by side and share their users are kept as one :class:`simulator.pieces.Piece`. Work is done
where requests come, compute chunks and go, and it grows with the spans of a prompt, not with its blocks.

A block is named by the content it belongs to and its position in the sequence. Contents are the spans of
:attr:`simulator.request.Request.prefix` and, after them, a stream of the request's own (:func:`simulator.pieces.own_content`):
the rest of its prompt and what it produces. Nobody but the request itself can look for that one before it
leaves the instance; afterwards those can who know its name, such as the next turn of a conversation.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from hardware.errors import LawError
from simulator.kvcache import BlockPool
from simulator.pieces import Piece, own_content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulator.request import Request

__all__ = ["PrefixCache"]


class PrefixCache(BlockPool):
    """Blocks that keep their content until they are taken again.

    Parameters
    ----------
    blocks, block_tokens
        As for :class:`simulator.kvcache.BlockPool`.

    Attributes
    ----------
    blank
        Free blocks that hold nothing to be found: never used, or the last and partial one of a sequence.
    """

    __slots__ = ("_known", "_queue", "blank")

    def __init__(self, blocks: int, block_tokens: int) -> None:
        super().__init__(blocks, block_tokens)
        self.blank = blocks
        self._known: dict[int, list[Piece]] = {}
        self._queue = Piece(0, 0, 0, 1)

    def take(self, blocks: int) -> None:
        """Take ``blocks`` free blocks: blank ones first, then those that have been free the longest."""
        super().take(blocks)
        self.blank -= blocks
        while self.blank < 0:
            piece = self._queue.newer
            size = piece.end - piece.start
            if size > -self.blank:
                piece.end += self.blank
                self.blank = 0
                return
            self.blank += size
            piece.quit()
            self._forget(piece)

    def give(self, blocks: int) -> None:
        """Return ``blocks`` blocks that hold nothing to be found."""
        super().give(blocks)
        self.blank += blocks

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks from the start of a request's tokens are here, and how many of them are free.

        All full blocks but, as in vLLM, never all of its tokens: at least the last one is computed.
        """
        place = idle = 0
        for piece, start, end in self._hits(request):
            place = end
            if not piece.users:
                idle += end - start
        return place, idle

    def claim(self, request: Request) -> int:
        """Let a request hold the blocks it finds here and return their number."""
        place, pieces = 0, request.pieces
        for found, start, end in self._hits(request):
            piece = self._cut(found, start) if found.start < start else found
            if end < piece.end:
                self._cut(piece, end)
            if not piece.users:
                piece.quit()
                self.free -= end - start
            piece.users += 1
            pieces.append(piece)
            place = end
        self.allocated += place
        self.least_free = min(self.least_free, self.free)
        request.held = place
        return place

    def register(self, request: Request, tokens: int) -> None:
        """Let the blocks of a request be found as far as its first ``tokens`` tokens fill them and are known."""
        full, ends = tokens // self.block_tokens, request.prefix_ends
        place, span = request.held, bisect_right(ends, request.held * self.block_tokens)
        while place < full and span < len(ends):
            end = min(ends[span] // self.block_tokens, full)
            if end > place:
                request.pieces.append(self._learn(request.prefix[span], place, end, users=1))
                place = end
            span += 1
        request.held = place

    def release(self, request: Request) -> None:
        """Give back the blocks of a request that computed ``request.computed`` tokens; its last ones go first."""
        held = request.held
        full = max(request.computed // self.block_tokens, held)
        total = max(self.blocks_for(request.computed), held)
        self.freed += total
        self.free += total - held
        self.blank += total - full
        queue = self._queue
        if full > held:
            self._learn(own_content(request.index), held, full, users=0).join(queue)
        for piece in reversed(list(_parts(request))):
            piece.users -= 1
            if not piece.users:
                piece.join(queue)
                self.free += piece.end - piece.start
        request.pieces, request.held = [], 0

    def check(self) -> None:
        """Check that free blocks are blank or in the queue, each once, and that nobody holds any.

        Raises
        ------
        LawError
            If not.
        """
        cached = sum(piece.end - piece.start for pieces in self._known.values() for piece in pieces)
        queued, piece = 0, self._queue.newer
        while piece is not self._queue:
            queued += piece.end - piece.start
            piece = piece.newer
        if not self.blank + queued == self.blank + cached == self.blocks:
            raise LawError(
                f"blocks blank + cached = blocks: found {self.blank} blank, {queued} queued and {cached} cached of "
                f"{self.blocks}; this is a bug in servesim, please report it"
            )

    def _hits(self, request: Request) -> Iterator[tuple[Piece, int, int]]:
        """Yield the pieces that serve a request from its start without a gap, each with the blocks it serves.

        A piece may be cut before the next one is asked for.
        """
        place, most = 0, (request.tokens - 1) // self.block_tokens
        for content, span_end in _contents(request):
            end = min(span_end // self.block_tokens, most)
            while place < end:
                piece, upto = self._serving(content, place)
                if piece is None:
                    return
                start, place = place, min(upto, end)
                yield piece, start, place

    def _serving(self, content: int, place: int) -> tuple[Piece | None, int]:
        """Return the piece whose block at ``place`` was known first, and the block up to which this is so."""
        upto = 1 << 62
        for piece in self._known.get(content, ()):
            if piece.start <= place < piece.end:
                return piece, min(upto, piece.end)
            if piece.start > place:
                upto = min(upto, piece.start)
        return None, place

    def _learn(self, content: int, start: int, end: int, users: int) -> Piece:
        piece = Piece(content, start, end, users)
        known = self._known.get(content)
        if known is None:
            self._known[content] = [piece]
        else:
            known.append(piece)
        return piece

    def _forget(self, piece: Piece) -> None:
        pieces = self._known[piece.content]
        if len(pieces) == 1:
            del self._known[piece.content]
        else:
            pieces.remove(piece)

    def _cut(self, piece: Piece, place: int) -> Piece:
        """Cut a piece in two at ``place`` and return the second part."""
        second = Piece(piece.content, place, piece.end, piece.users)
        piece.end, piece.rest, second.rest = place, second, piece.rest
        pieces = self._known[piece.content]
        pieces.insert(pieces.index(piece) + 1, second)
        if not piece.users:
            # Freed from its end: the second part is the older one.
            second.join(piece)
        return second


def _contents(request: Request) -> Iterator[tuple[int, int]]:
    """Yield what a request's tokens are part of, each with the number of tokens up to its end."""
    yield from zip(request.prefix, request.prefix_ends, strict=True)
    if request.epoch:
        # Only what was here before can find what it left behind.
        yield own_content(request.index), request.tokens


def _parts(request: Request) -> Iterator[Piece]:
    """Yield the pieces a request holds, in order, those cut off since they were taken among them."""
    pieces = request.pieces
    for number, piece in enumerate(pieces):
        end = pieces[number + 1].start if number + 1 < len(pieces) else request.held
        part = piece
        yield part
        while part.end < end:
            part = part.rest
            yield part
