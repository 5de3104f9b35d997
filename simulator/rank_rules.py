"""What engines do with attention ranks (``data_parallel``), and which pools may have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardware.errors import ScenarioError

if TYPE_CHECKING:
    from perfdb.layout import Layout
    from perfdb.model import ModelSpec

__all__ = ["RankRules"]


@dataclass(frozen=True, slots=True)
class RankRules:
    """An engine's attention data parallelism.

    Attributes
    ----------
    balancer
        How it deals requests, a key of :data:`simulator.balancers.BALANCERS`.
    idle_lags
        Ranks with nothing to do plan ahead like the others.
    dense_apart
        Ranks of models without experts, which have nothing to share, are engines of their own; else they step together,
        too.
    one_chip
        A rank is one chip.
    """

    balancer: str
    idle_lags: bool = True
    dense_apart: bool = False
    one_chip: bool = False

    def steps_together(self, model: ModelSpec) -> bool:
        """Tell whether ranks wait for each other."""
        return bool(model.experts) or not self.dense_apart

    def check(self, where: str, engine: str, layout: Layout) -> None:
        """Check that a pool may have ranks.

        Raises
        ------
        ScenarioError
            Naming the pool and what to change.
        """
        key = f"{where}.data_parallel is {layout.data}"
        if self.one_chip and layout.tensor > 1:
            raise ScenarioError(
                f"{key} with tensor_parallel {layout.tensor}, but an attention rank of {engine} is one chip; expected "
                f"data_parallel = {layout.data * layout.tensor} and tensor_parallel = 1"
            )
