"""What a policy asks about the images of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.state import EngineState

__all__ = ["MediaBudget"]


class MediaBudget(Protocol):
    """What is encoded in the steps of an engine; see :class:`simulator.fused_encoder.FusedEncoder`."""

    def new_step(self, state: EngineState) -> None:
        """Begin to plan a step."""
        ...

    def allow(self, request: Request, past: int, new: int) -> int:
        """Return how many of the next tokens of a prompt a step can compute, and plan to encode what they need."""
        ...

    def run(self, plan: Plan) -> int:
        """Begin to encode what the step of a plan needs; return how long that takes, ns."""
        ...

    def holds_up(self, state: EngineState) -> bool:
        """Tell whether a prompt waits for features that others make."""
        ...
