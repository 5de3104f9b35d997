"""What distinguishes serving engines: options with their defaults, a policy, overheads, kernel tables.

An engine is data plus a scheduling policy; none is a subclass of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from hardware.strict import Strict
from perfdb.compile import HostTime
from perfdb.memory import MemoryBudget
from simulator.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hardware.catalogue import Chip
    from simulator.schedulers import Scheduler

__all__ = ["ENGINES", "Engine", "VllmOptions"]


class VllmOptions(Strict):
    """Options of ``vllm serve``, under their own names.

    Defaults are those of the OpenAI-compatible server in late 2026 (conventions of the field, section B3):
    8192 batched tokens and 1024 sequences on chips of 70 GiB or more that are not A100, else 2048 and 256.

    Attributes
    ----------
    max_num_batched_tokens
        Token budget of one step.
    max_num_seqs
        Running requests.
    gpu_memory_utilization
        Share of each chip's memory the engine may use.
    block_size
        Tokens of one KV block.
    max_model_len
        Longest sequence, prompt and output; ``"auto"`` lowers it to what the KV cache can hold.
    enable_chunked_prefill
        Cut prompts to the token budget.
    scheduler_reserve_full_isl
        Admit a request only if its whole prompt fits in the free blocks.
    enable_prefix_caching
        Keep what blocks hold until they are taken again, for requests that begin alike.
    """

    model_config = ConfigDict(strict=True)

    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    max_num_seqs: int | None = Field(default=None, gt=0)
    gpu_memory_utilization: float = Field(default=0.92, gt=0, le=1)
    block_size: int = Field(default=16, gt=0, le=4096)
    max_model_len: int | Literal["auto"] | None = None
    enable_chunked_prefill: bool = True
    scheduler_reserve_full_isl: bool = True
    enable_prefix_caching: bool = True

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if isinstance(self.max_model_len, int) and self.max_model_len < 1:
            raise ValueError(f"max_model_len is {self.max_model_len}, expected a positive integer or 'auto'")
        tokens, sequences = self.max_num_batched_tokens, self.max_num_seqs
        if tokens is not None and sequences is not None and tokens < sequences:
            raise ValueError(
                f"max_num_batched_tokens {tokens} is below max_num_seqs {sequences}; vLLM refuses that: "
                "a step must hold a token of every sequence"
            )
        return self

    def for_chip(self, chip: Chip) -> VllmOptions:
        """Return the options with the defaults that depend on the chip filled in."""
        large = chip.visible_memory_bytes >= 70 * 2**30 and not chip.name.startswith("a100")
        tokens = self.max_num_batched_tokens or max(8192 if large else 2048, self.max_num_seqs or 0)
        sequences = self.max_num_seqs or min(1024 if large else 256, tokens)
        return self.model_copy(update={"max_num_batched_tokens": tokens, "max_num_seqs": sequences})


def _captured_graphs(max_sequences: int) -> int:
    """Return the CUDA graphs vLLM captures: sizes 1, 2, 4, then every 8 up to 512 or twice the sequences."""
    return 3 + min(512, 2 * max_sequences) // 8


@dataclass(frozen=True, slots=True)
class Engine:
    """A serving engine.

    Attributes
    ----------
    framework
        Whose kernel tables price it.
    policy
        Key of :data:`simulator.schedulers.SCHEDULERS`.
    host
        Time of the host per step that kernels do not hide.
    reserved_blocks
        KV blocks that no sequence gets (vLLM keeps block 0 as a placeholder).
    """

    framework: str
    policy: str
    host: HostTime
    reserved_blocks: int

    def scheduler(self, options: VllmOptions) -> Scheduler:
        """Return the policy for options whose chip defaults are filled in."""
        return SCHEDULERS[self.policy](
            options.max_num_batched_tokens or 0,
            options.max_num_seqs or 0,
            options.enable_chunked_prefill,
            options.scheduler_reserve_full_isl,
        )

    def memory_budget(self, options: VllmOptions) -> MemoryBudget:
        """Return what the engine assumes about memory."""
        sequences = options.max_num_seqs or 0
        return MemoryBudget(
            utilization=options.gpu_memory_utilization,
            step_tokens=options.max_num_batched_tokens or 0,
            step_sequences=sequences,
            block_tokens=options.block_size,
            graphs=_captured_graphs(sequences),
        )


#: Engines by name. vLLM's host time, 0.6 ms per step and 20 us per sequence, is the median of measured minus
#: simulated token times over 120 public runs of vLLM on H100 to B200 (docs/decisions/005-host-time.md).
ENGINES: Mapping[str, Engine] = MappingProxyType(
    {"vllm": Engine("vllm", "vllm", HostTime(step_ns=600_000, sequence_ns=20_000), reserved_blocks=1)}
)
