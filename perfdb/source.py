"""What a cost source is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perfdb.estimate import Estimate
    from perfdb.operators import Kernel, RowOperator

__all__ = ["CostSource"]


class CostSource(Protocol):
    """Prices operators on one chip type.

    A source answers None for what it does not know, or NaN at the points it does not know, so that the next one in
    the chain is asked.
    """

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate | None:
        """Return the cost of one execution of ``operator`` over each number of rows.

        Parameters
        ----------
        operator
            A projection, element-wise kernel or collective.
        rows
            Tokens (or sampled sequences), shape (points,), each at least 1.
        """
        ...

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate | None:
        """Return the cost of attention in one layer.

        Parameters
        ----------
        operator
            Context or generation attention.
        batch
            Sequences, shape (points,), each at least 1.
        tokens
            For context attention the length of each prompt, none of it cached; for generation attention
            the tokens each sequence has in its cache. Shape (points,).
        """
        ...
