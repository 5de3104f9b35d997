"""``[cost]``: what chips and energy cost."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from hardware.strict import Strict

__all__ = ["Cost"]

_Price: TypeAlias = Annotated[float, Field(ge=0, le=1e9, strict=True)]


class Cost(Strict):
    """Prices, in any currency.

    Attributes
    ----------
    chip_hour
        Per chip-hour, by chip name.
    energy_kwh
        Per kWh, where energy is paid for on top of the chips.
    """

    chip_hour: dict[str, _Price] = Field(default_factory=dict)
    energy_kwh: _Price = 0.0
