"""How much of a step or a run chips spend exchanging results with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfdb.encoder_prices import RowTimes
from perfdb.operators import EXCHANGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfdb.row_operators import RowOperator
    from perfdb.sources import SourceChain

__all__ = ["Communication", "communication"]


@dataclass(frozen=True, slots=True)
class Communication:
    """Time of all collectives and messages of a step, or of a run of an encoder.

    Attributes
    ----------
    per_row, per_token
        Those over the rows of a step or the patches of a run, and those over the tokens that a run makes.
    """

    per_row: RowTimes
    per_token: RowTimes

    def share(self, duration_ns: int, rows: int, tokens: int = 0) -> float:
        """Return the share of a step or run that it takes, between 0 and 1.

        Parameters
        ----------
        duration_ns
            Of all of it.
        rows, tokens
            Rows or patches, and tokens an encoder makes.
        """
        ns = self.per_row.at(rows) + self.per_token.at(tokens)
        return min(1.0, ns / duration_ns) if duration_ns > 0 else 0.0


def communication(
    source: SourceChain, per_row: Sequence[RowOperator], per_token: Sequence[RowOperator] = ()
) -> Communication | None:
    """Return what of some operators is communication; None where nothing is.

    Parameters
    ----------
    source
        Prices them.
    per_row, per_token
        Operators over the rows of a step or the patches of a run, and over the tokens that a run makes.

    Raises
    ------
    CostError
        If the source cannot price one.
    """
    found = [[one for one in operators if isinstance(one, EXCHANGES)] for operators in (per_row, per_token)]
    if not any(found):
        return None
    return Communication(*(RowTimes.priced(operators, source) for operators in found))
