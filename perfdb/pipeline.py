"""Decoding over pipeline stages: the price of a round in which every sequence gets one token.

With ``p`` stages an engine keeps ``p`` micro-batches of its sequences in flight, one per stage. A micro-batch starts
its next pass when its tokens of the last one are sampled, so a round takes as long as the pass of the largest
micro-batch through all stages, ``ceil(n / p)`` sequences: ``docs/decisions/011-pipeline-rounds.md`` derives it and
bounds what it leaves out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from perfdb.micro_batches import chunks_of, largest
from perfdb.step_prices import StepPrices

if TYPE_CHECKING:
    from perfdb.step_prices import DecodeCurve

__all__ = ["RoundPrices"]


class _Pass(TypedDict):
    tokens: int
    samples: int
    decodes: int
    context: int
    prompts: int
    pairs: int
    reach: int
    squares: int


class RoundPrices(StepPrices):
    """What a round costs, in the terms of :class:`perfdb.step_prices.StepPrices`: counts are those of all stages.

    Parameters
    ----------
    passes
        Prices of one pass of one micro-batch through all stages, one after the other.
    stages
        Pipeline stages, at least 2.
    """

    def __init__(self, passes: StepPrices, stages: int) -> None:
        tables = (passes.token_ns, passes.sample_ns, passes.host_ns)
        curves = (passes.generation_curve, passes.context_curve)
        super().__init__(*tables, *curves, passes.launches, passes.windowed, passes.shared_ns)
        self.passes, self.stages = passes, stages

    def generation_curve(self, sequences: int) -> DecodeCurve:
        """Return the generation-attention curve of a batch size."""
        return self.passes.generation_curve(largest(sequences, self.stages))

    def decode_curve(self, sequences: int) -> DecodeCurve:
        """Return the part of a round that grows with the context, of a batch size."""
        return self.passes.decode_curve(largest(sequences, self.stages))

    def constant_ns(self, sequences: int) -> int:
        """Return the part of a round that does not depend on the context, ns."""
        return self.passes.constant_ns(largest(sequences, self.stages))

    def mixed_ns(  # noqa: PLR0913 - the sums of the base class
        self,
        *,
        tokens: int,
        samples: int,
        decodes: int,
        context: int,
        prompts: int,
        pairs: int,
        reach: int,
        squares: int = 0,
    ) -> int:
        """Return the time of a round with chunks in it, ns; see :func:`perfdb.micro_batches.micro_batch_table`."""
        chunks = chunks_of(tokens - decodes, prompts, self.stages)
        own = largest(decodes, self.stages)
        found: _Pass = {
            "tokens": own + (tokens - decodes) * chunks // max(prompts, 1),
            "samples": own + min(largest(samples - decodes, self.stages), chunks),
            "decodes": own,
            "context": context,
            "prompts": chunks,
            "pairs": pairs * chunks // max(prompts, 1),
            "reach": reach * chunks // max(prompts, 1),
            "squares": squares * chunks // max(prompts, 1),
        }
        return self.passes.mixed_ns(**found)
