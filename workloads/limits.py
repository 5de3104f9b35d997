"""The units and bounds every workload keeps to."""

from __future__ import annotations

from typing import Final

__all__ = ["LAST_ARRIVAL_NS", "MAX_TOKENS", "NS_PER_S"]

NS_PER_S: Final = 1_000_000_000
MAX_TOKENS: Final = 2**31 - 1
"""The longest length a row may have: sums over four billion such rows still fit 64 bits."""
LAST_ARRIVAL_NS: Final = 2**62
"""No arrival may be later than this (146 years), so that the engine can add to it without overflow."""
