"""Prefix caching as SGLang does it: a radix tree whose nodes are kept or evicted whole.

A node holds pages of KV that follow each other. Where a sequence leaves the path of another inside a node, the node
is cut there. What a request computed enters the tree when its prompt, or a chunk of it, is computed, and when it is
finished; a request holds the path from the root to the last node of its own, and pages of its own after that. Nodes
that nobody holds can be evicted, leaves first, and of those the one that was looked at the longest ago.

Order of looks as in SGLang 0.5.23 (``mem_cache/unified_cache/unified_tree_core.py``): a match looks at the nodes of
its path, the last one latest, and a cut counts as a look at the second part. Tokens are never walked one by one: a
node knows the contents its tokens are part of (:attr:`simulator.request.Request.prefix`), so that work grows with
the spans of a prompt.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from hardware.errors import LawError
from simulator.kvcache import BlockPool
from simulator.radix_node import Node, Text

if TYPE_CHECKING:
    from simulator.request import Request

__all__ = ["RadixCache"]


class RadixCache(BlockPool):
    """Pages that a radix tree keeps until they are needed for something else.

    Parameters
    ----------
    blocks, block_tokens
        Pages, and tokens of one; as for :class:`simulator.kvcache.BlockPool`.
    keeps
        There is a tree; without one, pages are free when their request goes.

    Attributes
    ----------
    blank
        Free pages that are in no node; the other ``free`` ones are in nodes that nobody holds.
    """

    __slots__ = ("_last", "_leaves", "_look", "_root", "_serial", "blank", "keeps")

    def __init__(self, blocks: int, block_tokens: int, *, keeps: bool = True) -> None:
        super().__init__(blocks, block_tokens)
        self.blank, self.keeps = blocks, keeps
        self._grow_tree()

    def _grow_tree(self) -> None:
        self._root = Node(None, 0, 0, 0, (), (), 0)
        self._root.locks = 1
        #: The last node of the path that a request holds, by its index.
        self._last: dict[int, Node] = {}
        self._leaves: list[tuple[int, int, Node]] = []
        self._look = self._serial = 0

    # --- pages ---------------------------------------------------------------------------------------

    def take(self, blocks: int) -> None:
        """Take free pages, evicting nodes if too few are blank."""
        if self.blank < blocks:
            self.evict(blocks)
        self.blank -= blocks
        self.free -= blocks
        self.allocated += blocks
        if self.free < self.least_free:  # noqa: PLR1730 - a call of min costs more
            self.least_free = self.free

    def extend(self, tokens: int, more: int) -> None:
        """Take the pages that a sequence of so many tokens needs for ``more`` of them."""
        size = self.block_tokens
        self.take(more if size == 1 else -(-(tokens + more) // size) + -tokens // size)

    def give(self, blocks: int) -> None:
        """Return pages that are in no node."""
        self.blank += blocks
        self.free += blocks
        self.freed += blocks

    def take_run(self, step: int, steps: int) -> None:
        """Take the pages of decode steps; SGLang makes room for a page of every sequence before each of them."""
        if self.block_tokens == 1:
            self.take(self.sequences * steps)
            return
        room = self.needed(step, steps - 1) + self.sequences
        if self.blank < room:
            self.evict(room)
        self.take(self.needed(step, steps))

    def take_until(self, step: int, end: int) -> None:
        """Take the pages of the steps from step counter ``step`` to ``end``, but for those taken this way before."""
        if step < self.taken_until:  # noqa: PLR1730 - a call of max costs more
            step = self.taken_until
        if step < end:
            if self.block_tokens == 1:
                self.take(self.sequences * (end - step))
            else:
                self.take_run(step, end - step)
            self.taken_until = end

    def evict(self, blocks: int) -> None:
        """Evict nodes, each whole, until so many pages are blank or none is left to evict."""
        leaves = self._leaves
        while self.blank < blocks and leaves:
            time, _, node = heappop(leaves)
            node.queued = False
            if node.locks or node.children:
                continue
            if node.time != time:
                self._offer(node)
                continue
            self._evict_path(node, blocks)

    def _evict_path(self, node: Node, blocks: int) -> None:
        """Evict a leaf, and then what it leaves bare as long as that is next and pages are missing."""
        leaves = self._leaves
        while True:
            self.blank += (node.end - node.start) // self.block_tokens
            parent = node.parent
            assert parent is not None  # noqa: S101 - the root is always locked
            del parent.children[node.key]
            if parent.locks or parent.children or parent.queued:
                return
            if self.blank >= blocks or (leaves and leaves[0][0] <= parent.time):
                self._offer(parent)
                return
            node = parent

    def _offer(self, node: Node) -> None:
        """Let a node be evicted if it is a leaf that nobody holds."""
        if not (node.locks or node.children or node.queued):
            self._serial += 1
            node.queued = True
            heappush(self._leaves, (node.time, self._serial, node))

    # --- finding -------------------------------------------------------------------------------------

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many pages of a request are here, and how many of them nobody holds; nothing is looked at."""
        if not self.keeps:
            return 0, 0
        text, size = Text(request), self.block_tokens
        node, place, idle = self._root, 0, 0
        limit = (request.tokens - 1) // size * size
        while place < limit:
            child = node.children.get(text.at(place + size - 1))
            if child is None:
                break
            end = child.common(text, limit) // size * size
            if not child.locks:
                idle += end - place
            place, node = end, child
            if place < child.end:
                break
        return place // size, idle // size

    def match(self, request: Request, tokens: int) -> tuple[int, Node]:
        """Return how many of the first ``tokens`` tokens are here, in whole pages, and the node they end with."""
        root, size = self._root, self.block_tokens
        limit = tokens // size * size
        if not (self.keeps and limit) or not (request.prefix or request.epoch):
            return 0, root
        text, node, place = Text(request), root, 0
        while place < limit:
            child = node.children.get(text.at(place + size - 1))
            if child is None:
                break
            place = child.common(text, limit) // size * size
            if place < child.end:
                node = self._cut(child, place)
                break
            node = child
        self._look_at(node)
        return place, node

    def _look_at(self, node: Node) -> None:
        """Look at a path, its last node latest."""
        self._look += 1
        # As many places as a path may be long lie between two looks.
        time = self._look << 20
        walked: Node | None = node
        while walked is not None:
            walked.time = time
            time -= 1
            walked = walked.parent

    def _touch(self, node: Node) -> None:
        self._look += 1
        node.time = self._look << 20

    def _cut(self, node: Node, place: int) -> Node:
        """Cut a node in two and return the first part."""
        self._look += 1
        last = place + self.block_tokens - 1
        rest_key = next(content for content, end in zip(node.contents, node.ends, strict=True) if end > last)
        first = node.cut(place, rest_key, self._look << 20)
        self._touch(node)
        return first

    # --- holding -------------------------------------------------------------------------------------

    def evictable(self, node: Node) -> int:
        """Return the pages on the path to a node that nobody holds."""
        tokens, walked = 0, node
        while not walked.locks:
            tokens += walked.end - walked.start
            assert walked.parent is not None  # noqa: S101 - the root is always locked
            walked = walked.parent
        return tokens // self.block_tokens

    def hold(self, request: Request, node: Node) -> None:
        """Let a request that is admitted hold a path."""
        if self.keeps:
            if node is not self._root:
                self._lock(node, self._root)
            self._last[request.index] = node

    def claim(self, request: Request) -> int:
        """Let a request hold what of its tokens is here, but for the last one, and return the pages."""
        tokens, node = self.match(request, request.tokens - 1)
        self.hold(request, node)
        request.held = tokens // self.block_tokens
        return request.held

    def _lock(self, node: Node, held: Node) -> None:
        """Let a request hold a path whose part up to a node it holds already."""
        taken, walked = 0, node
        while walked is not held:
            if not walked.locks:
                taken += walked.end - walked.start
            walked.locks += 1
            assert walked.parent is not None  # noqa: S101 - the root is held by whoever holds anything
            walked = walked.parent
        if taken:
            taken //= self.block_tokens
            self.free -= taken
            self.allocated += taken
            self.least_free = min(self.least_free, self.free)

    def _unlock(self, node: Node) -> None:
        given, walked = 0, node
        while walked.parent is not None:
            walked.locks -= 1
            if not walked.locks:
                given += walked.end - walked.start
                if not walked.children:
                    self._offer(walked)
            walked = walked.parent
        if given:
            given //= self.block_tokens
            self.free += given
            self.freed += given

    def register(self, request: Request, tokens: int) -> None:
        """Do nothing: KV that was fetched enters the tree when its request is finished."""

    def checkpoint(self, request: Request, tokens: int, prompt: int) -> None:
        """Let what a request has computed enter the tree.

        Parameters
        ----------
        request
            Whose first ``tokens`` tokens are computed.
        tokens
            How many; whole pages of them enter.
        prompt
            Its prompt: a node of it ends there, so that the answer can be evicted without it.

        Nothing enters of a request that holds no path.
        """
        old = self._last.get(request.index)
        if old is None:
            return
        node = self._enter(request, tokens, prompt, old)
        if old is not node:
            self._lock(node, old)
            self._last[request.index] = node
        request.held = tokens // self.block_tokens

    def _enter(self, request: Request, tokens: int, prompt: int, old: Node) -> Node:
        """Enter what a request has computed whose path ends with ``old``; return the node it ends with now."""
        size = self.block_tokens
        end, cut, held, text = tokens // size * size, prompt // size * size, request.held * size, Text(request)
        known, node = self._insert(text, end, old, held)
        if held < known:
            # Somebody else computed the same meanwhile.
            self.give((known - held) // size)
        added = (end - known) // size
        self.free += added
        self.freed += added
        if 0 < cut < end:
            if cut == held:
                self._look_at(old)
            elif cut > held:
                self._insert(text, cut, old, held)
            else:
                self._insert(text, cut, self._root, 0)
        return node

    def retire(self, request: Request, tokens: int, prompt: int) -> None:
        """Let all that a finished request has computed enter the tree, and give its pages back."""
        if not self.keeps:
            self.give(self.blocks_for(tokens))
            return
        old = self._last.pop(request.index)
        node = self._enter(request, tokens, prompt, old)
        if tokens % self.block_tokens:
            self.give(1)
        request.held = 0
        self._unlock(old)
        self._offer(node)

    def _insert(self, text: Text, end: int, node: Node, place: int) -> tuple[int, Node]:
        """Enter the first ``end`` tokens of a text; return how many were there, and the node they end with.

        The first ``place`` of them are known to be there and to end with ``node``.
        """
        size = self.block_tokens
        self._look_at(node)
        while place < end:
            key = text.at(place + size - 1)
            child = node.children.get(key)
            if child is None:
                self._look += 1
                contents, ends = text.slice(place, end)
                leaf = node.children[key] = Node(node, key, place, end, contents, ends, self._look << 20)
                return place, leaf
            self._touch(child)
            place = child.common(text, end) // size * size
            node = self._cut(child, place) if place < child.end else child
        return place, node

    def release(self, request: Request) -> None:
        """Give back the pages of a request that computed ``request.computed`` tokens, and the path it holds."""
        self.give(self.blocks_for(request.computed) - request.held)
        request.held = 0
        if self.keeps:
            self._unlock(self._last.pop(request.index))

    # --- the end -------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Take all pages back from whoever holds them, and forget what they hold."""
        self.freed, self.free, self.blank = self.allocated, self.blocks, self.blocks
        self._grow_tree()

    def check(self) -> None:
        """Check that free pages are blank or in the tree, each once, and that nobody holds any.

        Raises
        ------
        LawError
            If not.
        """
        kept = held = 0
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            kept += node.end - node.start
            held += node.locks
            nodes.extend(node.children.values())
        kept //= self.block_tokens
        if self.blank + kept != self.blocks or held != 1 or self._last:
            raise LawError(
                f"pages blank + kept = pages: found {self.blank} blank and {kept} kept of {self.blocks}, and "
                f"{held - 1} locks; this is a bug in servesim, please report it"
            )

    @property
    def root(self) -> Node:
        """The root of the tree, for those who walk it."""
        return self._root
