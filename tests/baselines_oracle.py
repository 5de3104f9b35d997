"""Independent, slow models of Sarathi-Serve, Orca and static batches: a block table per sequence, step by step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from vllm_oracle import Oracle
from whole_prompts_oracle import WholePromptOracle


@dataclass
class SarathiOracle(Oracle):
    """Decodes by arrival, then the prompt that was cut, then the queue; prompts own all their blocks at once."""

    watermark: float = 0.01

    def _schedule(self, running, waiting, free, now):
        batch, left = [], deque(sorted(running, key=lambda sequence: sequence.index))
        prompts = []
        while left:
            sequence = left.popleft()
            if not sequence.decoding:
                prompts.append(sequence)
                continue
            while not free:
                victim = left.pop() if left else sequence
                free.extend(victim.blocks)
                victim.blocks, victim.computed, victim.decoding = [], 0, False
                victim.preemptions += 1
                running.remove(victim)
                waiting.appendleft(victim)
                if victim is sequence:
                    break
            if sequence in running:
                assert self._grow(sequence, sequence.computed + 1, free)
                batch.append((sequence, 1))
        for sequence in prompts:
            self._chunk(batch, sequence)
        while waiting and len(running) < self.max_sequences and self._left(batch) > 0:
            sequence = waiting[0]
            spare = 0 if len(free) == self.blocks else int(self.watermark * self.blocks)
            if len(free) - -(-sequence.tokens // self.block_tokens) < spare:
                break
            assert self._grow(sequence, sequence.tokens, free)
            running.append(waiting.popleft())
            if sequence.admitted_ns < 0:
                sequence.admitted_ns = now
            self._chunk(batch, sequence)
        return batch

    def _left(self, batch) -> int:
        return self.max_tokens - sum(new for _, new in batch)

    def _chunk(self, batch, sequence) -> None:
        new = min(sequence.tokens - sequence.computed, self._left(batch))
        if new > 0:
            batch.append((sequence, new))


@dataclass
class ReservingOracle(WholePromptOracle):
    """A request owns the blocks for its last token from the start."""

    joins_running: bool = True

    def _schedule(self, running, waiting, free, now):
        batch = [(sequence, 1) for sequence in sorted(running, key=lambda sequence: sequence.index)]
        if running and not self.joins_running:
            return batch
        prompts = 0
        while waiting and len(running) < self.max_sequences:
            sequence = waiting[0]
            if prompts and sum(new for _, new in batch) + sequence.prompt > self.max_tokens:
                break
            if not self._grow(sequence, sequence.prompt + sequence.output, free):
                break
            running.append(waiting.popleft())
            sequence.admitted_ns = now
            batch.append((sequence, sequence.prompt))
            prompts += 1
        return batch
