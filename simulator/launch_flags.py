"""What engines call the options of ours on their command lines: a row for every option, so that none is dropped.

Names are those of the argument parsers of vLLM 0.33.0 and SGLang 0.5.23; ``python -m benchmarks.record_flags`` writes
down what these parsers know, and a test holds the tables against that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["SGLANG_FLAGS", "VLLM_FLAGS", "Argument", "Elsewhere", "Flag", "chosen", "option_arguments"]


@dataclass(frozen=True, slots=True)
class Argument:
    """What a server is told.

    Attributes
    ----------
    words
        A flag, and its value where it has one.
    is_chosen
        The scenario says so; else it is a default of the engine, made explicit.
    """

    words: tuple[str, ...]
    is_chosen: bool = True


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that takes the value of an option.

    Attributes
    ----------
    name
        The flag.
    off
        Of a switch: the flag that turns it off, or nothing where leaving it out does; None for a flag with a value.
    unsaid
        A value for which nothing is said, since the flag has no word for it.
    stage
        It is for servers of this one stage alone.
    dealt
        Its value is for all attention ranks together, while filled options are those of one.
    """

    name: str
    off: str | None = None
    unsaid: object = None
    stage: str | None = None
    dealt: bool = False

    def words(self, value: object) -> tuple[str, ...]:
        """Return the words that give it a value; none, where it is said by silence."""
        if value is None or (value == self.unsaid and value is not False):
            return ()
        if self.off is None:
            return self.name, value if isinstance(value, str) else json.dumps(value)
        return tuple(word for word in (self.name if value else self.off,) if word)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An option that is no flag of a server, and how it comes to be all the same."""

    why: str


#: By option of :class:`simulator.engine_options.VllmOptions`.
VLLM_FLAGS: Final[Mapping[str, Flag | Elsewhere]] = MappingProxyType(
    {
        "gpu_memory_utilization": Flag("--gpu-memory-utilization"),
        "block_size": Flag("--block-size"),
        "max_model_len": Flag("--max-model-len"),
        "max_num_batched_tokens": Flag("--max-num-batched-tokens"),
        "max_num_seqs": Flag("--max-num-seqs"),
        "enable_chunked_prefill": Flag("--enable-chunked-prefill", off="--no-enable-chunked-prefill"),
        "scheduler_reserve_full_isl": Flag("--scheduler-reserve-full-isl", off="--no-scheduler-reserve-full-isl"),
        "enable_prefix_caching": Flag("--enable-prefix-caching", off="--no-enable-prefix-caching"),
        "long_prefill_token_threshold": Flag("--long-prefill-token-threshold"),
        "long_prefill_token_threshold_adaptive": Flag(
            "--long-prefill-token-threshold-adaptive", off="--no-long-prefill-token-threshold-adaptive"
        ),
        "scheduling_policy": Flag("--scheduling-policy"),
        "prefill_schedule_interval": Flag("--prefill-schedule-interval"),
        "watermark": Flag("--watermark"),
        "num_gpu_blocks_override": Flag("--num-gpu-blocks-override"),
        "kv_offloading_size": Flag("--kv-offloading-size", unsaid=0.0),
        "async_scheduling": Flag("--async-scheduling", off="--no-async-scheduling"),
        "stream_interval": Flag("--stream-interval"),
        "disable_chunked_mm_input": Flag("--disable-chunked-mm-input", off="--no-disable-chunked-mm-input"),
        "additional_config": Flag("--additional-config"),
    }
)

#: By option of :class:`simulator.sglang_options.SglangOptions`.
SGLANG_FLAGS: Final[Mapping[str, Flag | Elsewhere]] = MappingProxyType(
    {
        "gpu_memory_utilization": Elsewhere("mem_fraction_static says it"),
        "block_size": Elsewhere("page_size says it"),
        "max_model_len": Elsewhere("context_length says it"),
        "mem_fraction_static": Flag("--mem-fraction-static"),
        "page_size": Flag("--page-size"),
        "context_length": Flag("--context-length"),
        "chunked_prefill_size": Flag("--chunked-prefill-size", dealt=True),
        "max_prefill_tokens": Flag("--max-prefill-tokens"),
        "prefill_max_requests": Flag("--prefill-max-requests"),
        "max_running_requests": Flag("--max-running-requests", dealt=True),
        "max_total_tokens": Flag("--max-total-tokens"),
        "schedule_policy": Flag("--schedule-policy"),
        "load_balance_method": Flag("--load-balance-method"),
        "schedule_conservativeness": Flag("--schedule-conservativeness", dealt=True),
        "enable_mixed_chunk": Flag("--enable-mixed-chunk", off=""),
        "disable_radix_cache": Flag("--disable-radix-cache", off=""),
        "disable_overlap_schedule": Flag("--disable-overlap-schedule", off=""),
        "enable_two_batch_overlap": Flag("--enable-two-batch-overlap", off=""),
        "stream_interval": Flag("--stream-interval"),
        "scheduler_recv_interval": Flag("--scheduler-recv-interval"),
        "prefill_decode_interval": Flag("--prefill-decode-interval"),
        "prefill_decode_interval_min_bs": Flag("--prefill-decode-interval-min-bs"),
        "enable_priority_scheduling": Flag("--enable-priority-scheduling", off=""),
        "disable_priority_preemption": Flag("--disable-priority-preemption", off=""),
        "priority_scheduling_preemption_threshold": Flag("--priority-scheduling-preemption-threshold"),
        "retraction_policy": Flag("--retraction-policy"),
        "cuda_graph_max_bs_decode": Flag("--cuda-graph-max-bs-decode"),
        "num_reserved_decode_tokens": Flag("--num-reserved-decode-tokens", stage="decode"),
        "disaggregation_decode_extra_slots": Flag("--disaggregation-decode-extra-slots", stage="decode"),
        "disaggregation_mode": Elsewhere("follows from the stages of the pool"),
        "ignore_eos": Elsewhere("a sampling parameter: clients send it"),
    }
)


def chosen(*words: object) -> Argument:
    """Return what a server is told because the scenario says so."""
    return Argument(tuple(str(word) for word in words))


def option_arguments(
    flags: Mapping[str, Flag | Elsewhere],
    filled: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    role: str | None,
    ranks: int,
) -> Iterator[Argument]:
    """Yield what an engine is told of its options, those of the scenario and its defaults.

    Parameters
    ----------
    flags
        The table of the engine.
    filled
        Every option as it was simulated.
    own
        Those that the scenario sets, as it sets them.
    role
        The stage of a pool of one.
    ranks
        Attention ranks; a default that is dealt to several of them is left to the engine, which deals it.
    """
    for option, flag in flags.items():
        if isinstance(flag, Elsewhere) or (flag.stage is not None and role != flag.stage):
            continue
        is_own = own.get(option) is not None
        if flag.dealt and ranks > 1 and not is_own:
            continue
        words = flag.words(own[option] if is_own else filled.get(option))
        if words:
            yield Argument(words, is_own)
