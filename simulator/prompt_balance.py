"""Whether attention ranks of TensorRT-LLM compute prompts now, or wait until all of them have some.

``attention_dp_config`` with ``enable_balance``, as in ``_balance_adp_context_requests`` of the PyTorch backend of 1.3:
a step with prompts is slow for all ranks, whether or not they have any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PromptBalance"]


class PromptBalance:
    """What the ranks of one instance have agreed on.

    Parameters
    ----------
    timeout_steps
        Steps after which prompts no longer wait for other ranks to have some (``timeout_iters``).
    batching_steps
        Steps for which all ranks wait for more of them (``batching_wait_iters``).
    max_sequences
        Requests of a step.
    """

    __slots__ = ("_all_decode", "_batched", "_batching", "_max_sequences", "_timeout", "_waited")

    def __init__(self, timeout_steps: int, batching_steps: int, max_sequences: int) -> None:
        self._timeout, self._batching, self._max_sequences = timeout_steps, batching_steps, max_sequences
        self._waited = self._batched = 0
        self._all_decode = True

    def holds(self, prompts: Sequence[int], decodes: Sequence[int]) -> bool:
        """Plan a step; tell whether prompts are put off.

        Parameters
        ----------
        prompts, decodes
            Prompts that each rank would compute some of, and sequences that it decodes; an empty batch counts as one.
        """
        self._all_decode = all(decodes)
        if all(prompts) and max(decodes) < self._max_sequences:
            self._waited = 0
            if not self._all_decode:
                return False
            puts_off = self._batched < self._batching
            self._batched = self._batched + 1 if puts_off else 0
            return puts_off
        self._waited += 1
        if self._waited >= self._timeout or not self._all_decode:
            self._waited = 0
            return False
        return True

    def repeat(self, steps: int) -> None:
        """Plan so many steps more like the last one, in which no rank computed prompts."""
        if self._all_decode and self._timeout:
            self._waited = (self._waited + steps) % self._timeout
