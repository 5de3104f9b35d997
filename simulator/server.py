"""What a deployment asks of an instance, whether its engine has one scheduler or one for every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from simulator.records import StepLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simulator.engine_core import EngineCore
    from simulator.records import EncodeLog
    from simulator.request import Request

__all__ = ["Server", "cores_of", "step_logs_of"]


class Server(Protocol):
    """An instance that serves requests.

    Attributes
    ----------
    number
        Position among all instances.
    decodes_here
        Requests stay after their first token.
    started_ns, ended_ns
        When it began to serve, and when it stopped; -1 while it serves.
    """

    number: int
    decodes_here: bool
    started_ns: int
    ended_ns: int

    @property
    def cores(self) -> Sequence[EngineCore]:
        """What holds requests and blocks."""
        ...

    @property
    def step_logs(self) -> Sequence[StepLog] | Sequence[EncodeLog]:
        """The logs that say how long steps were: one for each core, or one for all if they step together."""
        ...

    def rank_of(self, request: Request) -> int:
        """Return which of its attention ranks has a request."""
        ...

    def submit(self, request: Request) -> None:
        """Queue a request now."""
        ...

    def deliver(self, request: Request) -> None:
        """Take note that the KV a request asked for is here now."""
        ...

    def release(self, request: Request, *, sent: bool = False) -> None:
        """Give back the blocks of a request whose KV was ``sent`` to another instance, or goes nowhere."""
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


def cores_of(instances: Iterable[Server]) -> list[EngineCore]:
    """Return what holds requests and blocks on some instances."""
    return [core for instance in instances for core in instance.cores]


def step_logs_of(instances: Iterable[Server]) -> list[StepLog]:
    """Return for each of these the log that says how long its steps were."""
    return [
        log
        for instance in instances
        for log in list(instance.step_logs) * (len(instance.cores) // len(instance.step_logs))
        if isinstance(log, StepLog)
    ]
