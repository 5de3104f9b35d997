"""What every engine's options allow a step to hold."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What every engine's options allow a step to hold.

    Attributes
    ----------
    max_tokens
        Token budget of a step.
    max_sequences
        Running requests.
    chunked
        Prompts may be cut to what is left of the budget.
    """

    max_tokens: int
    max_sequences: int
    chunked: bool = True
