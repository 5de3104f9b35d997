"""Which matrices of a checkpoint are quantised, and how: what its configuration declares.

The dialects: ``quant_method`` (Hugging Face: fp8, awq, gptq, auto-round, mxfp4), ``quant_algo`` (NVIDIA ModelOpt,
which may also stand in a file of its own) and ``config_groups`` (compressed-tensors), each with a list of modules
left as they were. Names as those tools write them into ``config.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hardware.errors import CatalogueError, suggest
from perfdb.formats import WEIGHT_BYTES, Formats

if TYPE_CHECKING:
    from perfdb.formats import Role

__all__ = ["Quantisation", "checked_format", "declared_quantisation"]

_MODELOPT: Mapping[str, str] = MappingProxyType(
    {"fp8": "fp8", "fp8_pb_wo": "fp8_block", "nvfp4": "nvfp4", "w4a16_awq": "int4"}
)
#: compressed-tensors: (type, bits) of the weights.
_GROUPS: Mapping[tuple[object, object], str] = MappingProxyType(
    {("float", 8): "fp8", ("float", 4): "nvfp4", ("int", 8): "int8", ("int", 4): "int4"}
)
#: Where each dialect lists the modules it left alone.
_KEPT_KEYS = ("modules_to_not_convert", "ignore", "exclude_modules")
_ATTENTION = ("self_attn", "linear_attn")
_OUTSIDE_EXPERTS = (*_ATTENTION, "shared_experts", "shared_expert", "mlp.down_proj")
#: What a mixture's checkpoint leaves in 16 bits where no list says so. In 4-bit floats the attention, as NVIDIA's
#: checkpoints of DeepSeek, Kimi, MiniMax and GLM do; in the other 4-bit formats all but the routed experts, as
#: gpt-oss (mxfp4) and Kimi-K2.5 (int4) are published.
_KEPT_BY_MIXTURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "nvfp4": _ATTENTION,
        "mxfp4": _OUTSIDE_EXPERTS,
        "mxfp4_mxfp8": _OUTSIDE_EXPERTS,
        "int4": _OUTSIDE_EXPERTS,
        "int4_group32": _OUTSIDE_EXPERTS,
    }
)
#: Where wrappers put the layers of a language model.
_PREFIXES = ("", "model.", "language_model.model.", "model.language_model.")


@dataclass(frozen=True, slots=True)
class Quantisation:
    """The format of the quantised matrices, and which are not quantised.

    Attributes
    ----------
    weights
        Format, a key of :data:`perfdb.formats.WEIGHT_BYTES`.
    kept
        Modules left in 16 bits: names, names with ``*``, or regular expressions after ``re:``. None where nothing is
        declared, and mixtures are taken to be as those of their format usually are.
    """

    weights: str = "bf16"
    kept: tuple[str, ...] | None = None

    def of_layer(self, layer: int, modules: Mapping[Role, tuple[str, ...]], *, sparse: bool) -> Formats:
        """Return the formats of one layer, counted from 0.

        Parameters
        ----------
        modules
            Names of the projections of each role, below the layer's.
        sparse
            The model is a mixture of experts.
        """
        kept = self.kept
        if kept is None:
            kept = _KEPT_BY_MIXTURES.get(self.weights, ()) if sparse else ()
        wide = {
            role for role, names in modules.items() if any(_is_kept(kept, f"layers.{layer}.{name}") for name in names)
        }
        return Formats(**{role: "bf16" if role in wide else self.weights for role in modules})


def _is_kept(kept: tuple[str, ...], module: str) -> bool:
    return any(_covers(pattern, prefix + module) for pattern in kept for prefix in _PREFIXES)


def _covers(pattern: str, module: str) -> bool:
    """Return whether a pattern names a module, or one that it is in."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None
    if "*" in pattern:
        return fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")
    return f".{pattern}." in f".{module}."


def checked_format(weights: str) -> str:
    """Return ``weights`` if it is a known weight format.

    Raises
    ------
    CatalogueError
        If it is not a key of :data:`perfdb.formats.WEIGHT_BYTES`.
    """
    if weights not in WEIGHT_BYTES:
        raise CatalogueError(f"model.weights is {weights!r}, which is not known; {suggest(weights, WEIGHT_BYTES)}")
    return weights


def declared_quantisation(name: str, config: Mapping[str, Any]) -> Quantisation:
    """Return what a configuration declares; without ``quantization_config`` 16 bits everywhere.

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
        return Quantisation()
    found = _format(declared) if isinstance(declared, Mapping) else None
    if found is None:
        raise CatalogueError(
            f"{name}: quantization_config {_what(declared)} is not recognised; "
            f"set model.weights to one of {', '.join(WEIGHT_BYTES)}"
        )
    lists = [declared[key] for key in _KEPT_KEYS if isinstance(declared.get(key), list)]
    return Quantisation(found, tuple(str(module) for kept in lists for module in kept) if lists else None)


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
        return _finer(f"int{bits}", declared)
    return method if method in WEIGHT_BYTES else None


def _finer(weights: str, rule: Mapping[str, Any]) -> str:
    """Return 4-bit integers with a scale for each 32 as the format of their own that they are."""
    return f"{weights}_group32" if weights == "int4" and rule.get("group_size") == 32 else weights


def _grouped(groups: object) -> str | None:
    """Return the format all groups of compressed-tensors share, or None."""
    if not isinstance(groups, Mapping):
        return None
    weights = [group.get("weights") if isinstance(group, Mapping) else None for group in groups.values()]
    found = {
        "fp8_block"
        if rule.get("strategy") == "block"
        else _finer(_GROUPS.get((rule.get("type"), rule.get("num_bits")), ""), rule) or None
        for rule in weights
        if isinstance(rule, Mapping)
    }
    return found.pop() if len(found) == 1 else None
