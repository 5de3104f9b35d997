"""vLLM V1 with prefix caching, token by token: real tokens, a real table of blocks, a real queue of free ones.

A block is known by all tokens up to its end. Every full block is looked up, counted, queued and taken on its
own; nothing is shared with the engine but the prices and the order of decisions in ``vllm_oracle``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from vllm_oracle import Oracle, Sequence


@dataclass
class Told(Sequence):
    """A sequence whose tokens are known one by one."""

    text: list = field(default_factory=list)
    registered: int = 0
    cached: int = -1

    def label(self, block: int, block_tokens: int) -> tuple:
        end = (block + 1) * block_tokens
        answer = [(-1 - self.index, place) for place in range(len(self.text), end)]
        return tuple(self.text[:end] + answer)


@dataclass
class CachingOracle(Oracle):
    """The oracle with blocks that keep what they hold."""

    def run(self, arrivals, texts, outputs) -> list[Told]:
        self.used, self.holds = [0] * self.blocks, [None] * self.blocks
        self.where: dict[tuple, dict[int, None]] = {}
        everything = [
            Told(i, len(text), output, text=text) for i, (text, output) in enumerate(zip(texts, outputs, strict=True))
        ]
        return self.serve(everything, arrivals, deque(range(self.blocks)))

    def _found(self, sequence) -> list[int]:
        blocks = []
        for block in range((sequence.tokens - 1) // self.block_tokens):
            holders = self.where.get(sequence.label(block, self.block_tokens))
            if not holders:
                break
            blocks.append(next(iter(holders)))
        return blocks

    def _grow(self, sequence, tokens, free) -> bool:
        missing = -(-tokens // self.block_tokens) - len(sequence.blocks)
        if missing > len(free):
            return False
        for _ in range(missing):
            block = free.popleft()
            if self.holds[block] is not None:
                del self.where[self.holds[block]][block]
                self.holds[block] = None
            self.used[block] = 1
            sequence.blocks.append(block)
        self._register(sequence, tokens)
        return True

    def _register(self, sequence, tokens) -> None:
        for place in range(sequence.registered, tokens // self.block_tokens):
            label, block = sequence.label(place, self.block_tokens), sequence.blocks[place]
            self.holds[block] = label
            self.where.setdefault(label, {})[block] = None
        sequence.registered = max(sequence.registered, tokens // self.block_tokens)

    def _free(self, sequence, free) -> None:
        self._register(sequence, sequence.computed)
        empty, full = [], []
        for block in reversed(sequence.blocks):
            self.used[block] -= 1
            if not self.used[block]:
                (empty if self.holds[block] is None else full).append(block)
        free.extendleft(reversed(empty))
        free.extend(full)
        sequence.blocks, sequence.registered = [], 0

    def _admit_first(self, sequence, budget, free):
        """Return the tokens the first of the queue computes, or None if it cannot be admitted."""
        found = self._found(sequence)
        past = len(found) * self.block_tokens
        new = min(sequence.tokens - past, budget)
        tokens = sequence.tokens if self.reserve_full_prompt else past + new
        idle = sum(not self.used[block] for block in found)
        if -(-tokens // self.block_tokens) - len(found) + idle > len(free):
            return None
        for block in found:
            if not self.used[block]:
                free.remove(block)
            self.used[block] += 1
        sequence.blocks, sequence.registered, sequence.computed = list(found), len(found), past
        if sequence.cached < 0:
            sequence.cached = past
        assert self._grow(sequence, past + new, free)
        return new
