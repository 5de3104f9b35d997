"""The trace formats, one module each, and the mapping that names them all."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from workloads.readers.azure import Azure
from workloads.readers.bailian import Bailian
from workloads.readers.burstgpt import BurstGpt
from workloads.readers.mooncake import Mooncake
from workloads.readers.plain_csv import PlainCsv
from workloads.readers.servegen import ServeGen
from workloads.readers.vllm import Vllm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workloads.readers.protocol import Reader

__all__ = ["READERS"]

READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        "azure": Azure(),
        "bailian": Bailian(),
        "burstgpt": BurstGpt(),
        "csv": PlainCsv(),
        "mooncake": Mooncake(),
        "servegen": ServeGen(),
        "vllm": Vllm(),
    }
)
"""Every trace format, by the name ``format`` takes in a scenario."""
