"""Prefix caching as vLLM V1 does it, by runs of blocks instead of block by block.

vLLM keeps the hash of a full block after its request is gone, until the block is handed out again. Blocks that
nobody uses wait in a queue: those without a hash in front, then the others as they were freed, each request's
from its last block to its first. What happens to a block depends only on what it holds and on who uses it, so
blocks of one content that lie side by side and share their users are kept as one piece
(:mod:`simulator.pieces`). Work is done where requests come, compute chunks and go, and it grows with the spans
of a prompt, not with its blocks.

A block is named by the content it belongs to and its position in the sequence. Contents are the spans of
``Request.prefix`` and, after them, a stream of the request's own: the rest of its prompt and what it produces.
Those can look for it who know its name, such as the next turn of a conversation, even while it grows; else nobody
but the request itself, and only after it was preempted. Blocks that nobody will look for keep their place in the
queue, but no name. What a decoding request adds to a stream of a name is written down when somebody looks for it.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import chain
from typing import TYPE_CHECKING

from hardware.errors import LawError
from simulator.kvcache import BlockPool
from simulator.pieces import Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simulator.request import Request

__all__ = ["PrefixCache"]


class PrefixCache(BlockPool):
    """Blocks that keep their content until they are taken again.

    Parameters
    ----------
    blocks, block_tokens
        As for :class:`simulator.kvcache.BlockPool`.
    blank_first
        Freed blocks that hold nothing to be found are taken before all others, as vLLM does since 0.24; else they
        queue with the others.

    Attributes
    ----------
    blank
        Free blocks that hold nothing to be found and go first: never used, or the last and partial one of a sequence.
    shows_growth
        A request's own stream can be found while it grows, as with vLLM; else once the request has left.
    growing
        Decoding requests whose own stream others may look for, by its name.
    """

    __slots__ = ("_known", "_queue", "blank", "blank_first", "growing", "shows_growth")

    def __init__(self, blocks: int, block_tokens: int, *, blank_first: bool = True) -> None:
        super().__init__(blocks, block_tokens)
        self.blank, self.blank_first = blocks, blank_first
        self.growing: dict[int, Request] = {}
        self.shows_growth = True
        self._known: dict[int, list[Piece]] = {}
        self._queue = Piece(0, 0, 0, 1)

    def take(self, blocks: int) -> None:
        """Take ``blocks`` free blocks: blank ones first, then those that have been free the longest."""
        self.allocated += blocks
        self.free = free = self.free - blocks
        self.least_free = min(self.least_free, free)
        self.blank = blank = self.blank - blocks
        if blank < 0:
            self._evict(-blank)

    def _evict(self, blocks: int) -> None:
        """Take the ``blocks`` blocks that have been free the longest of those that hold something."""
        self.blank = 0
        while blocks:
            piece = self._queue.newer
            size = piece.end - piece.start
            if size > blocks:
                piece.end -= blocks
                return
            if not size:
                raise LawError(f"{blocks} more KV blocks were taken than are free; this is a bug in servesim")
            blocks -= size
            piece.quit()
            if piece.content is not None:
                self._forget(piece, piece.content)

    def give(self, blocks: int) -> None:
        """Return ``blocks`` blocks that hold nothing to be found."""
        super().give(blocks)
        self.blank += blocks

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks from the start of a request's tokens are here, and how many of them are free.

        All full blocks but, as in vLLM, never all of its tokens: at least the last one is computed.
        """
        if not request.prefix and not request.epoch:
            return 0, 0
        place = idle = 0
        for _, piece, start, end in self._hits(request):
            place = end
            if not piece.users:
                idle += end - start
        return place, idle

    def claim(self, request: Request) -> int:
        """Let a request hold the blocks it finds here and return their number."""
        if not request.prefix and not request.epoch:
            return 0
        place, pieces = 0, request.pieces
        for content, found, start, end in self._hits(request):
            piece = self._cut(found, content, start) if found.start < start else found
            if end < piece.end:
                self._cut(piece, content, end)
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

    def catch_up(self, request: Request, known: Callable[[Request], int]) -> None:
        """Let a request find what those have added who decode and whose answers it goes on from, as far as known."""
        for content in request.prefix:
            other = self.growing.get(content)
            if other is not None:
                self.register(other, known(other))

    def waits_for_answer(self, request: Request) -> bool:
        """Tell whether a request finds the more, the longer somebody here decodes."""
        return bool(self.growing) and any(content in self.growing for content in request.prefix)

    def register(self, request: Request, tokens: int) -> None:
        """Let the blocks of a request be found as far as its first ``tokens`` tokens fill them and are known."""
        ends, named = request.prefix_ends, request.named and self.shows_growth
        if not (ends or named):
            return
        full = tokens // self.block_tokens
        place, span = request.held, bisect_right(ends, request.held * self.block_tokens)
        while place < full and span < len(ends):
            end = min(ends[span] // self.block_tokens, full)
            if end > place:
                request.pieces.append(self._learn(request.prefix[span], place, end, users=1))
                place = end
            span += 1
        if named and place < full:
            request.pieces.append(self._learn(request.own_content, place, full, users=1))
            place = full
        request.held = place

    def release(self, request: Request, known: int | None = None) -> None:
        """Give back the blocks of a request, its last ones first.

        Parameters
        ----------
        request
            It has blocks for ``request.computed`` tokens.
        known
            Tokens up to which its blocks can be found, at most a few less than those; None for all.
        """
        found = request.computed if known is None else known
        if not self.shows_growth:
            self.register(request, found)
        held, full = request.held, found // self.block_tokens
        rest = self.blocks_for(request.computed) - full
        if full < held:
            full, rest = held, 0
        own = full - held
        if self.blank_first:
            self.blank += rest
        elif rest:
            self.queue_blanks(rest)
        self.freed += rest
        self.free += own + rest
        self.freed += full
        queue = self._queue
        if own:
            if request.epoch or request.named:
                self._learn(request.own_content, held, full, users=0).join(queue)
            else:
                self.queue_blanks(own)
        if held:
            for piece in reversed(list(_parts(request))):
                piece.users -= 1
                if not piece.users:
                    piece.join(queue)
                    self.free += piece.end - piece.start
            request.held = 0
        request.pieces = []

    def queue_blanks(self, blocks: int) -> None:
        """Let blocks nobody will look for enter the queue; those of a request before the ones it computed."""
        last = self._queue.older
        if last.content is None:
            last.end += blocks
        else:
            Piece(None, 0, blocks, 0).join(self._queue)

    def first_missing(self, request: Request) -> tuple[int, int] | None:
        """Return (content, place) of the first full block of a request's tokens that is not here, if there is one.

        Tokens that nobody else can have do not count.
        """
        place, spans = 0, zip(request.prefix, request.prefix_ends, strict=True)
        for content, span_end in chain(spans, [(request.own_content, request.tokens)] if request.named else ()):
            end = span_end // self.block_tokens
            while place < end:
                piece = self._first_known(content, place)
                if piece is None:
                    return content, place
                place = min(piece.end, end)
        return None

    def clear(self) -> None:
        """Take all blocks back from whoever holds them, and forget what they hold."""
        self.freed, self.free, self.blank = self.allocated, self.blocks, self.blocks
        self.growing, self._known, self._queue = {}, {}, Piece(0, 0, 0, 1)

    def check(self) -> None:
        """Check that free blocks are blank or in the queue, each once, and that nobody holds any.

        Raises
        ------
        LawError
            If not.
        """
        known = sum(piece.end - piece.start for pieces in self._known.values() for piece in pieces)
        queued, named, piece = 0, 0, self._queue.newer
        while piece is not self._queue:
            size = piece.end - piece.start
            queued, named, piece = queued + size, named + size * (piece.content is not None), piece.newer
        if self.blank + queued != self.blocks or named != known:
            raise LawError(
                f"blocks blank + queued = blocks: found {self.blank} blank and {queued} queued ({named} of them named, "
                f"{known} known) of {self.blocks}; this is a bug in servesim, please report it"
            )

    def _hits(self, request: Request) -> Iterator[tuple[int, Piece, int, int]]:
        """Yield what serves a request from its start without a gap: content, piece, first block, end.

        A piece may be cut before the next one is asked for.
        """
        place, most = 0, (request.tokens - 1) // self.block_tokens
        for content, span_end in _contents(request):
            end = min(span_end // self.block_tokens, most)
            while place < end:
                piece = self._first_known(content, place)
                if piece is None:
                    return
                start, place = place, min(piece.end, end)
                yield content, piece, start, place

    def _first_known(self, content: int, place: int) -> Piece | None:
        """Return the piece whose block at ``place`` was known first, which is then so for all its later blocks.

        Whoever holds a block holds one for every place before it and gives those back later, so that of two
        pieces that overlap the older one has the earlier blocks.
        """
        for piece in self._known.get(content, ()):
            if piece.start <= place < piece.end:
                return piece
        return None

    def _learn(self, content: int, start: int, end: int, users: int) -> Piece:
        piece = Piece(content, start, end, users)
        known = self._known.get(content)
        if known is None:
            self._known[content] = [piece]
        else:
            known.append(piece)
        return piece

    def _forget(self, piece: Piece, content: int) -> None:
        pieces = self._known[content]
        if len(pieces) == 1:
            del self._known[content]
        else:
            pieces.remove(piece)

    def _cut(self, piece: Piece, content: int, place: int) -> Piece:
        """Cut a piece in two at ``place`` and return the second part."""
        second = Piece(content, place, piece.end, piece.users)
        piece.end, piece.rest, second.rest = place, second, piece.rest
        pieces = self._known[content]
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
        yield request.own_content, request.tokens


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
