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
        raise error(f"{where}: {_sentence(model, first, prefix)}") from problem


def _sentence(model: type[Strict], mistake: ErrorDetails, prefix: str) -> str:
    loc, found = mistake["loc"], mistake["input"]
    key = repr(prefix + ".".join(str(part) for part in loc))
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if mistake["type"] == "extra_forbidden":
        return f"unknown key {key}; {suggest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
    if mistake["type"] == "missing":
        return f"key {key} is missing"
    if mistake["type"] == "model_type":
        return f"key {key} is {found!r}: expected a table"
    if not loc:
        return message
    if isinstance(found, dict | list):
        return f"key {key}: {message}"
    return f"key {key} is {found!r}: {message}"


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys the table at `loc` would accept."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        choices = (field.annotation, *get_args(field.annotation))
        model = next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)
