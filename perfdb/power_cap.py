"""A cap on a chip's power: what it costs the operators that compute, as a wrapper around any chain of cost sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
from pydantic import Field

from perfdb.estimate import Estimate
from perfdb.sources import SourceChain
from perfdb.speed_of_light import Bound, attention_bound, row_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from hardware.power import PowerShares
    from perfdb.operators import Kernel, RowOperator
    from perfdb.step_profile import StepFit

__all__ = ["CLOCK_EXPONENT", "LOWEST_CAP", "CappedChain", "PowerCap", "capped_chain", "capped_fit"]

#: Dynamic power grows with this power of the clock. Between 1 (the voltage stays) and 3 (it falls with the clock); 2
#: gives a prompt 1.25 (H100) to 1.33 times its time at 70 % of the TDP, and splitwise-sim assumes 1.30.
CLOCK_EXPONENT = 2.0
#: Below half of the TDP token phases slow down as well (Splitwise), which is not modelled.
LOWEST_CAP = 0.5

PowerCap: TypeAlias = Annotated[float, Field(ge=LOWEST_CAP, le=1, strict=True)]
"""A cap in a scenario, a share of the TDP."""


class CappedChain(SourceChain):
    """A chain of cost sources on a chip whose power is capped.

    Parameters
    ----------
    chain
        Prices at the TDP.
    chip
        The chip.
    cap
        Share of the TDP it may draw, :data:`LOWEST_CAP` to 1.

    Notes
    -----
    A kernel draws ``active + memory * m + compute * c`` of the TDP (:class:`hardware.power.PowerShares`), and the
    whole TDP at most. Where that is over the cap, the clock falls until what is above ``active`` fits: it goes with
    the clock to the power :data:`CLOCK_EXPONENT`, and a kernel bound by arithmetic takes longer by as much as the
    clock is lower. A kernel bound by memory takes as long as before, since the memory keeps its clock, unless the
    lower clock makes arithmetic its bound. Collectives and the host take as long as before.
    """

    def __init__(self, chain: SourceChain, chip: Chip, cap: float) -> None:
        super().__init__(chain.sources, chain.label)
        self.chain, self.chip, self.cap = chain, chip, cap

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate:
        """Return the capped cost of a projection or of experts; other operators are not bound by arithmetic."""
        found = self.chain.rows(operator, rows)
        bound = row_bound(self.chip, operator, rows)
        return found if bound is None else self._slowed(found, bound)

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate:
        """Return the capped cost of one layer's attention."""
        found = self.chain.attention(operator, batch, tokens)
        return self._slowed(found, attention_bound(self.chip, operator, batch, tokens))

    def _slowed(self, found: Estimate, bound: Bound) -> Estimate:
        shares = self.chip.power
        drawn = shares.asked(bound.memory_ns, bound.compute_ns, np.maximum(found.ns, 1e-9))
        clock = _clock(shares, self.cap, np.minimum(drawn, 1.0))
        arithmetic = bound.compute_ns / np.maximum(bound.memory_ns, 1e-9)
        return Estimate(found.ns * np.clip(arithmetic / clock, 1.0, 1.0 / clock), found.origin)


def capped_chain(chain: SourceChain, chip: Chip, cap: float) -> SourceChain:
    """Return a chain that prices under a power cap; the same chain where the cap is the TDP."""
    return chain if cap >= 1 else CappedChain(chain, chip, cap)


def capped_fit(fit: StepFit, chip: Chip, cap: float) -> StepFit:
    """Return a step profile under a power cap: prompts draw the whole TDP and slow down, decoding does neither."""
    clock = float(_clock(chip.power, cap, np.ones(1))[0])
    prefill = fit.prefill
    slowed = {name: getattr(prefill, name) / clock for name in ("token_ms", "squared_token_ms")}
    return fit.model_copy(update={"prefill": prefill.model_copy(update=slowed)})


def _clock(shares: PowerShares, cap: float, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of its clock at which what draws ``drawn`` of the TDP fits under a cap."""
    above = np.maximum(drawn - shares.active, 1e-9)
    return np.minimum(((cap - shares.active) / above) ** (1 / CLOCK_EXPONENT), 1.0)
