"""Options of serving engines under their own flag names, with their own defaults."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from hardware.strict import Strict
from simulator.ascend_options import AdditionalConfig
from simulator.layout_flags import refuse_layout_flags
from simulator.schedulers import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hardware.catalogue import Chip
    from perfdb.layout import Layout

__all__ = [
    "DistserveOptions",
    "EngineOptions",
    "EnginePlan",
    "SplitwiseOptions",
    "VllmOptions",
    "VllmV0Options",
]


#: From the run that DistServe's authors recorded of OPT-13B at 2 requests/s (``vllm-100-2.exp``), after its last
#: prompt: 97 steps of 22 sequences in 5.120 s and 432 steps of 11 on average in 16.813 s, 52.8 and 38.9 ms each, where
#: kernels and the host take 36.7 and 31.1: 0.77 ms for each sequence but one. One alone takes 25.0 and 25.4 ms.
_RAY_ANSWER_NS: Final = 770_000


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What options come to on one pool.

    Attributes
    ----------
    limits
        Limits of a step.
    utilization
        Share of each chip's memory the engine may use.
    block_tokens
        Tokens of one KV block.
    budget_option
        The option that holds the token budget; None where a longer prompt runs all the same.
    rules
        What the policy is told besides, by name; see :data:`simulator.schedulers.SCHEDULERS`.
    plans_ahead
        Each step is planned when the one before begins.
    stream_interval
        Tokens that go to a client together.
    polls_every
        Steps of decoding from one look at who has come to the next.
    balancer
        How requests are dealt to attention ranks, if not as the engine does by default.
    prompt_waits
        Steps for which attention ranks wait until all have prompts, and for more of them; None if they do not.
    wait_ms
        How long a step waits for more requests; see :mod:`simulator.fetch_window`.
    host_gib
        Host memory that keeps KV for an instance, or for each of its attention ranks, GiB.
    static
        ``utilization`` is of weights and KV alone.
    of_free
        ``utilization`` is the share of what is free beside weights and activations.
    most_blocks
        KV blocks, however many more there is room for.
    given_blocks
        KV blocks, whatever there is room for.
    most_kv_bytes
        Bytes of each chip that KV blocks take, however many more there is room for.
    max_prompt
        Longest prompt served; None for any that leaves room for an answer.
    encoder_tokens
        Tokens of images that are encoded in one step, and kept; None for no limit.
    kept_features
        Bytes of features kept for equal images, without ``encoder_tokens``: in an engine that computes prompts, and in
        one that encodes alone.
    whole_images
        A chunk of a prompt cuts no image.
    unused_tokens
        How much shorter than the context, and than the KV cache, the longest request is.
    answer_ns
        Time of the host per step and sequence until its token is with the API server, beyond the engine's own.
    """

    limits: Limits
    utilization: float
    block_tokens: int
    budget_option: str | None = "max_num_batched_tokens"
    rules: Mapping[str, Any] = field(default_factory=dict)
    plans_ahead: bool = False
    stream_interval: int = 1
    polls_every: int = 1
    balancer: str | None = None
    prompt_waits: tuple[int, int] | None = None
    wait_ms: float = 0.0
    host_gib: float = 0.0
    static: bool = False
    of_free: bool = False
    most_blocks: int | None = None
    given_blocks: int | None = None
    most_kv_bytes: int | None = None
    max_prompt: int | None = None
    unused_tokens: int = 0
    answer_ns: int = 0
    encoder_tokens: int | None = None
    kept_features: tuple[int, int] = (0, 0)
    whole_images: bool = False


