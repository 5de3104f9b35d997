"""Attention ranks of one engine: each has a scheduler, a batch and a KV cache, and gets its share of the requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.balancers import BALANCERS, RankLoad
from simulator.instance import Instance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.engine_core import EngineCore
    from simulator.engine_parts import EngineParts
    from simulator.records import StepLog
    from simulator.request import Request
    from simulator.surroundings import Surroundings
    from simulator.watcher import Watcher

__all__ = ["IndependentRanks", "RankGroup"]


class RankGroup:
    """The ranks of one instance, and what deals requests to them: a :class:`simulator.server.Server`.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`.
    cores
        The ranks.
    """

    def __init__(self, around: Surroundings, parts: EngineParts, cores: Sequence[EngineCore]) -> None:
        self.env, self.number, self.prices, self.log = around.env, around.number, parts.prices, around.log
        self.decodes_here, self.tells_chunks = parts.decodes, around.tells_chunks
        self.started_ns, self.ended_ns = around.env.now, -1
        self._watcher: Watcher = around.watcher
        self._prompt_tokens = around.ledger.prompt_tokens
        self._balancer = BALANCERS[parts.balancer](around.number)
        self._places: dict[int, int] = {}
        self.cores = cores
        self._loads = [RankLoad(core) for core in self.cores]

    @property
    def step_logs(self) -> Sequence[StepLog]:
        """The logs that say how long steps were."""
        return [core.log for core in self.cores]

    # --- requests ------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request now, at one of the ranks."""
        rank = self._places[request.index] = self._balancer.choose(self._loads)
        self._loads[rank].add(1, self._prompt_tokens[request.index])
        self.cores[rank].submit(request)

    def rank_of(self, request: Request) -> int:
        """Return which of the ranks has a request."""
        return self._places[request.index]

    def deliver(self, request: Request) -> None:
        """Take note that the KV a request asked for is here now."""
        self.cores[self._places[request.index]].deliver(request)

    def release(self, request: Request, *, sent: bool = False) -> None:
        """Give back the blocks of a request whose KV was ``sent`` to another instance, or goes nowhere."""
        self.cores[self._places.pop(request.index)].release(request, sent=sent)

    def cancel(self, request: Request) -> None:
        """Give up a request that waits for its KV here."""
        rank = self._places.pop(request.index)
        self._count_out(rank, request.index)
        self.cores[rank].cancel(request)

    def recompute(self, request: Request) -> None:
        """Compute the prompt of a request here whose KV did not come."""
        self.cores[self._places[request.index]].recompute(request)

    def stop(self) -> list[Request]:
        """End the engine now; see :meth:`simulator.engine_core.EngineCore.stop`."""
        self.ended_ns = self.env.now
        self._places.clear()
        for core in self.cores:
            core.settle()
        return [request for core in self.cores for request in core.stop()]

    def _count_out(self, rank: int, index: int) -> None:
        self._loads[rank].add(-1, self._prompt_tokens[index])

    # --- what ranks tell -----------------------------------------------------------------------------

    def finished(self, instance: int, index: int) -> None:
        """Take note that a request produced its last token."""
        self._count_out(self._places.pop(index), index)
        self._watcher.finished(instance, index)

    def prompt_computed(self, instance: int, request: Request) -> None:
        """Pass on that the KV of a prompt may leave; its blocks stay until it has left."""
        self._count_out(self._places[request.index], request.index)
        self._watcher.prompt_computed(instance, request)

    def reserved(self, instance: int, request: Request) -> None:
        """Pass on that there are blocks for a request's KV."""
        self._watcher.reserved(instance, request)

    def computing(self, instance: int, request: Request, tokens: int, duration_ns: int) -> None:
        """Pass on that a step has begun that computes some of a prompt."""
        self._watcher.computing(instance, request, tokens, duration_ns)


class IndependentRanks(RankGroup):
    """Ranks that share nothing but the balancer before them, as those of a dense model in vLLM: each steps on its own.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`.
    """

    def __init__(self, around: Surroundings, parts: EngineParts) -> None:
        super().__init__(around, parts, [Instance(around.inside(self), parts) for _ in range(parts.ranks)])
