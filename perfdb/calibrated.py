"""Kernels of one server against the tables: factors by kind, as a wrapper around any chain of cost sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfdb.estimate import Estimate
from perfdb.operators import EXCHANGES
from perfdb.sources import SourceChain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perfdb.operators import Kernel
    from perfdb.row_operators import RowOperator

__all__ = ["CalibratedChain", "KernelFactors", "calibrated_chain"]


@dataclass(frozen=True, slots=True)
class KernelFactors:
    """How many times as long as priced kernels take, by kind.

    Attributes
    ----------
    per_token
        Projections and element-wise kernels.
    context_attention, generation_attention
        Attention over prompts, and over the cache of sequences that decode.
    collectives
        What several chips do together.
    """

    per_token: float = 1.0
    context_attention: float = 1.0
    generation_attention: float = 1.0
    collectives: float = 1.0


class CalibratedChain(SourceChain):
    """A chain of cost sources whose prices are multiplied by kind of kernel.

    Parameters
    ----------
    chain
        Prices before calibration.
    factors
        What they are multiplied by.
    """

    def __init__(self, chain: SourceChain, factors: KernelFactors) -> None:
        super().__init__(chain.sources, chain.label)
        self.chain, self.factors = chain, factors

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate:
        """Return the calibrated cost of an operator over rows."""
        factor = self.factors.collectives if isinstance(operator, EXCHANGES) else self.factors.per_token
        return _scaled(self.chain.rows(operator, rows), factor)

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate:
        """Return the calibrated cost of one layer's attention."""
        cached = operator.name.startswith("generation")
        factor = self.factors.generation_attention if cached else self.factors.context_attention
        return _scaled(self.chain.attention(operator, batch, tokens), factor)


def calibrated_chain(chain: SourceChain, factors: KernelFactors) -> SourceChain:
    """Return a chain with its prices multiplied; the same chain where all factors are 1."""
    return chain if factors == KernelFactors() else CalibratedChain(chain, factors)


def _scaled(found: Estimate, factor: float) -> Estimate:
    return Estimate(found.ns * factor, found.origin)
