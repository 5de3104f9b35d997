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
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    all_to_all: bool = False

    @property
    def chips(self) -> int:
        """Chips of one instance."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_tensor(self) -> int:
        """Chips that share one expert: experts are spread over the chips of all ranks."""
        return self.tensor * self.data // self.expert
