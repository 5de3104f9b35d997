"""Options of the baselines of the literature: Sarathi-Serve, and what its authors and others compared with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from simulator.engine_options import EngineOptions, EnginePlan
from simulator.schedulers.plan import Limits

if TYPE_CHECKING:
    from hardware.catalogue import Chip
    from perfdb.layout import Layout

__all__ = ["BatchOptions", "PromptFirstOptions", "SarathiOptions"]


class SarathiOptions(EngineOptions):
    """Options of Sarathi-Serve, with the defaults of its ``SarathiSchedulerConfig``.

    Attributes
    ----------
    chunk_size
        Tokens of one step, as long as it computes prompts.
    max_num_seqs
        Requests that hold KV.
    """

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    chunk_size: int = Field(default=512, gt=0)
    max_num_seqs: int = Field(default=128, gt=0)

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what the options come to; the stages of the pool do not matter."""
        del prefills
        limits = Limits(self.chunk_size, self.max_num_seqs)
        return EnginePlan(limits, self.gpu_memory_utilization, self.block_size, None)


class PromptFirstOptions(EngineOptions):
    """Options of vLLM's first scheduler in the code of those who compare with it (Sarathi-Serve, Vidur).

    Attributes
    ----------
    max_num_batched_tokens
        Prompt tokens of one step; by default those of the longest sequence.
    max_num_seqs
        Running requests.
    max_paddings
        Prompts of one step count as if all were as long as the longest (vLLM 0.2.2 to 0.3.3, and Vidur), and what that
        adds may be so many tokens; by default they lie end to end.
    """

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    max_num_seqs: int = Field(default=128, gt=0)
    max_paddings: int | None = Field(default=None, ge=0)

    def filled(self, chip: Chip, longest: int, layout: Layout | None = None) -> PromptFirstOptions:
        """Return the options with a token budget for the longest prompt."""
        del chip, layout
        return self.model_copy(update={"max_num_batched_tokens": self.max_num_batched_tokens or longest})

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what filled options come to; the stages of the pool do not matter."""
        del prefills
        limits = Limits(self.max_num_batched_tokens or 0, self.max_num_seqs, chunked=False)
        rules = {"max_paddings": self.max_paddings}
        return EnginePlan(limits, self.gpu_memory_utilization, self.block_size, rules=rules)


class BatchOptions(EngineOptions):
    """Options of engines that hold memory for the longest answer: Orca, and static batches.

    Attributes
    ----------
    max_batch_size
        Requests of a batch.
    """

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    max_batch_size: int = Field(default=16, gt=0)

    def filled(self, chip: Chip, longest: int, layout: Layout | None = None) -> BatchOptions:
        """Return the options with the longest sequence, by which a full batch of prompts is bounded."""
        del chip, layout
        return self.model_copy(update={"max_model_len": longest}) if self.max_model_len is None else self

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what filled options come to; the stages of the pool do not matter."""
        del prefills
        longest = self.max_model_len if isinstance(self.max_model_len, int) else 1
        limits = Limits(self.max_batch_size * longest, self.max_batch_size, chunked=False)
        return EnginePlan(limits, self.gpu_memory_utilization, self.block_size, None)
