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
from perfdb.config_fields import ConfigFields
from perfdb.model import FAMILIES, ModelSpec
from perfdb.quantisation import Quantisation, checked_format, declared_cache, declared_quantisation
from perfdb.read_encoder import read_encoder
from perfdb.read_stack import read_stack

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_model", "model_from_config", "presets"]

_PRESETS = Path(__file__).parent / "presets"


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Return the preset tables by Hugging Face name, each on top of the one it names in ``like``."""
    files = sorted(_PRESETS.glob("*.toml"))
    tables = {name: table for file in files for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items()}
    return MappingProxyType({name: tables.get(table.get("like"), {}) | table for name, table in tables.items()})


def load_model(name: str, *, weights: str | None = None, kv_cache: str | None = None) -> ModelSpec:
    """Return the model of a preset name, a ``config.json`` or a model folder.

    Parameters
    ----------
    name
        A preset (``Qwen/Qwen3-32B``, or its last part, in any case), or a path.
    weights
        Weight format; None takes what the configuration says.
    kv_cache
        ``bf16`` or ``fp8``; None takes what the configuration says.

    Raises
    ------
    CatalogueError
        If the name is neither a preset nor a readable configuration, its architecture is not one
        this version prices, or a format is not known.
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
    fields = ConfigFields.of(name, config)
    family = FAMILIES[fields.architecture()]
    quantisation = _quantisation(fields, weights)
    hidden = fields.size("hidden_size")
    return ModelSpec(
        name=name,
        family=family,
        hidden=hidden,
        vocab=fields.size("vocab_size"),
        max_tokens=fields.size("max_position_embeddings", 2048),
        stack=read_stack(fields, family, quantisation),
        tied=fields.flag("tie_word_embeddings", default=family.tied),
        weights=quantisation.weights,
        kv_cache=declared_cache(fields.fields),
        encoder=read_encoder(name, config, hidden),
    )


def _quantisation(fields: ConfigFields, weights: str | None) -> Quantisation:
    """Return what the configuration declares; another format than that leaves open which modules are quantised."""
    if weights is None:
        return declared_quantisation(fields.name, fields.fields)
    wanted = checked_format(weights)
    try:
        declared = declared_quantisation(fields.name, fields.fields)
    except CatalogueError:
        return Quantisation(wanted)
    same = wanted in (declared.weights, declared.weights.removesuffix("_group32"))
    return declared if same else Quantisation(wanted)