class EngineOptions(Strict):
    """What every engine is told.

    Attributes
    ----------
    gpu_memory_utilization
        Share of each chip's memory the engine may use.
    block_size
        Tokens of one KV block.
    max_model_len
        Longest sequence, prompt and output; ``"auto"`` lowers it to what the KV cache can hold.
    length_option, memory_option
        What the engine calls the longest sequence, and the share of memory.
    """

    model_config = ConfigDict(strict=True)
    length_option: ClassVar[str] = "max_model_len"
    memory_option: ClassVar[str] = "gpu_memory_utilization"

    gpu_memory_utilization: float | None = Field(default=0.9, gt=0, le=1)
    block_size: int = Field(default=16, gt=0, le=4096)
    max_model_len: int | Literal["auto"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_layout(cls, table: object) -> object:
        refuse_layout_flags(table if isinstance(table, dict) else ())
        return table

    @model_validator(mode="after")
    def _some_length(self) -> Self:
        if isinstance(self.max_model_len, int) and self.max_model_len < 1:
            raise ValueError(f"max_model_len is {self.max_model_len}, expected a positive integer or 'auto'")
        return self

    @property
    def caches_prefixes(self) -> bool:
        """Whether blocks keep what they hold for requests that begin alike."""
        return False

    @property
    def prompts_first(self) -> bool:
        """Whether an engine that could cut prompts computes them whole, first and alone."""
        return False

    @property
    def two_batches(self) -> bool:
        """Whether steps pass layers with experts in two halves; see :mod:`perfdb.two_batches`."""
        return False

    def of_stages(self, *, prefills: bool, decodes: bool) -> Self:  # noqa: ARG002 - most do not ask
        """Return the options of a pool of these stages."""
        return self

    def filled(self, chip: Chip, longest: int, layout: Layout | None = None) -> Self:
        """Return the options with the defaults filled in that depend on the chips and on the longest sequence."""
        del chip, longest, layout
        return self

    def fitted(self, room: int, longest: int) -> Self:  # noqa: ARG002 - most do not ask
        """Return filled options with the defaults filled in that depend on the tokens of the KV cache."""
        return self

    @abstractmethod
    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what filled options come to on a pool that computes prompts, or on one that only decodes."""
        ...


class VllmOptions(EngineOptions):
    """Options of ``vllm serve``.

    Defaults that depend on the release or the chip are None here; :class:`simulator.vllm_eras.Era` fills them in.

    Attributes
    ----------
    max_num_batched_tokens
        Token budget of one step.
    max_num_seqs
        Running requests.
    enable_chunked_prefill
        Cut prompts to the token budget.
    scheduler_reserve_full_isl
        Admit a request only if its whole prompt fits in the free blocks.
    enable_prefix_caching
        Keep what blocks hold until they are taken again, for requests that begin alike.
    long_prefill_token_threshold
        The most tokens a step computes of one prompt while there are other requests; 0 for no such bound.
    long_prefill_token_threshold_adaptive
        That bound is never below an equal share of the budget.
    scheduling_policy
        ``"priority"`` admits the lowest ``priority`` first and preempts the highest.
    prefill_schedule_interval
        Steps from one that computes prompts to the next, while sequences decode; of attention ranks that step together,
        every so many steps they compute prompts, all in the same.
    watermark
        Share of the KV blocks that stays free when a request joins others.
    num_gpu_blocks_override
        KV blocks, the one that vLLM keeps as a placeholder among them, whatever there is room for.
    kv_offloading_size
        Host memory, GiB over all chips of an instance, that keeps the KV of blocks which are gone from the chips.
    async_scheduling
        Plan each step when the one before begins, so that the chip never waits for the host.
    stream_interval
        Tokens that go to a client together.
    disable_chunked_mm_input
        A chunk of a prompt ends before an image that it would cut.
    additional_config
        Of the plugin for Ascend.
    """

    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    max_num_seqs: int | None = Field(default=None, gt=0)
    enable_chunked_prefill: bool = True
    scheduler_reserve_full_isl: bool | None = None
    enable_prefix_caching: bool = True
    long_prefill_token_threshold: int = Field(default=0, ge=0)
    long_prefill_token_threshold_adaptive: bool = False
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    prefill_schedule_interval: int = Field(default=1, ge=1)
    watermark: float = Field(default=0.0, ge=0, lt=1)
    num_gpu_blocks_override: int | None = Field(default=None, gt=1)
    kv_offloading_size: float = Field(default=0.0, ge=0, le=2**20)
    async_scheduling: bool | None = None
    stream_interval: int = Field(default=1, ge=1)
    disable_chunked_mm_input: bool = False
    additional_config: AdditionalConfig | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _holds_every_sequence(self.max_num_batched_tokens, self.max_num_seqs)
        if self.prompts_first:
            harmless = {"kv_offloading_size": 0, "scheduling_policy": "fcfs", "prefill_schedule_interval": 1}
            for option, value in {**harmless, "async_scheduling": False, "long_prefill_token_threshold": 0}.items():
                if (found := getattr(self, option)) not in {value, None}:
                    raise ValueError(f"{option} is {found}, which is not simulated with the scheduler for Ascend")
        if self.kv_offloading_size and not self.enable_prefix_caching:
            raise ValueError("kv_offloading_size needs enable_prefix_caching, by which KV on the host is found")
        return self

    @property
    def caches_prefixes(self) -> bool:
        """Whether blocks keep what they hold for requests that begin alike."""
        return self.enable_prefix_caching

    @property
    def prompts_first(self) -> bool:
        """Whether the plugin for Ascend schedules: whole prompts first, and alone."""
        return self.additional_config is not None and self.additional_config.ascend_scheduler_config.enabled

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what filled options come to; the stages of the pool do not matter."""
        del prefills
        chunked = self.enable_chunked_prefill and not self.prompts_first
        limits = Limits(self.max_num_batched_tokens or 0, self.max_num_seqs or 0, chunked)
        rules = {
            "prompts_first": self.prompts_first,
            "reserve_full_prompt": self.scheduler_reserve_full_isl,
            "chunk_tokens": self.long_prefill_token_threshold,
            "chunk_share": self.long_prefill_token_threshold_adaptive,
            "by_priority": self.scheduling_policy == "priority",
            "interval": self.prefill_schedule_interval,
            "watermark": self.watermark,
        }
        return EnginePlan(
            limits,
            self.gpu_memory_utilization or 0.0,
            self.block_size,
            rules=rules,
            plans_ahead=bool(self.async_scheduling),
            host_gib=self.kv_offloading_size,
            given_blocks=self.num_gpu_blocks_override,
            stream_interval=self.stream_interval,
            # Whole prompts of a step have no more tokens of images than it has tokens: no bound of their own.
            encoder_tokens=None if self.prompts_first else self.max_num_batched_tokens,
            whole_images=self.disable_chunked_mm_input,
        )


class VllmV0Options(EngineOptions):
    """Options of vLLM 0.2, with the defaults of its ``EngineArgs``.

    Attributes
    ----------
    max_num_batched_tokens
        Prompt tokens of one step; 2048 or the longest sequence, whichever is more.
    max_num_seqs
        Running requests.
    engine_use_ray
        The engine is an actor of Ray's, which sends its API server the result of every step.
    """

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    max_num_seqs: int = Field(default=256, gt=0)
    engine_use_ray: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _holds_every_sequence(self.max_num_batched_tokens, self.max_num_seqs)
        return self

    def filled(self, chip: Chip, longest: int, layout: Layout | None = None) -> VllmV0Options:
        """Return the options with a token budget for the longest prompt."""
        del chip, layout
        tokens = self.max_num_batched_tokens or max(2048, longest, self.max_num_seqs)
        return self.model_copy(update={"max_num_batched_tokens": tokens})

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what filled options come to; the stages of the pool do not matter."""
        del prefills
        limits = Limits(self.max_num_batched_tokens or 0, self.max_num_seqs, chunked=False)
        answer_ns = _RAY_ANSWER_NS if self.engine_use_ray else 0
        return EnginePlan(limits, self.gpu_memory_utilization or 0.0, self.block_size, answer_ns=answer_ns)


class DistserveOptions(EngineOptions):
    """Options of DistServe's API server; the defaults are those its evaluation starts it with.

    Attributes
    ----------
    context_max_batch_size, context_max_tokens_per_batch
        Prompts, and their tokens, of one step of an engine that computes prompts.
    decoding_max_batch_size, decoding_max_tokens_per_batch
        Sequences, and tokens they compute (one each), of one step of an engine that decodes.
    """

    gpu_memory_utilization: float = Field(default=0.95, gt=0, le=1)
    context_max_batch_size: int = Field(default=128, gt=0)
    context_max_tokens_per_batch: int = Field(default=8192, gt=0)
    decoding_max_batch_size: int = Field(default=1024, gt=0)
    decoding_max_tokens_per_batch: int = Field(default=65536, gt=0)

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return the limits of the engine that computes prompts, or of the one that decodes."""
        if prefills:
            limits = Limits(self.context_max_tokens_per_batch, self.context_max_batch_size, chunked=False)
        else:
            sequences = min(self.decoding_max_batch_size, self.decoding_max_tokens_per_batch)
            limits = Limits(sequences, sequences, chunked=False)
        return EnginePlan(limits, self.gpu_memory_utilization or 0.0, self.block_size, "context_max_tokens_per_batch")


class SplitwiseOptions(EngineOptions):
    """Options of a machine of splitwise-sim, with the defaults of its configurations.

    Attributes
    ----------
    max_batch_size
        Running requests.
    max_batch_tokens
        Tokens of one step; a prompt that is longer runs without other prompts.
    """

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    max_batch_size: int = Field(default=512, gt=0)
    max_batch_tokens: int = Field(default=2048, gt=0)

    def plan(self, *, prefills: bool) -> EnginePlan:
        """Return what the options come to; the stages of the pool do not matter."""
        del prefills
        limits = Limits(self.max_batch_tokens, self.max_batch_size, chunked=False)
        return EnginePlan(limits, self.gpu_memory_utilization or 0.0, self.block_size, None)


def _holds_every_sequence(tokens: int | None, sequences: int | None) -> None:
    if tokens is not None and sequences is not None and tokens < sequences:
        raise ValueError(
            f"max_num_batched_tokens {tokens} is below max_num_seqs {sequences}; vLLM refuses that: "
            "a step must hold a token of every sequence"
        )
