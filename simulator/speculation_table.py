"""``[pool.speculation]``: how many tokens are drafted for a step to verify, and how many of them stay."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from hardware.strict import Strict
from perfdb.speculation import Speculation

__all__ = ["SpeculationTable"]

_Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class SpeculationTable(Strict):
    """``[pool.speculation]``: tokens are drafted by a layer more of the model, and verified by its steps.

    Attributes
    ----------
    draft_tokens
        Drafted tokens per sequence and step; 0 for no speculation.
    acceptance
        Probability that a draft is accepted if those before it were: one for all, or of the first, the second, ...
    """

    draft_tokens: Annotated[int, Field(ge=0, le=16, strict=True)]
    acceptance: _Share | Annotated[tuple[_Share, ...], Field(min_length=1)]

    @property
    def speculation(self) -> Speculation | None:
        """What steps verify; None where nothing is drafted."""
        if not self.draft_tokens:
            return None
        shares = self.acceptance if isinstance(self.acceptance, tuple) else (self.acceptance,)
        return Speculation.accepting(self.draft_tokens, shares)
