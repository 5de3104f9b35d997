"""Flags by which engines are told how a model is cut over chips, which a scenario says in ``[[pool]]``."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["LAYOUT_FLAGS", "refuse_layout_flags"]

#: The key of ``[[pool]]`` for each flag.
LAYOUT_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "tensor_parallel_size": "tensor_parallel",
        "tp_size": "tensor_parallel",
        "pipeline_parallel_size": "pipeline_parallel",
        "pp_size": "pipeline_parallel",
        "data_parallel_size": "data_parallel",
        "dp_size": "data_parallel",
        "attn_dp_size": "data_parallel",
        "enable_dp_attention": "data_parallel",
        "enable_attention_dp": "data_parallel",
    }
)


def refuse_layout_flags(options: Iterable[str]) -> None:
    """Check that no option of an engine is one of them.

    Raises
    ------
    ValueError
        Naming the key to set.
    """
    for name in options:
        if name in LAYOUT_FLAGS:
            raise ValueError(f"{name} is no option of an engine here; set {LAYOUT_FLAGS[name]} of the pool")
