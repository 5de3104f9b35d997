"""What an instance tells others, as a protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from simulator.request import Request

__all__ = ["Watcher"]


class Watcher(Protocol):
    """Whoever an instance tells what concerns others."""

    def finished(self, instance: int, index: int) -> None:
        """Take note that a request produced its last token on an instance."""
        ...

    def prompt_computed(self, instance: int, request: Request) -> None:
        """Find an instance to decode a request whose prompt was computed on ``instance``."""
        ...

    def reserved(self, instance: int, request: Request) -> None:
        """Bring a request's KV to ``instance``, which has blocks for it now, and deliver it there."""
        ...

    def computing(self, instance: int, request: Request, tokens: int, duration_ns: int) -> None:
        """Take note that a step has begun that computes ``tokens`` tokens of a request's prompt."""
        ...
