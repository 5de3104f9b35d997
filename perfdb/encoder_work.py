"""What runs of an encoder compute and move, whatever time they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfdb.speed_of_light import Bound, encoder_bound, row_bound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.encoder_operators import EncoderOperators

__all__ = ["encoder_work"]


def encoder_work(operators: EncoderOperators, chip: Chip, table: Mapping[str, NDArray[np.int64]]) -> Bound:
    """Return the work of each run of a log, on one chip.

    Parameters
    ----------
    operators
        What a run takes on one chip.
    chip
        Gives the nominal rates.
    table
        Columns named as the fields of :class:`perfdb.encoder_prices.EncoderWork`, int64, shape (runs,).

    Returns
    -------
    Bound
        Time, ns, of the arithmetic at the dense peak and of the bytes at the memory rate, shape (runs,).
    """
    compute, memory = np.zeros(len(table["items"])), np.zeros(len(table["items"]))
    for rows, column in ((operators.per_patch, "patches"), (operators.per_token, "tokens")):
        for operator in rows:
            if (found := row_bound(chip, operator, table[column])) is not None:
                compute += operator.count * found.compute_ns
                memory += operator.count * found.memory_ns
    for attention, pairs in ((operators.full, "pairs"), (operators.windowed, "window_pairs")):
        if attention is not None:
            bound = encoder_bound(chip, attention, table["patches"], table[pairs].astype(np.float64))
            compute += attention.count * bound.compute_ns
            memory += attention.count * bound.memory_ns
    return Bound(compute, memory)
