"""Options of TensorRT-LLM under its own names, with its own defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from hardware.strict import Strict
from simulator.engine_options import EngineOptions, EnginePlan
from simulator.schedulers import Limits

if TYPE_CHECKING:
    from hardware.catalogue import Chip
    from perfdb.layout import Layout

__all__ = ["AttentionDpConfig", "KvCacheConfig", "SchedulerConfig", "TrtllmOptions"]


class KvCacheConfig(Strict):
    """``kv_cache_config`` of TensorRT-LLM.

    Attributes
    ----------
    free_gpu_memory_fraction
        Share of the memory that is free beside weights and activations that KV blocks take.
    tokens_per_block
        Tokens of one KV block.
    enable_block_reuse
        Keep what blocks hold until they are taken again, for requests that begin alike.
    max_tokens
        Tokens the blocks hold at most.
    max_gpu_total_bytes
        Bytes of each chip that they take at most; 0 for no such bound.
    """

    model_config = ConfigDict(strict=True)

    free_gpu_memory_fraction: float = Field(default=0.9, gt=0, lt=1)
    tokens_per_block: int = Field(default=32, gt=0, le=4096)
    enable_block_reuse: bool = True
    max_tokens: int | None = Field(default=None, gt=0)
    max_gpu_total_bytes: int = Field(default=0, ge=0)


class SchedulerConfig(Strict):
    """``scheduler_config`` of TensorRT-LLM.

    Attributes
    ----------
    capacity_scheduler_policy
        Who is let in: see :mod:`simulator.schedulers.capacity`.
    context_chunking_policy
        How prompts share a step: see :mod:`simulator.schedulers.chunking`.
    enable_prefix_aware_scheduling
        Decide with what is found in the cache, and let a prompt wait for what another is computing.
    """

    model_config = ConfigDict(strict=True)

    capacity_scheduler_policy: Literal["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"] = "GUARANTEED_NO_EVICT"
    context_chunking_policy: Literal["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS", "FORCE_CHUNK"] | None = None
    enable_prefix_aware_scheduling: bool = True


class AttentionDpConfig(Strict):
    """``attention_dp_config`` of TensorRT-LLM, for attention ranks.

    Attributes
    ----------
    enable_balance
        Ranks compute prompts when all of them have some; see :mod:`simulator.prompt_balance`.
    timeout_iters
        Steps after which prompts no longer wait for that.
    batching_wait_iters
        Steps for which they wait for more, once all ranks have some.
    """

    model_config = ConfigDict(strict=True)

    enable_balance: bool = False
    timeout_iters: int = Field(default=50, ge=0)
    batching_wait_iters: int = Field(default=10, ge=0)


_OTHER_NAMES: Final = {
    "gpu_memory_utilization": "kv_cache_config.free_gpu_memory_fraction",
    "block_size": "kv_cache_config.tokens_per_block",
}


class TrtllmOptions(EngineOptions):
    """Options of ``trtllm-serve`` with the PyTorch backend, as in its YAML file, with the defaults of 1.3.

    Attributes
    ----------
    max_seq_len
        Longest sequence, prompt and output; ``"auto"`` lowers it to what the KV cache can hold.
    max_batch_size
        Requests of one step.
    max_num_tokens
        Token budget of one step; without chunked prefill, longer prompts are refused.
    enable_chunked_prefill
        Cut prompts to the token budget.
    kv_cache_config, scheduler_config, attention_dp_config
        Tables of their own.
    disable_overlap_scheduler
        Plan each step when the one before is over, and not while it runs.
    stream_interval
        Tokens that go to a client together.
    batch_wait_timeout_ms
        How long each step waits for more requests, unless ``max_batch_size`` have come; see
        :mod:`simulator.fetch_window`.
    batch_wait_timeout_iters, batch_wait_max_tokens_ratio
        While sequences decode, prompts wait for at most so many steps, or until a step has this share of its tokens.
        With attention ranks TensorRT-LLM looks at neither (``_schedule`` of ``pyexecutor/py_executor.py``).
    """

    length_option: ClassVar[str] = "max_seq_len"
    memory_option: ClassVar[str] = "kv_cache_config.free_gpu_memory_fraction"

    gpu_memory_utilization: float = Field(default=0.9, exclude=True)
    block_size: int = Field(default=32, exclude=True)
    max_model_len: int | Literal["auto"] | None = Field(
        default=None, validation_alias=AliasChoices("max_seq_len", "max_model_len")
    )
    max_batch_size: int = Field(default=2048, gt=0)
    max_num_tokens: int = Field(default=8192, gt=0)
    enable_chunked_prefill: bool = False
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    scheduler_config: SchedulerConfig = SchedulerConfig()
    attention_dp_config: AttentionDpConfig = AttentionDpConfig()
    disable_overlap_scheduler: bool = False
    stream_interval: int = Field(default=1, ge=1)
    batch_wait_timeout_ms: float = Field(default=0.0, ge=0, le=1e6)
    batch_wait_timeout_iters: int = Field(default=0, ge=0)
    batch_wait_max_tokens_ratio: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _own_names(cls, table: object) -> object:
        for name, own in _OTHER_NAMES.items():
            if isinstance(table, dict) and name in table:
                raise ValueError(f"{name} is an option of vLLM; TensorRT-LLM calls it {own}")
        return table

    @model_validator(mode="after")
    def _chunks(self) -> Self:
        unit, policy = self.kv_cache_config.tokens_per_block, self.scheduler_config.context_chunking_policy
        if policy is not None and not self.enable_chunked_prefill:
            raise ValueError(
                f"context_chunking_policy is {policy}, but prompts are cut only with enable_chunked_prefill"
            )
        if self.enable_chunked_prefill and self.max_num_tokens < unit:
            raise ValueError(
                f"max_num_tokens {self.max_num_tokens} is below tokens_per_block {unit}: no chunk ever fits"
            )
        return self

    @property
    def caches_prefixes(self) -> bool:
        """Whether blocks keep what they hold for requests that begin alike."""
        return self.kv_cache_config.enable_block_reuse

    def filled(self, chip: Chip, longest: int, layout: Layout | None = None) -> Self:
        """Return the options of one attention rank."""
        del chip, longest
        alone = layout is None or layout.data == 1
        return self if alone else self.model_copy(update={"batch_wait_timeout_iters": 0})

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what the options come to; the stages of the pool do not matter."""
        del prefills
        cache, scheduler, ranks = self.kv_cache_config, self.scheduler_config, self.attention_dp_config
        rules = {
            "capacity": scheduler.capacity_scheduler_policy,
            "chunking": scheduler.context_chunking_policy or "FIRST_COME_FIRST_SERVED",
            "prefix_aware": scheduler.enable_prefix_aware_scheduling,
            "wait_steps": self.batch_wait_timeout_iters,
            "wait_share": self.batch_wait_max_tokens_ratio,
        }
        return EnginePlan(
            Limits(self.max_num_tokens, self.max_batch_size, self.enable_chunked_prefill),
            cache.free_gpu_memory_fraction,
            cache.tokens_per_block,
            budget_option=None,
            rules=rules,
            plans_ahead=not self.disable_overlap_scheduler,
            stream_interval=self.stream_interval,
            prompt_waits=(ranks.timeout_iters, ranks.batching_wait_iters) if ranks.enable_balance else None,
            wait_ms=self.batch_wait_timeout_ms,
            of_free=True,
            most_kv_bytes=cache.max_gpu_total_bytes or None,
            most_blocks=None if cache.max_tokens is None else -(-cache.max_tokens // cache.tokens_per_block),
            max_prompt=None if self.enable_chunked_prefill else self.max_num_tokens,
        )
