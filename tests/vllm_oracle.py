"""An independent, slow model of vLLM V1: one object per sequence, one block table each, one step at a time.

It follows the published order of decisions word by word and shares no code with the engine but the prices.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class Sequence:
    index: int
    prompt: int
    output: int
    produced: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    admitted_ns: int = -1
    first_ns: int = -1
    finish_ns: int = -1
    preemptions: int = 0
    decoding: bool = False
    token_ns: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.prompt + self.produced


@dataclass
class Oracle:
    prices: object
    blocks: int
    block_tokens: int
    max_tokens: int
    max_sequences: int
    reserve_full_prompt: bool = True

    def run(self, arrivals, prompts, outputs) -> list[Sequence]:
        everything = [Sequence(i, p, o) for i, (p, o) in enumerate(zip(prompts, outputs, strict=True))]
        return self.serve(everything, arrivals, deque(range(self.blocks)))

    def serve(self, everything, arrivals, free):
        coming = deque(everything)
        waiting: deque[Sequence] = deque()
        running: list[Sequence] = []
        now = 0
        while coming or waiting or running:
            if not waiting and not running:
                now = max(now, arrivals[coming[0].index])
            while coming and arrivals[coming[0].index] <= now:
                waiting.append(coming.popleft())
            scheduled = self._schedule(running, waiting, free, now)
            if scheduled:
                now += self._price(scheduled)
                self._update(scheduled, running, free, now)
        return everything

    def _grow(self, sequence, tokens, free) -> bool:
        missing = -(-tokens // self.block_tokens) - len(sequence.blocks)
        if missing > len(free):
            return False
        sequence.blocks.extend(free.popleft() for _ in range(missing))
        return True

    def _schedule(self, running, waiting, free, now):
        scheduled: dict[int, tuple[Sequence, int]] = {}
        budget, preempted, place = self.max_tokens, False, 0
        while place < len(running) and budget > 0:
            sequence = running[place]
            new = min(sequence.tokens - sequence.computed, budget)
            alive = True
            while not self._grow(sequence, sequence.computed + new, free):
                victim = running.pop()
                self._free(victim, free)
                victim.computed, victim.decoding = 0, False
                victim.preemptions += 1
                waiting.appendleft(victim)
                preempted = True
                if victim is sequence:
                    alive = False
                    break
            if not alive:
                break
            scheduled[sequence.index] = (sequence, new)
            budget -= new
            place += 1
        while waiting and not preempted and budget > 0 and len(running) < self.max_sequences:
            sequence = waiting[0]
            new = self._admit_first(sequence, budget, free)
            if new is None:
                break
            waiting.popleft()
            running.append(sequence)
            if sequence.admitted_ns < 0:
                sequence.admitted_ns = now
            scheduled[sequence.index] = (sequence, new)
            budget -= new
        return list(scheduled.values())

    def _admit_first(self, sequence, budget, free):
        """Return the tokens the first of the queue computes, or None if it cannot be admitted."""
        new = min(sequence.tokens, budget)
        whole = -(-sequence.tokens // self.block_tokens)
        if self.reserve_full_prompt and whole > len(free):
            return None
        return new if self._grow(sequence, new, free) else None

    def _free(self, sequence, free) -> None:
        free.extend(sequence.blocks)
        sequence.blocks = []

    def _price(self, scheduled) -> int:
        decodes = [s for s, _ in scheduled if s.decoding]
        chunks = [(s, new) for s, new in scheduled if not s.decoding]
        context = sum(s.computed for s in decodes) // len(decodes) if decodes else 0
        if not chunks:
            return self.prices.decode_ns(len(decodes), context)
        return self.prices.mixed_ns(
            tokens=sum(new for _, new in scheduled),
            samples=sum(s.computed + new == s.tokens for s, new in scheduled),
            decodes=len(decodes),
            context=context,
            prompts=len(chunks),
            pairs=sum((s.computed + new) ** 2 - s.computed**2 for s, new in chunks),
            reach=sum(s.computed + new for s, new in chunks),
        )

    def _update(self, scheduled, running, free, now) -> None:
        for sequence, new in scheduled:
            sequence.computed += new
            if sequence.computed < sequence.tokens:
                continue
            sequence.produced += 1
            sequence.token_ns.append(now)
            sequence.decoding = True
            if sequence.first_ns < 0:
                sequence.first_ns = now
            if sequence.produced == sequence.output:
                sequence.finish_ns = now
                self._free(sequence, free)
                running.remove(sequence)
