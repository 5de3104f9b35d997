"""Colours of lines."""

from __future__ import annotations

from typing import Final

__all__ = ["COLOURS"]

#: Okabe and Ito's colours, which people who see few colours can tell apart (https://jfly.uni-koeln.de/color/),
#: without the yellow that is too light for a thin line.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
