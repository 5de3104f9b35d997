"""Scheduling policies: plain, clock-free functions on plain state."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from simulator.schedulers.state import EngineState, Plan, Scheduler
from simulator.schedulers.vllm import VllmScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SCHEDULERS", "EngineState", "Plan", "Scheduler", "VllmScheduler"]

#: Every policy by name: max tokens, max sequences, chunked, reserve full prompt -> scheduler.
SCHEDULERS: Mapping[str, Callable[[int, int, bool, bool], Scheduler]] = MappingProxyType({"vllm": VllmScheduler})
