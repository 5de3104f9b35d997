"""The options of whichever engine a pool names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Discriminator, Tag

from simulator.baseline_options import BatchOptions, PromptFirstOptions, SarathiOptions
from simulator.engine_options import (
    DistserveOptions,
    EngineOptions,
    SplitwiseOptions,
    VllmOptions,
    VllmV0Options,
)
from simulator.sglang_options import SglangOptions
from simulator.trtllm_options import TrtllmOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AnyOptions", "OptionTable"]


class OptionTable(dict[str, Any]):
    """A table of options, and the name of the type they are of: it says so nowhere itself."""

    def __init__(self, table: Mapping[str, Any], tag: str) -> None:
        super().__init__(table)
        self.tag = tag


def _tag(table: object) -> str:
    return type(table).__name__ if isinstance(table, EngineOptions) else getattr(table, "tag", "VllmOptions")


#: The options of some engine; :func:`simulator.engines.mark_options` says of which before they are read.
AnyOptions: TypeAlias = Annotated[
    Annotated[VllmOptions, Tag("VllmOptions")]
    | Annotated[VllmV0Options, Tag("VllmV0Options")]
    | Annotated[SglangOptions, Tag("SglangOptions")]
    | Annotated[TrtllmOptions, Tag("TrtllmOptions")]
    | Annotated[DistserveOptions, Tag("DistserveOptions")]
    | Annotated[SplitwiseOptions, Tag("SplitwiseOptions")]
    | Annotated[SarathiOptions, Tag("SarathiOptions")]
    | Annotated[PromptFirstOptions, Tag("PromptFirstOptions")]
    | Annotated[BatchOptions, Tag("BatchOptions")],
    Discriminator(_tag),
]
