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
from perfdb.model import FAMILIES, Family, ModelSpec
from perfdb.parts import GroupedQuery, Layers, Mlp
from perfdb.quantisation import checked_format, declared_format

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_model", "model_from_config", "presets"]

_PRESETS = Path(__file__).parent / "presets" / "dense.toml"
_SHAPES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
#: What older configurations (OPT, BLOOM, Falcon) call a size: ``configuration_*.py`` in huggingface/transformers.
_OLD_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "hidden_size": ("n_embed", "d_model"),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
        "intermediate_size": ("ffn_dim", "ffn_hidden_size", "n_inner"),
    }
)


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Return the preset tables by Hugging Face name."""
    return MappingProxyType(tomllib.loads(_PRESETS.read_text(encoding="utf-8")))


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
        If the name is neither a preset nor a readable configuration, its architecture is not a dense
        transformer this version prices, or a format is not known.
    """
    if kv_cache not in (None, "bf16", "fp8"):
        raise CatalogueError(f"model.kv_cache is {kv_cache!r}; expected one of bf16, fp8")
    model = model_from_config(*(_from_preset(name) or _from_path(name)), weights=weights)
    return replace(model, kv_cache=kv_cache or model.kv_cache)


def _from_preset(name: str) -> tuple[str, Mapping[str, Any]] | None:
    wanted = name.lower()
    for full, table in presets().items():
        if wanted in (full.lower(), full.rsplit("/", 1)[-1].lower(), str(table["short"]).lower()):
            return full, table
    return None


def _from_path(name: str) -> tuple[str, Mapping[str, Any]]:
    path = Path(name)
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        shorts = [str(table["short"]) for table in presets().values()]
        raise CatalogueError(
            f"model.name: {name!r} is neither a preset nor a config.json; {suggest(name, [*presets(), *shorts])}"
        )
    config = _read_object(path)
    beside = path.with_name("hf_quant_config.json")
    if "quantization_config" not in config and beside.is_file():
        # ModelOpt declares the quantisation of a checkpoint in a file of its own.
        config["quantization_config"] = _read_object(beside).get("quantization")
    return str(path), config


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CatalogueError(f"{path}: not a readable JSON configuration ({error})") from error
    if not isinstance(found, dict):
        raise CatalogueError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def model_from_config(name: str, config: Mapping[str, Any], *, weights: str | None = None) -> ModelSpec:
    """Return the model a Hugging Face configuration describes.

    Parameters
    ----------
    name
        What to call it in messages and results.
    config
        The fields of ``config.json``.
    weights
        Weight format; None takes what the configuration says.

    Raises
    ------
    CatalogueError
        If the architecture or weight format is unknown, a shape is missing or not a positive integer, or
        the heads do not divide.
    """
    family = FAMILIES[_architecture(name, config)]
    sizes = {field: _size(name, config, field) for field in _SHAPES}
    heads, hidden = sizes["num_attention_heads"], sizes["hidden_size"]
    kv_heads = _kv_heads(name, config, heads)
    if heads % kv_heads:
        raise CatalogueError(f"{name}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    mixer = GroupedQuery(
        heads,
        kv_heads,
        head_dim=_size(name, config, "head_dim", hidden // heads),
        window=_window(name, config, family),
        qkv_bias=family.linear_bias or family.qkv_bias,
        out_bias=family.linear_bias,
        qk_norm=family.qk_norm,
        rotary=family.rotary,
    )
    mlp = Mlp(_size(name, config, "intermediate_size", 4 * hidden), family.gated_mlp, family.linear_bias)
    return ModelSpec(
        name=name,
        family=family,
        hidden=hidden,
        vocab=sizes["vocab_size"],
        max_tokens=_size(name, config, "max_position_embeddings", 2048),
        stack=(Layers(sizes["num_hidden_layers"], mixer, mlp),),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        weights=checked_format(weights) if weights else declared_format(name, config),
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
    given = (config.get(key) for key in (field, *_OLD_NAMES.get(field, ())))
    value = next((value for value in given if value is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CatalogueError(f"{name}: {field} is {value!r}, expected a positive integer")
    return value


def _kv_heads(name: str, config: Mapping[str, Any], heads: int) -> int:
    # The first Falcons share one KV head and still list as many as query heads.
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return _size(name, config, "num_key_value_heads", heads)


def _window(name: str, config: Mapping[str, Any], family: Family) -> int:
    switched_on = config.get("use_sliding_window", not family.window_switch)
    if not switched_on or not config.get("sliding_window"):
        return 0
    return _size(name, config, "sliding_window")
