"""The plain state a scheduler reads and writes, and the plan it returns."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from simulator.kvcache import BlockPool

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class EngineState:
    """Queues and counters of one engine instance; nothing in it knows the time or a true output length.

    Parameters
    ----------
    blocks
        KV blocks that sequences can use.
    block_tokens
        Tokens of one block.

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
    """

    __slots__ = (
        "context_sum",
        "decodes",
        "loading",
        "pool",
        "preemptions",
        "prefilling",
        "ready",
        "recomputed",
        "running",
        "step",
        "waiting",
    )

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.step = 0
        self.waiting: deque[Request] = deque()
        self.loading = 0
        self.ready: deque[Request] = deque()
        self.running: dict[int, Request] = {}
        self.prefilling: Request | None = None
        self.decodes = 0
        self.context_sum = 0
        self.recomputed = self.preemptions = 0
        self.pool = BlockPool(blocks, block_tokens)

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
        self.pool.give(self.pool.blocks_for(request.computed))


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
    """

    chunks: list[tuple[Request, int]]
    decodes: int
    steps: int
    preempted: list[Request]
    loads: Sequence[Request] = ()


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
