"""What the largest of the micro-batches holds that pass pipeline stages at once: of counts, and of whole step logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["chunks_of", "largest", "micro_batch_table"]

_Count = TypeVar("_Count", int, "NDArray[np.int64]")


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
    chunks = chunks_of(table["tokens"], prompts, stages)
    completed = largest(table["completed"], stages)
    return dict(table) | {
        "decodes": largest(table["decodes"], stages),
        "tokens": table["tokens"] * chunks // least,
        "prompts": chunks,
        "completed": completed - (completed > chunks) * (completed - chunks),
        "pairs": table["pairs"] * chunks // least,
        "reach": table["reach"] * chunks // least,
    }


def largest(count: _Count, stages: int) -> _Count:
    """Return the size of the largest of ``stages`` parts that differ by one at most."""
    return -(-count // stages)


def chunks_of(tokens: _Count, prompts: _Count, stages: int) -> _Count:
    """Return the chunks in the largest micro-batch: its share where all have one token, else all of them."""
    found: _Count = prompts - (tokens == prompts) * (prompts - largest(prompts, stages))
    return found
