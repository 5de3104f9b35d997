"""How a model is cut over the chips of one instance."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Parallelism of one engine instance.

    Attributes
    ----------
    tensor
        Chips that share every layer of a rank.
    pipeline
        Stages that hold consecutive layers.
    data
        Ranks with requests and KV cache of their own, each with all weights but those of experts.
    expert
        Groups of chips that hold different experts of a layer; 1 cuts every expert over all chips.
    all_to_all
        Tokens of ranks go to the chips of their experts, where each holds its own; else all go to every chip.
    redundant
        Second copies of popular experts in each layer, which even out what chips have to do.
    stage
        ``prefill`` or ``decode`` where steps are of one stage, and kernels are chosen for it; else empty.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    all_to_all: bool = False
    redundant: int = 0
    stage: str = ""

    @property
    def chips(self) -> int:
        """Chips of one instance."""
        return self.tensor * self.pipeline * self.data

    @property
    def sharing(self) -> int:
        """Chips that exchange with each other within a layer: those of all ranks, over which experts are spread."""
        return self.tensor * self.data

    @property
    def sends_to_experts(self) -> bool:
        """Whether tokens of ranks go to the chips of their experts alone."""
        return self.all_to_all and self.data > 1 and self.expert == self.sharing

    @property
    def expert_tensor(self) -> int:
        """Chips that share one expert."""
        return self.sharing // self.expert
