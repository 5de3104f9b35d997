"""The plain state a scheduler reads and writes, and the plan it returns."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from simulator.kvcache import BlockPool
from simulator.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simulator.request import Request

__all__ = ["EngineState", "Limits", "Plan", "Scheduler"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine's options allow a step to hold; a policy uses those it knows.

    Attributes
    ----------
    max_tokens
        Token budget of a step.
    max_sequences
        Running requests.
    chunked
        Prompts may be cut to what is left of the budget.
    reserve_full_prompt
        Admit a request only if its whole prompt fits in the free blocks.
    """

    max_tokens: int
    max_sequences: int
    chunked: bool = True
    reserve_full_prompt: bool = True


class CountedQueue(deque["Request"]):
    """Waiting requests, and the sum of their tokens for those who ask at every arrival."""

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        super().__init__(requests)
        self.tokens = sum(request.tokens for request in self)

    def append(self, request: Request, /) -> None:
        """Add a request at the end."""
        self.tokens += request.tokens
        super().append(request)

    def appendleft(self, request: Request, /) -> None:
        """Add a request in front."""
        self.tokens += request.tokens
        super().appendleft(request)

    def popleft(self) -> Request:
        """Take the first request out."""
        request = super().popleft()
        self.tokens -= request.tokens
        return request

    def remove(self, request: Request, /) -> None:
        """Take a request out."""
        super().remove(request)
        self.tokens -= request.tokens

    def clear(self) -> None:
        """Take all requests out."""
        super().clear()
        self.tokens = 0


class EngineState:
    """Queues and counters of one engine instance; nothing in it knows the time or a true output length.

    Parameters
    ----------
    blocks
        KV blocks that sequences can use.
    block_tokens
        Tokens of one block.
    caching
        Blocks keep what they hold until they are taken again, and requests find it there.

    Attributes
    ----------
    step
        Steps computed so far.
    waiting
        Requests not admitted, in the order they will be.
    loading
        Requests that hold blocks into which their KV is being fetched.
    ready
        Requests whose KV has been fetched and that wait for a place among the running.
    running
        Admitted requests by index, in the order of admission: decoding, but for ``prefilling``.
    prefilling
        The admitted request whose prompt is only partly computed, if any; always the last of ``running``.
    decodes
        Sequences that produce a token in every step.
    context_sum
        Tokens in the caches of the decoding sequences.
    recomputed
        Tokens computed, or to be computed, once more because of preemptions.
    preemptions
        Requests put back into the queue to make room.
    pool
        KV blocks.
    cache
        The pool, if it is one that keeps what blocks hold.
    queried, hits
        Tokens of requests when they were first admitted, and those of them that were found in the cache.
    reused
        Tokens that were not computed because they were in the cache, after a preemption too.
    """

    __slots__ = (
        "cache",
        "context_sum",
        "decodes",
        "hits",
        "loading",
        "pool",
        "preemptions",
        "prefilling",
        "queried",
        "ready",
        "recomputed",
        "reused",
        "running",
        "step",
        "waiting",
    )

    def __init__(self, blocks: int, block_tokens: int, *, caching: bool = False) -> None:
        self.step = 0
        self.waiting: deque[Request] = deque()
        self.loading = 0
        self.ready: deque[Request] = deque()
        self.running: dict[int, Request] = {}
        self.prefilling: Request | None = None
        self.decodes = 0
        self.context_sum = 0
        self.recomputed = self.preemptions = 0
        self.cache = PrefixCache(blocks, block_tokens) if caching else None
        self.pool = BlockPool(blocks, block_tokens) if self.cache is None else self.cache
        self.queried = self.hits = self.reused = 0

    def join_decode(self, request: Request) -> None:
        """Count a request whose prompt is computed among the decoding ones."""
        request.anchor = request.computed - self.step
        self.decodes += 1
        self.context_sum += request.computed
        self.pool.join(request.anchor)

    def leave_decode(self, request: Request) -> None:
        """Take a request out of the decoding ones; ``computed`` becomes its tokens in the cache."""
        request.computed = request.anchor + self.step
        self.decodes -= 1
        self.context_sum -= request.computed
        self.pool.leave(request.anchor)

    def release(self, request: Request) -> None:
        """Give back the blocks of a request that is not decoding."""
        if self.cache is not None:
            self.cache.release(request)
        else:
            self.pool.give(self.pool.blocks_for(request.computed))

    def abandon(self, request: Request) -> None:
        """Give back the blocks of a request for all its tokens; only what it found here holds anything."""
        blocks = self.pool.blocks_for(request.tokens)
        if self.cache is None:
            self.pool.give(blocks)
            return
        self.cache.give(blocks - request.held)
        request.computed = request.found
        self.cache.release(request)

    def lose_all(self) -> None:
        """Give back every block, and what it held."""
        if self.cache is not None:
            self.cache.clear()
        else:
            self.pool.give(self.pool.blocks - self.pool.free)

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks of a request are here already, and how many of them nobody uses."""
        return (0, 0) if self.cache is None else self.cache.find(request)

    def load(self) -> tuple[int, int, int]:
        """Return tokens that wait to be computed, blocks in use, and tokens of a block."""
        waiting, pool, prefilling = self.waiting, self.pool, self.prefilling
        if not isinstance(waiting, CountedQueue):
            waiting = self.waiting = CountedQueue(waiting)
        started = 0 if prefilling is None else prefilling.tokens - prefilling.computed
        return waiting.tokens + started, pool.blocks - pool.free, pool.block_tokens

    def claim(self, request: Request) -> int:
        """Let a request that is admitted hold the blocks that are here already, and return their number."""
        cache = self.cache
        if cache is None:
            request.found = 0
            return 0
        blocks = cache.claim(request)
        request.computed = request.found = blocks * cache.block_tokens
        if not request.epoch:
            self.queried += request.tokens - request.remote
            self.hits += request.computed
        if not request.remote:
            self.reused += request.computed
        return blocks

    def take(self, request: Request, blocks: int, tokens: int) -> None:
        """Take ``blocks`` blocks for a request, into which its tokens up to the first ``tokens`` are computed."""
        self.pool.take(blocks)
        self.register(request, tokens)

    def register(self, request: Request, tokens: int) -> bool:
        """Let a request's blocks be found, up to its first ``tokens`` tokens; tell whether anybody can."""
        if self.cache is not None:
            self.cache.register(request, tokens)
        return self.cache is not None


@dataclass(slots=True)
class Plan:
    """Who computes how many tokens next, and for how many steps that stays true.

    Attributes
    ----------
    chunks
        Prompt chunks: (request, new tokens).
    decodes
        Sequences that compute one token besides: all that decode, or none, and then they stand still.
    steps
        Steps for which the plan surely holds if nothing arrives and nothing finishes: at least 1.
    preempted
        Requests put back into the queue to make room.
    loads
        Requests that got blocks for KV that must now be fetched.
    joined
        Requests whose KV was fetched and that decode from this step on, counted among ``decodes``.
    """

    chunks: list[tuple[Request, int]]
    decodes: int
    steps: int
    preempted: list[Request]
    loads: Sequence[Request] = ()
    joined: Sequence[Request] = ()


class Scheduler(Protocol):
    """Decides what the next step computes."""

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan and take the blocks it needs.

        Parameters
        ----------
        state
            The instance; the scheduler moves requests between its queues. A plan of several steps takes no
            blocks yet: the engine, which knows when a request finishes, takes those of the steps it ran.
        """
        ...
