"""When requests are sent, and what tells them apart: what a deployment is told of its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulator.request import Request

__all__ = ["Arrivals", "Following", "Identities"]


class Following(NamedTuple):
    """A request that waits for the end of another.

    Attributes
    ----------
    row
        Its row in the ledger.
    think_ns
        How long after that end it is sent.
    goes_on
        Its prompt contains the other one's answer, so that it cannot be sent without it.
    """

    row: int
    think_ns: int
    goes_on: bool = False


class Arrivals(Protocol):
    """When requests are sent."""

    def first(self) -> Iterable[tuple[int, int]]:
        """Return rows and arrival times, ns and never decreasing, of requests that wait for no other."""
        ...

    def after(self, index: int, finished: int) -> Following | None:
        """Return the request that is sent once another is finished or has failed; None for none.

        Parameters
        ----------
        index
            Row of that other request.
        finished
            Requests finished or failed so far, that one included.
        """
        ...


class Identities(Protocol):
    """What tells requests apart but for their lengths."""

    def identify(self, request: Request) -> None:
        """Fill in the session and the prefix of a request."""
        ...
