"""Which weight format a checkpoint's configuration declares.

The dialects: ``quant_method`` (Hugging Face: fp8, awq, gptq, auto-round, mxfp4), ``quant_algo`` (NVIDIA ModelOpt,
which may also stand in a file of its own) and ``config_groups`` (compressed-tensors). Names as those tools write
them into ``config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hardware.errors import CatalogueError, suggest
from perfdb.model import WEIGHT_BYTES

__all__ = ["checked_format", "declared_format"]

_MODELOPT: Mapping[str, str] = MappingProxyType(
    {"fp8": "fp8", "fp8_pb_wo": "fp8_block", "nvfp4": "nvfp4", "w4a16_awq": "int4"}
)
#: compressed-tensors: (type, bits) of the weights.
_GROUPS: Mapping[tuple[object, object], str] = MappingProxyType(
    {("float", 8): "fp8", ("float", 4): "nvfp4", ("int", 8): "int8", ("int", 4): "int4"}
)


def checked_format(weights: str) -> str:
    """Return ``weights`` if it is a known weight format.

    Raises
    ------
    CatalogueError
        If it is not a key of :data:`perfdb.model.WEIGHT_BYTES`.
    """
    if weights not in WEIGHT_BYTES:
        raise CatalogueError(f"model.weights is {weights!r}, which is not known; {suggest(weights, WEIGHT_BYTES)}")
    return weights


def declared_format(name: str, config: Mapping[str, Any]) -> str:
    """Return the weight format of a configuration; without ``quantization_config`` 16 bits.

    Parameters
    ----------
    name
        What to call the model in messages.
    config
        The fields of ``config.json``.

    Raises
    ------
    CatalogueError
        If the declaration is not understood; ``model.weights`` overrides it.
    """
    declared = config.get("quantization_config")
    if not declared:
        return "bf16"
    found = _format(declared) if isinstance(declared, Mapping) else None
    if found is None:
        raise CatalogueError(
            f"{name}: quantization_config {_what(declared)} is not recognised; "
            f"set model.weights to one of {', '.join(WEIGHT_BYTES)}"
        )
    return found


def _what(declared: object) -> str:
    if not isinstance(declared, Mapping):
        return repr(declared)
    keys = ("quant_method", "quant_algo", "bits")
    return ", ".join(f"{key} = {declared[key]!r}" for key in keys if key in declared) or "without a quant_method"


def _format(declared: Mapping[str, Any]) -> str | None:
    method = str(declared.get("quant_method", "")).lower().replace("-", "_")
    if "quant_algo" in declared:
        return _MODELOPT.get(str(declared["quant_algo"]).lower())
    if method == "compressed_tensors":
        return _grouped(declared.get("config_groups"))
    if method == "fp8":
        return "fp8_block" if declared.get("weight_block_size") else "fp8"
    bits = declared.get("bits")
    if method in ("awq", "gptq", "auto_round") and bits in (4, 8):
        return f"int{bits}"
    return method if method in WEIGHT_BYTES else None


def _grouped(groups: object) -> str | None:
    """Return the format all groups of compressed-tensors share, or None."""
    if not isinstance(groups, Mapping):
        return None
    weights = [group.get("weights") if isinstance(group, Mapping) else None for group in groups.values()]
    found = {
        "fp8_block" if rule.get("strategy") == "block" else _GROUPS.get((rule.get("type"), rule.get("num_bits")))
        for rule in weights
        if isinstance(rule, Mapping)
    }
    return found.pop() if len(found) == 1 else None
