"""An independent, slow model of vLLM 0.2's scheduler, with the sequences, blocks and prices of the other oracle."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from vllm_oracle import Oracle


@dataclass
class WholePromptOracle(Oracle):
    watermark: float = 0.01
    free_block_each: bool = True

    mixed: bool = False
    max_paddings: int | None = None

    def _schedule(self, running, waiting, free, now):
        if self.mixed:
            before = len(running)
            decodes = [(sequence, 1) for sequence in self._decodes(running, waiting, free)]
            full = len(running) < before
            return decodes if full else decodes + self._prompts(running, waiting, free, now, len(decodes))
        prompts = self._prompts(running, waiting, free, now)
        return prompts or [(sequence, 1) for sequence in self._decodes(running, waiting, free)]

    def _prompts(self, running, waiting, free, now, tokens=0):
        chosen = []
        while waiting:
            sequence = waiting[0]
            alone = len(free) == self.blocks
            left = len(free) - -(-sequence.tokens // self.block_tokens)
            if left < (0 if alone else int(self.watermark * self.blocks)):
                break
            if chosen and not self._fits([*(new for _, new in chosen), sequence.tokens], tokens):
                break
            if len(running) + 1 > self.max_sequences:
                break
            self._grow(sequence, sequence.tokens, free)
            running.append(waiting.popleft())
            if sequence.admitted_ns < 0:
                sequence.admitted_ns = now
            chosen.append((sequence, sequence.tokens))
        return chosen

    def _fits(self, lengths, tokens) -> bool:
        if self.max_paddings is None:
            return tokens + sum(lengths) <= self.max_tokens
        padded = max(lengths) * len(lengths)
        return padded <= self.max_tokens and padded - sum(lengths) <= self.max_paddings

    def _decodes(self, running, waiting, free):
        left, stays = deque(sorted(running, key=lambda sequence: sequence.index)), []
        while left:
            sequence = left.popleft()
            while not self._has_room(sequence, free):
                victim = left.pop() if left else sequence
                free.extend(victim.blocks)
                victim.blocks, victim.computed, victim.decoding = [], 0, False
                victim.preemptions += 1
                running.remove(victim)
                waiting.appendleft(victim)
                if victim is sequence:
                    return stays
            stays.append(sequence)
        return stays

    def _has_room(self, sequence, free):
        if self.free_block_each and not free:
            return False
        return self._grow(sequence, sequence.computed + 1, free)
