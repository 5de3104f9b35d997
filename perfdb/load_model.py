"""Read a model from a preset, or from a Hugging Face ``config.json``."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hardware.errors import CatalogueError, suggest
from perfdb.model import FAMILIES, WEIGHT_BYTES, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_model", "model_from_config", "preset_names", "presets"]

_PRESETS = Path(__file__).parent / "presets" / "dense.toml"
_SHAPES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Return the preset tables by Hugging Face name."""
    return MappingProxyType(tomllib.loads(_PRESETS.read_text(encoding="utf-8")))


def preset_names() -> tuple[str, ...]:
    """Return the Hugging Face names of the presets, in file order."""
    return tuple(presets())


def load_model(name: str, *, weights: str | None = None, kv_cache: str | None = None) -> ModelSpec:
    """Return the model of a preset name, a ``config.json`` or a model folder.

    Parameters
    ----------
    name
        A preset (``Qwen/Qwen3-32B``, or its last part, in any case), or a path.
    weights
        Weight format; None takes what the configuration says.
    kv_cache
        ``bf16`` or ``fp8``; None means bf16.

    Raises
    ------
    CatalogueError
        If the name is neither a preset nor a readable configuration, or its architecture is not a dense
        transformer this version prices.
    """
    model = _from_preset(name) or _from_path(name)
    return replace(model, weights=weights or model.weights, kv_cache=kv_cache or model.kv_cache)


def _from_preset(name: str) -> ModelSpec | None:
    wanted = name.lower()
    for full, table in presets().items():
        if wanted in (full.lower(), full.rsplit("/", 1)[-1].lower(), str(table["short"]).lower()):
            return model_from_config(full, table)
    return None


def _from_path(name: str) -> ModelSpec:
    path = Path(name)
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        shorts = [str(table["short"]) for table in presets().values()]
        raise CatalogueError(
            f"model.name: {name!r} is neither a preset nor a config.json; {suggest(name, [*presets(), *shorts])}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CatalogueError(f"{path}: not a readable JSON configuration ({error})") from error
    if not isinstance(config, dict):
        raise CatalogueError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return model_from_config(str(path), config)


def model_from_config(name: str, config: Mapping[str, Any]) -> ModelSpec:
    """Return the model a Hugging Face configuration describes.

    Parameters
    ----------
    name
        What to call it in messages and results.
    config
        The fields of ``config.json``.

    Raises
    ------
    CatalogueError
        If the architecture is unknown, a shape is missing or not a positive integer, or the heads do not
        divide.
    """
    family = _architecture(name, config)
    sizes = {field: _size(name, config, field) for field in _SHAPES}
    heads, hidden = sizes["num_attention_heads"], sizes["hidden_size"]
    kv_heads = _size(name, config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise CatalogueError(f"{name}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    return ModelSpec(
        name=name,
        family=FAMILIES[family],
        hidden=hidden,
        intermediate=_size(name, config, "intermediate_size", config.get("ffn_dim", 4 * hidden)),
        layers=sizes["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_size(name, config, "head_dim", hidden // heads),
        vocab=sizes["vocab_size"],
        max_tokens=_size(name, config, "max_position_embeddings", 2048),
        tied=bool(config.get("tie_word_embeddings", False)),
        window=_window(config),
        weights=_weights(name, config),
    )


def _architecture(name: str, config: Mapping[str, Any]) -> str:
    found = config.get("architectures") or ["(none)"]
    architecture = str(found[0] if isinstance(found, list) else found)
    if architecture not in FAMILIES:
        raise CatalogueError(
            f"{name}: architecture {architecture!r} is not a dense transformer servesim prices; "
            f"expected one of {', '.join(sorted(FAMILIES))}"
        )
    return architecture


def _size(name: str, config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CatalogueError(f"{name}: {field} is {value!r}, expected a positive integer")
    return value


def _window(config: Mapping[str, Any]) -> int:
    # Qwen2 and Qwen3 files carry a sliding_window that use_sliding_window = false switches off.
    if config.get("use_sliding_window") is False:
        return 0
    return int(config.get("sliding_window") or 0)


def _weights(name: str, config: Mapping[str, Any]) -> str:
    quantisation = config.get("quantization_config")
    if not quantisation:
        return "bf16"
    method = str(quantisation.get("quant_method", "")).lower()
    if method == "fp8":
        return "fp8_block" if quantisation.get("weight_block_size") else "fp8"
    bits = quantisation.get("bits")
    if method in ("awq", "gptq", "auto_round") and bits in (4, 8):
        return f"int{bits}"
    if method in WEIGHT_BYTES:
        return method
    raise CatalogueError(
        f"{name}: quantization_config.quant_method is {method!r}, which is not recognised; "
        f"set model.weights to one of {', '.join(WEIGHT_BYTES)}"
    )
