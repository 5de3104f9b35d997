"""How much of each prompt a step of TensorRT-LLM computes: its micro-batch stage.

Prompts that fit the KV cache share what decoding sequences leave of the token budget. Tokens found in the cache cost
nothing, but they count in the window over a prompt that is handed out: a window that reaches its end costs what is
missing, any other one its size, and it ends where a block does. Order of decisions as in
``tensorrt_llm/_torch/pyexecutor/scheduler/scheduler.py`` (``PyMicroBatchScheduler``) of TensorRT-LLM 1.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulator.request import Request

__all__ = ["CHUNKING", "Context", "cut", "whole"]


@dataclass(slots=True)
class Context:
    """A prompt, or what is left of it, that fits the KV cache.

    Attributes
    ----------
    request
        Whose prompt it is.
    left
        Tokens not yet computed, those that are found in the cache among them.
    found
        Tokens that are found in the cache now.
    window
        Tokens handed out, from the first one not yet computed on.
    """

    request: Request
    left: int
    found: int
    window: int = 0

    def cost(self, window: int) -> int:
        """Return the tokens to compute for a window."""
        return window if self.found + window < self.left else max(0, self.left - self.found)

    def computed(self, unit: int) -> int:
        """Return the tokens the step computes after those found."""
        end = self.found + self.window
        return self.left - self.found if end >= self.left else end // unit * unit - self.found


def whole(contexts: Sequence[Context], budget: int, *, alone: bool) -> None:
    """Hand out whole prompts in turn until one does not fit.

    Parameters
    ----------
    contexts
        Prompts in turn.
    budget
        Tokens left.
    alone
        Nothing else is computed, so that the first prompt fits whatever it costs: one that was paused and has grown.
    """
    for context in contexts:
        cost = max(1, context.left - context.found)
        if cost > budget and not alone:
            break
        context.window = context.left
        budget -= cost
        alone = False


def cut(contexts: Sequence[Context], budget: int, unit: int, most: int, policy: str) -> None:
    """Hand out windows.

    Parameters
    ----------
    contexts
        Prompts in turn.
    budget
        Tokens left.
    unit
        Tokens of a block: windows that end before the prompt are multiples of it.
    most
        Token budget of a whole step, which no window exceeds.
    policy
        Key of :data:`CHUNKING`, used where not every prompt fits whole.
    """
    costs = [context.cost(context.left) for context in contexts]
    if policy != "FORCE_CHUNK" and sum(costs) <= budget:
        for context in contexts:
            context.window = context.left
    else:
        CHUNKING[policy](contexts, budget, unit, most)


def _first_come(contexts: Sequence[Context], budget: int, unit: int, most: int) -> None:
    """Each prompt in turn takes as much as is left."""
    del most
    for context in contexts:
        window = context.left
        if context.cost(window) > budget:
            window = budget // unit * unit
        context.window = window
        budget -= context.cost(window)


def _equal_progress(contexts: Sequence[Context], budget: int, unit: int, most: int) -> None:
    """All prompts take a block more in turn, until the budget is used up or none can take more."""
    moved = True
    while budget > 0 and moved:
        moved = False
        for context in contexts:
            window = min(context.window + unit, context.left)
            more = context.cost(window) - context.cost(context.window)
            if more <= budget and window <= most:
                budget -= more
                moved |= window > context.window
                context.window = window


def _forced(contexts: Sequence[Context], budget: int, unit: int, most: int) -> None:
    """Each prompt in turn takes all of itself or what is left; tokens found in the cache are not deducted."""
    for context in contexts:
        window = context.left if context.left <= most else most // unit * unit
        if window > budget:
            window = budget // unit * unit
        context.window = window
        budget -= window


#: How prompts share a step, by the name of the option ``context_chunking_policy``.
CHUNKING: Mapping[str, Callable[[Sequence[Context], int, int, int], None]] = MappingProxyType(
    {"FIRST_COME_FIRST_SERVED": _first_come, "EQUAL_PROGRESS": _equal_progress, "FORCE_CHUNK": _forced}
)
