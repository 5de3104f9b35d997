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
        Chips that share every layer; of each attention rank, where there are several.
    pipeline
        Stages that hold consecutive layers.
    data
        Attention ranks, each with requests and a KV cache of its own.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def chips(self) -> int:
        """Chips of one instance."""
        return self.tensor * self.pipeline * self.data
