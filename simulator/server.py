"""What a deployment asks of an instance, whether its engine has one scheduler or one for every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfdb.step_prices import StepPrices
    from simulator.engine_core import EngineCore
    from simulator.request import Request

__all__ = ["Server"]


class Server(Protocol):
    """An instance that serves requests.

    Attributes
    ----------
    number
        Position among all instances.
    prices
        Of its steps.
    decodes_here
        Requests stay after their first token.
    started_ns, ended_ns
        When it began to serve, and when it stopped; -1 while it serves.
    """

    number: int
    prices: StepPrices
    decodes_here: bool
    started_ns: int
    ended_ns: int

    @property
    def cores(self) -> Sequence[EngineCore]:
        """What holds requests and blocks."""
        ...

    def submit(self, request: Request) -> None:
        """Queue a request now."""
        ...

    def deliver(self, request: Request) -> None:
        """Take note that the KV a request asked for is here now."""
        ...

    def release(self, request: Request) -> None:
        """Give back the blocks of a request whose KV has left for another instance."""
        ...

    def cancel(self, request: Request) -> None:
        """Give up a request that waits for its KV here."""
        ...

    def recompute(self, request: Request) -> None:
        """Compute the prompt of a request here whose KV did not come."""
        ...

    def stop(self) -> list[Request]:
        """End the engine now; return who was on it, but for requests whose KV was fetched or waited to leave."""
        ...
