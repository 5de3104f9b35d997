"""Reading TOML files into typed tables, with one clear sentence when a file is wrong."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from hardware.errors import CatalogueError, UserError, suggest
from hardware.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

__all__ = ["Fraction", "Pairs", "Positive", "PositiveInt", "read_table", "validated"]

Table = TypeVar("Table", bound=Strict)

Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


def _pairs(table: object) -> object:
    return tuple(sorted(table.items())) if isinstance(table, dict) else table


Pairs = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)]
"""A TOML table of strings, kept as sorted pairs so that the model that holds it can be hashed."""


def read_table(path: Path, error: type[UserError] = CatalogueError) -> dict[str, Any]:
    """Parse a TOML file.

    Parameters
    ----------
    path
        The file to read.
    error
        The class of error to raise.

    Returns
    -------
    dict
        The root table.

    Raises
    ------
    UserError
        Of class `error`, when the file cannot be read or is not TOML; the sentence has the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}); expected a TOML file") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: byte {problem.start} is not UTF-8; expected a TOML file in UTF-8") from problem
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{path}: not valid TOML: {problem}") from problem


def validated(
    model: type[Table],
    table: Mapping[str, Any],
    where: str,
    prefix: str = "",
    error: type[UserError] = CatalogueError,
) -> Table:
    """Turn a plain table into a typed one.

    Parameters
    ----------
    model
        The typed table expected.
    table
        What the file says.
    where
        The file, for the error sentence.
    prefix
        Dotted key of the table within the file, ending in a dot; empty for the root.
    error
        The class of error to raise.

    Returns
    -------
    Strict
        An instance of `model`.

    Raises
    ------
    UserError
        Of class `error`, naming `where` and a key that is wrong; an unknown key comes first, for
        it often explains one that is missing.
    """
    try:
        return model.model_validate(table)
    except ValidationError as problem:
        mistakes = problem.errors(include_url=False)
        first = min(mistakes, key=lambda mistake: mistake["type"] != "extra_forbidden")
        raise error(f"{where}: {_sentence(model, table, first, prefix)}") from problem


def _sentence(model: type[Strict], table: Mapping[str, Any], mistake: ErrorDetails, prefix: str) -> str:
    loc, found, kind = mistake["loc"], mistake["input"], mistake["type"]
    key = prefix + ".".join(_written(table, loc, last_too=kind == "missing"))
    if kind == "extra_forbidden":
        return f"unknown key {key!r}; {suggest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
    if kind == "missing":
        return f"key {key!r} is missing"
    if kind.startswith("union_tag"):
        return _untagged(key, mistake["ctx"])
    message = _PLAIN.get(kind) or mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if not loc:
        return message
    if isinstance(found, dict | list) and kind not in _PLAIN:
        return f"key {key!r}: {message}"
    return f"key {key!r} is {_shown(found)}: {message}"


def _untagged(key: str, context: Mapping[str, Any]) -> str:
    """Say what is wrong with the key, such as ``kind``, that tells which of several tables is meant."""
    field = context["discriminator"].strip("'")
    if "tag" not in context:
        return f"key '{key}.{field}' is missing"
    known = context["expected_tags"].replace("'", "").split(", ")
    return f"key '{key}.{field}' is {context['tag']!r}: unknown name; {suggest(str(context['tag']), known)}"


#: pydantic's kinds of mistake that a writer of TOML knows under another name.
_PLAIN = {
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "dict_type": "expected a table",
    "tuple_type": "expected a list",
}


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _written(table: object, loc: tuple[int | str, ...], *, last_too: bool) -> list[str]:
    """Return the parts of a place that stand in the file: pydantic adds names of the types it tried.

    Parameters
    ----------
    table
        What the file says.
    loc
        Where pydantic sees the mistake.
    last_too
        Keep the last part although it is not there, for a key that is missing.
    """
    parts: list[str] = []
    tag_known = False
    for part in loc:
        if isinstance(table, dict) and table.get("kind") == part and not tag_known:
            # The name of the type, even where the table has a key of the same name.
            tag_known = True
        elif part in table if isinstance(table, dict) else isinstance(table, list) and part in range(len(table)):
            table, tag_known = table[part], False  # type: ignore[index]
            parts.append(str(part))
    return [*parts, str(loc[-1])] if last_too else parts


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys the table at `loc` would accept."""
    models = [model]
    for part in loc:
        tagged = [
            m for m in models if m.__name__ == part or any(field.default == part for field in m.model_fields.values())
        ]
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        if fields:
            models = [m for field in fields for m in _models_in(field.annotation)] or models
        elif tagged:
            models = tagged
    return list(models[0].model_fields)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
