"""The base of every typed input table: unknown keys and wrong types are errors, values are frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import AfterValidator, BaseModel, ConfigDict

from hardware.errors import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Strict", "one_of"]


class Strict(BaseModel):
    """A frozen pydantic model that refuses keys it does not know and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def one_of(options: Sequence[str] | Mapping[str, object]) -> AfterValidator:
    """Return a check that a name is among the options."""

    def known(value: str) -> str:
        if value not in options:
            raise ValueError(f"unknown name; {suggest(value, options)}")
        return value

    return AfterValidator(known)
