"""What a scheduling policy is, and the plan it returns."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - looked up where this is compiled
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from simulator.request import Request  # noqa: TC001 - the same

if TYPE_CHECKING:
    from simulator.schedulers.state import EngineState

__all__ = ["Limits", "Plan", "Scheduler"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What every engine's options allow a step to hold.

    Attributes
    ----------
    max_tokens
        Token budget of a step.
    max_sequences
        Running requests.
    chunked
        Prompts may be cut to what is left of the budget.
    """

    max_tokens: int
    max_sequences: int
    chunked: bool = True


class Plan:
    """Who computes how many tokens next, and for how many steps that stays true.

    Attributes
    ----------
    chunks
        Prompt chunks: (request, new tokens).
    decodes
        Sequences that compute one token besides: all that decode, or none, and then they stand still.
    steps
        Steps for which the plan surely holds if nothing arrives and nothing finishes: at least 1; 0 where nothing is
        computed because the next plan, made at once, knows more.
    preempted
        Requests put back into the queue to make room.
    loads
        Requests that got blocks for KV that must now be fetched from another instance.
    fetches
        Requests that got blocks for KV that must now be copied from the host.
    joined
        Requests that decode from this step on after standing still, or whose KV was fetched; among ``decodes``.
    held
        Decoding requests that stand still in this step, for want of budget; not among ``decodes``.
    spare
        Requests that have all their tokens and decode once more, for nothing; among ``decodes`` of this one step.
    """

    # No dataclass: one is made for every event of an engine, and what makes it is compiled where the engine is.
    __slots__ = ("chunks", "decodes", "fetches", "held", "joined", "loads", "preempted", "spare", "steps")

    def __init__(self, chunks: list[tuple[Request, int]], decodes: int, steps: int, preempted: list[Request]) -> None:
        self.chunks, self.preempted = chunks, preempted
        self.decodes, self.steps = decodes, steps
        nobody: Sequence[Request] = ()
        self.loads = self.fetches = self.joined = self.held = self.spare = nobody

    def sums(self) -> tuple[int, int, int, int, int]:
        """Return of the chunks: tokens, how many complete a prompt, pairs of tokens, doubled, ends, and squares."""
        tokens = completed = pairs = reach = squares = 0
        for request, new in self.chunks:
            past = request.computed
            end = past + new
            tokens += new
            pairs += end * end - past * past
            reach += end
            squares += new * new
            completed += end == request.tokens
        return tokens, completed, pairs, reach, squares


class Scheduler(Protocol):
    """Decides what the next step computes."""

    def begin(self, state: EngineState) -> None:
        """Give a new instance the queue this policy takes requests from, and what it remembers between steps."""
        ...

    def plan(self, state: EngineState) -> Plan:
        """Return the next plan and take the blocks it needs.

        Parameters
        ----------
        state
            The instance; the scheduler moves requests between its queues. A plan of several steps takes no
            blocks yet: the engine, which knows when a request finishes, takes those of the steps it ran.
        """
        ...
