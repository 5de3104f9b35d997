"""What pricing tests are made of: compiled costs by name, forward passes, and the tables where they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hardware.catalogue import load_chip
from perfdb.compile import CompiledCosts, HostTime, StepLimits, compile_costs
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import step_operators
from perfdb.sources import DEFAULT_SOURCES, source_chain
from perfdb.tables import installed_root

if TYPE_CHECKING:
    from perfdb.step_prices import StepPrices

SHARED = Path(__file__).parents[2] / "shared"
LIMITS = StepLimits(tokens=8192, sequences=256, context=16384)

needs_tables = pytest.mark.skipif(installed_root() is None, reason="aiconfigurator-core is not installed")


@cache
def costs_of(
    model: str,
    chip: str,
    tensor: int = 1,
    sources: tuple[str, ...] = DEFAULT_SOURCES,
    framework: str = "vllm",
    limits: StepLimits = LIMITS,
    host: HostTime = HostTime(),  # noqa: B008 - a frozen value
) -> CompiledCosts:
    """Return the compiled costs of a preset on a chip."""
    operators = step_operators(load_model(model), Layout(tensor))
    return compile_costs(operators, source_chain(load_chip(chip), framework, sources), limits, host)


def prefill_ns(prices: StepPrices, *chunks: tuple[int, int], completed: int = 0) -> int:
    """Return the price of one pass over chunks of (past, new) tokens and nothing else."""
    return prices.mixed_ns(
        tokens=sum(new for _, new in chunks),
        samples=completed,
        decodes=0,
        context=0,
        prompts=len(chunks),
        pairs=sum((past + new) ** 2 - past**2 for past, new in chunks),
        reach=sum(past + new for past, new in chunks),
    )
