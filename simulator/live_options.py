"""What an installed vLLM is told, of the options of ours."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from hardware.errors import ScenarioError
from simulator.installed_vllm import CoreOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.engine_options import VllmOptions

__all__ = ["core_options"]


#: Options of ``vllm serve`` that its ``SchedulerConfig`` has under another name, or under the same.
_SCHEDULER_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "max_num_batched_tokens": "max_num_batched_tokens",
        "max_num_seqs": "max_num_seqs",
        "enable_chunked_prefill": "enable_chunked_prefill",
        "scheduler_reserve_full_isl": "scheduler_reserve_full_isl",
        "long_prefill_token_threshold": "long_prefill_token_threshold",
        "long_prefill_token_threshold_adaptive": "long_prefill_token_threshold_adaptive",
        "scheduling_policy": "policy",
        "prefill_schedule_interval": "prefill_schedule_interval",
        "watermark": "watermark",
        "async_scheduling": "async_scheduling",
    }
)


def core_options(options: VllmOptions, blocks: int) -> CoreOptions:
    """Return what an installed vLLM is told, of filled options and of the blocks that sequences can use."""
    if options.kv_offloading_size:
        raise ScenarioError("kv_offloading_size is set, but the engine 'vllm-live' has no host memory; leave it out")
    length = options.max_model_len
    if not isinstance(length, int):
        raise TypeError(f"max_model_len is {length!r}, expected a number")
    scheduler = {theirs: getattr(options, ours) for ours, theirs in _SCHEDULER_OPTIONS.items()}
    return CoreOptions(blocks, options.block_size, length, options.enable_prefix_caching, scheduler)
