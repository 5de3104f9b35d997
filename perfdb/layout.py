"""How a model is cut over the chips of one instance."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Tensor and pipeline parallelism of one engine instance.

    Attributes
    ----------
    tensor
        Chips that share every layer.
    pipeline
        Stages that hold consecutive layers.
    """

    tensor: int = 1
    pipeline: int = 1

    @property
    def chips(self) -> int:
        """Chips of one instance."""
        return self.tensor * self.pipeline
