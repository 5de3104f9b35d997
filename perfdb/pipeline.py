"""Decoding over pipeline stages: the price of a round in which every sequence gets one token.

With ``p`` stages an engine keeps ``p`` micro-batches of its sequences in flight, one per stage. A micro-batch starts
its next pass when its tokens of the last one are sampled, so a round takes as long as the pass of the largest
micro-batch through all stages, ``ceil(n / p)`` sequences: ``docs/decisions/011-pipeline-rounds.md`` derives it and
bounds what it leaves out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, TypeVar

from perfdb.step_prices import StepPrices

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from perfdb.step_prices import DecodeCurve

__all__ = ["RoundPrices", "micro_batch_table"]

_Count = TypeVar("_Count", int, "NDArray[np.int64]")


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
        return self.passes.generation_curve(_largest(sequences, self.stages))

    def decode_curve(self, sequences: int) -> DecodeCurve:
        """Return the part of a round that grows with the context, of a batch size."""
        return self.passes.decode_curve(_largest(sequences, self.stages))

    def constant_ns(self, sequences: int) -> int:
        """Return the part of a round that does not depend on the context, ns."""
        return self.passes.constant_ns(_largest(sequences, self.stages))

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
        """Return the time of a round with chunks in it, ns; see :func:`micro_batch_table`."""
        chunks = _chunks(tokens - decodes, prompts, self.stages)
        own = _largest(decodes, self.stages)
        found: _Pass = {
            "tokens": own + (tokens - decodes) * chunks // max(prompts, 1),
            "samples": own + min(_largest(samples - decodes, self.stages), chunks),
            "decodes": own,
            "context": context,
            "prompts": chunks,
            "pairs": pairs * chunks // max(prompts, 1),
            "reach": reach * chunks // max(prompts, 1),
            "squares": squares * chunks // max(prompts, 1),
        }
        return self.passes.mixed_ns(**found)


def micro_batch_table(table: Mapping[str, NDArray[np.int64]], stages: int) -> dict[str, NDArray[np.int64]]:
    """Return a step log as its largest micro-batch saw it.

    Parameters
    ----------
    table
        Columns ``decodes, tokens, prompts, completed, pairs, reach`` and others of a step log, int64, shape (rows,).
    stages
        Pipeline stages; with one the log itself comes back.

    Notes
    -----
    Sequences that compute one token, whether they decode or have just had their KV fetched, are dealt evenly. A
    longer chunk (a context recomputed after a preemption) passes in one piece; all of a round's such chunks are
    taken to be in one micro-batch, which is never too little.
    """
    if stages == 1:
        return dict(table)
    prompts, least = table["prompts"], table["prompts"] + (table["prompts"] == 0)
    chunks = _chunks(table["tokens"], prompts, stages)
    completed = _largest(table["completed"], stages)
    return dict(table) | {
        "decodes": _largest(table["decodes"], stages),
        "tokens": table["tokens"] * chunks // least,
        "prompts": chunks,
        "completed": completed - (completed > chunks) * (completed - chunks),
        "pairs": table["pairs"] * chunks // least,
        "reach": table["reach"] * chunks // least,
    }


def _largest(count: _Count, stages: int) -> _Count:
    """Return the size of the largest of ``stages`` parts that differ by one at most."""
    return -(-count // stages)


def _chunks(tokens: _Count, prompts: _Count, stages: int) -> _Count:
    """Return the chunks in the largest micro-batch: its share where all have one token, else all of them."""
    found: _Count = prompts - (tokens == prompts) * (prompts - _largest(prompts, stages))
    return found
