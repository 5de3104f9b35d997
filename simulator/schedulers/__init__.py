"""Scheduling policies: plain, clock-free functions on plain state."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from simulator.schedulers.plan import Limits, Plan, Scheduler
from simulator.schedulers.reserving import ReservingScheduler
from simulator.schedulers.sarathi import SarathiScheduler
from simulator.schedulers.sglang import SglangScheduler
from simulator.schedulers.state import EngineState
from simulator.schedulers.trtllm import TrtllmScheduler
from simulator.schedulers.vllm import VllmScheduler
from simulator.schedulers.whole_prompts import WholePromptScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "SCHEDULERS",
    "EngineState",
    "Limits",
    "Plan",
    "Scheduler",
    "SglangScheduler",
    "TrtllmScheduler",
    "VllmScheduler",
    "WholePromptScheduler",
]


def _vllm(limits: Limits, *, prompts_first: bool = False, **rules: Any) -> Scheduler:  # noqa: ANN401 - checked there
    if prompts_first:
        return WholePromptScheduler(limits.max_tokens, limits.max_sequences, free_block_each=False)
    return VllmScheduler(limits.max_tokens, limits.max_sequences, limits.chunked, **rules)


def _trtllm(limits: Limits, **rules: Any) -> Scheduler:  # noqa: ANN401 - the policy checks them
    return TrtllmScheduler(limits.max_tokens, limits.max_sequences, limits.chunked, **rules)


def _vllm_v0(limits: Limits, **rules: Any) -> Scheduler:  # noqa: ANN401 - the policy checks them
    return WholePromptScheduler(limits.max_tokens, limits.max_sequences, **rules)


def _sglang(limits: Limits, **rules: Any) -> Scheduler:  # noqa: ANN401 - the policy checks them
    return SglangScheduler(limits.max_tokens if limits.chunked else 0, limits.max_sequences, **rules)


def _distserve(limits: Limits) -> Scheduler:
    return WholePromptScheduler(limits.max_tokens, limits.max_sequences, watermark=0.0, free_block_each=False)


def _splitwise(limits: Limits) -> Scheduler:
    return WholePromptScheduler(
        limits.max_tokens, limits.max_sequences, watermark=0.0, free_block_each=False, mixed=True
    )


def _sarathi(limits: Limits, **rules: Any) -> Scheduler:  # noqa: ANN401 - the policy checks them
    return SarathiScheduler(limits.max_tokens, limits.max_sequences, **rules)


def _orca(limits: Limits) -> Scheduler:
    return ReservingScheduler(limits.max_tokens, limits.max_sequences)


def _static(limits: Limits) -> Scheduler:
    return ReservingScheduler(limits.max_tokens, limits.max_sequences, joins_running=False)


#: Every policy by name: made from the limits of a step, and from rules of its own by name.
SCHEDULERS: Mapping[str, Callable[..., Scheduler]] = MappingProxyType(
    {
        "vllm": _vllm,
        "trtllm": _trtllm,
        "vllm_v0": _vllm_v0,
        "distserve": _distserve,
        "splitwise": _splitwise,
        "sarathi": _sarathi,
        "orca": _orca,
        "static": _static,
        "sglang": _sglang,
    }
)
