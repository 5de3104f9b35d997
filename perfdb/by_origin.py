"""What operators over rows cost together, split by where their prices come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from perfdb.operators import RowOperator
    from perfdb.sources import SourceChain

__all__ = ["by_origin"]

_ORIGINS = len(Origin)


def by_origin(operators: Sequence[RowOperator], source: SourceChain, most: int) -> NDArray[np.float64]:
    """Return the cost of operators over 0 to ``most`` rows by origin, ns, shape (most + 1, origins)."""
    rows = np.arange(1, most + 1)
    total = np.zeros((most + 1, _ORIGINS))
    for operator in operators:
        found = source.rows(operator, rows)
        total[rows, found.origin] += operator.count * found.ns
    return total
