"""Paged KV blocks of one instance, counted without looking at its sequences one by one.

A decoding sequence takes a block whenever the tokens in its cache are a multiple of the block size. All
decoding sequences advance together, so the step at which each does so, modulo the block size, never changes:
``growth[r]`` counts the sequences that take a block at steps congruent to ``r``.
"""

from __future__ import annotations

__all__ = ["BlockPool"]


class BlockPool:
    """Free blocks, and how fast the decoding sequences take them.

    Parameters
    ----------
    blocks
        Blocks that sequences can use.
    block_tokens
        Tokens of one block.
    """

    __slots__ = (
        "allocated",
        "block_tokens",
        "blocks",
        "free",
        "freed",
        "growth",
        "least_free",
        "sequences",
        "taken_until",
    )

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.blocks = self.free = self.least_free = blocks
        self.block_tokens = block_tokens
        self.growth = [0] * block_tokens
        self.sequences = 0
        self.allocated = self.freed = 0
        self.taken_until = 0

    def blocks_for(self, tokens: int) -> int:
        """Return the blocks that hold ``tokens`` tokens."""
        return -(-tokens // self.block_tokens)

    def take(self, blocks: int) -> None:
        """Take ``blocks`` free blocks; the caller has checked that they are there."""
        self.free -= blocks
        self.allocated += blocks
        if self.free < self.least_free:  # noqa: PLR1730 - a call of min costs more
            self.least_free = self.free

    def give(self, blocks: int) -> None:
        """Return ``blocks`` blocks to the free ones."""
        self.free += blocks
        self.freed += blocks

    def join(self, anchor: int) -> None:
        """Count a sequence that starts to decode; see :attr:`Request.anchor`."""
        self.growth[-anchor % self.block_tokens] += 1
        self.sequences += 1

    def leave(self, anchor: int) -> None:
        """Count a sequence that no longer decodes."""
        self.growth[-anchor % self.block_tokens] -= 1
        self.sequences -= 1

    def needed(self, step: int, steps: int) -> int:
        """Return the blocks the decoding sequences take in ``steps`` steps from step counter ``step``."""
        size, growth = self.block_tokens, self.growth
        start = step % size
        if steps == 1:
            return growth[start]
        end = start + steps % size
        blocks = steps // size * self.sequences + sum(growth[start:end])
        return blocks + sum(growth[: end - size]) if end > size else blocks

    def take_run(self, step: int, steps: int) -> None:
        """Take the blocks of ``steps`` steps from step counter ``step``."""
        if blocks := self.needed(step, steps):
            self.take(blocks)

    def take_until(self, step: int, end: int) -> None:
        """Take the blocks of the steps from step counter ``step`` to ``end``, but for those taken this way before."""
        if step < self.taken_until:  # noqa: PLR1730 - a call of max costs more
            step = self.taken_until
        if step < end:
            if blocks := self.needed(step, end - step):
                self.take(blocks)
            self.taken_until = end

    def lasting(self, step: int, spare: int = 0) -> int:
        """Return a number of steps from step counter ``step`` for which the free blocks surely suffice.

        Whole rounds of ``block_tokens`` steps, in which every sequence takes one block; the exact number where
        not even one round fits; 0 where there are no sequences. ``spare`` blocks stay free.
        """
        sequences, left = self.sequences, self.free - spare
        if left >= sequences:
            return left // sequences * self.block_tokens if sequences else 0
        steps = 0
        while left >= self.growth[(step + steps) % self.block_tokens]:
            left -= self.growth[(step + steps) % self.block_tokens]
            steps += 1
        return steps
