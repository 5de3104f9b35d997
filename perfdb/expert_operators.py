"""The routed experts of a layer as one operator, and how many of them some tokens wake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ExpertExchange", "RoutedExperts"]


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """The routed experts that one chip holds of a layer, over the tokens of all ranks.

    Attributes
    ----------
    name
        What to call it.
    hidden, intermediate
        Width of the model, and of one expert over all chips.
    experts, per_token
        Experts of the layer over all chips, and those that a token passes.
    weights
        Format of their weights, a key of :data:`perfdb.formats.WEIGHT_BYTES`.
    gated
        Each has a gate beside the projection up.
    even
        The router was trained to load them evenly (a balancing bias); otherwise some are far more popular.
    tensor_parallel, expert_parallel
        Chips that share one expert, and groups of chips that hold different ones.
    ranks
        Data-parallel ranks whose tokens meet here: a row is a token of one, and the others have as many.
    redundant
        Second copies of popular experts over all chips.
    dispatched
        Each chip was sent the tokens of its own experts, sorted by expert; else it has all tokens.
    stage
        See :class:`perfdb.layout.Layout`.
    count
        Times it runs in one step.
    """

    name: str
    hidden: int
    intermediate: int
    experts: int
    per_token: int
    weights: str
    gated: bool = True
    even: bool = False
    tensor_parallel: int = 1
    expert_parallel: int = 1
    ranks: int = 1
    redundant: int = 0
    dispatched: bool = False
    stage: str = ""
    count: int = 1

    @property
    def held(self) -> float:
        """Experts on one chip, copies included."""
        return (self.experts + self.redundant) / self.expert_parallel

    @property
    def weights_of_one(self) -> float:
        """Weights of one expert on one chip."""
        return self.hidden * self.intermediate * (3 if self.gated else 2) / self.tensor_parallel

    def tokens(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens of all ranks, given those of one."""
        return rows * self.ranks

    def visits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how many pairs of a token and an expert fall to one chip, if the experts are loaded evenly."""
        return self.tokens(rows) * self.per_token / self.expert_parallel

    def busiest_visits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how many fall to the busiest chip, if tokens choose independently.

        Notes
        -----
        The largest of ``g`` sums of many rare events of mean ``m`` is about ``m + sqrt(2 m ln g)``, and at most one
        chip gets all.
        """
        mean = self.visits(rows)
        busiest = mean + np.sqrt(2 * mean * np.log(self.expert_parallel))
        most: NDArray[np.float64] = np.minimum(busiest, mean * self.expert_parallel)
        return most

    def woken(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how many of one chip's experts at least one token passes, if the experts are loaded evenly.

        Notes
        -----
        A token misses one of ``E`` experts, copies included, with probability ``1 - k/E``, and ``n`` tokens with its
        ``n``-th power.
        """
        every = self.experts + self.redundant
        missed = np.power(1 - self.per_token / every, self.tokens(rows).astype(np.float64))
        woken: NDArray[np.float64] = self.held * (1 - missed)
        return woken


@dataclass(frozen=True, slots=True)
class ExpertExchange:
    """An all-to-all that brings each token to the chips of its experts (``dispatch``), or their results back.

    Attributes
    ----------
    name
        ``dispatch`` or ``combine``.
    hidden
        Width of the model.
    experts, per_token
        Experts of the layer, and those that a token passes.
    chips
        Chips among which experts are dealt, each a rank or a part of one. A row is a token of one chip.
    weights
        Format of the experts: what is narrower than 16 bits is dispatched in 8 bits.
    stage
        See :class:`perfdb.layout.Layout`.
    count
        Times it runs in one step.
    """

    name: str
    hidden: int
    experts: int
    per_token: int
    chips: int
    weights: str
    stage: str = ""
    count: int = 1

    @property
    def copies(self) -> float:
        """Chips that a token goes to: choices of one chip share a copy."""
        return self.chips * (1 - (1 - 1 / self.chips) ** self.per_token)

    @property
    def sent_away(self) -> float:
        """Elements of a token that leave its chip."""
        return self.copies * (1 - 1 / self.chips) * self.hidden

    @property
    def element_bytes(self) -> int:
        """Bytes of an element on the way."""
        return 1 if self.name == "dispatch" and self.weights != "bf16" else 2
