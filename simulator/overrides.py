"""Changes to a scenario by dotted key, as ``--set`` takes them."""

from __future__ import annotations

import tomllib
from typing import Any, Final

from hardware.errors import ScenarioError, suggest

__all__ = ["WORKLOAD_KINDS", "parse_override", "set_key"]

WORKLOAD_KINDS: Final = ("trace", "synthetic", "closed_loop")
"""The keys of ``[workload]`` of which a scenario has exactly one."""


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is TOML where it can be, else text.

    Examples
    --------
    >>> parse_override("pool.0.replicas=4")
    ('pool.0.replicas', 4)
    >>> parse_override("workload.trace=conversation.jsonl")
    ('workload.trace', 'conversation.jsonl')

    Raises
    ------
    ScenarioError
        If there is no ``=`` or no key.
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ScenarioError(f"--set {text}: expected KEY=VALUE, for example pool.0.replicas=4")
    try:
        found = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        # TOML errors are ValueErrors, and so is an integer of over 4300 digits.
        return key.strip(), value
    return key.strip(), found["value"] if len(found) == 1 else value


def set_key(table: dict[str, Any], key: str, value: Any, origin: str = "--set") -> None:  # noqa: ANN401 - any TOML value
    """Change one key of a scenario's table in place; naming a kind of workload takes the others away.

    Parameters
    ----------
    table
        The root table.
    key
        Names joined by dots; a table of a list goes by its ``name`` or its number from 0.
    value
        Any TOML value.
    origin
        Who asks for the change, for the error sentence.

    Raises
    ------
    ScenarioError
        If the way to the key leads through a value, or to a pool there is not.
    """
    *parents, last = key.split(".")
    if not all((*parents, last)):
        raise ScenarioError(
            f"{origin} {key}: found an empty part, expected names joined by dots, as in pool.0.replicas"
        )
    place: Any = table
    for depth, part in enumerate(parents):
        place = _step_into(place, part, (origin, key), ".".join(parents[:depth]))
    if not isinstance(place, dict):
        raise _not_a_table(place, (origin, key), ".".join(parents))
    if last in WORKLOAD_KINDS and parents == ["workload"]:
        for other in WORKLOAD_KINDS:
            place.pop(other, None)
    place[last] = value


def _step_into(place: Any, part: str, change: tuple[str, str], above: str) -> Any:  # noqa: ANN401 - any TOML value
    """Return the table or value at ``part`` of what stands at the key ``above``."""
    if isinstance(place, dict):
        return place.setdefault(part, {})
    if not _is_tables(place):
        raise _not_a_table(place, change, above)
    names = [str(item.get("name", number)) for number, item in enumerate(place)]
    if part.isdecimal() and int(part) < len(place):
        return place[int(part)]
    if part in names:
        return place[names.index(part)]
    raise ScenarioError(f"{' '.join(change)}: there is no {above} {part!r}; {suggest(part, names)}")


def _is_tables(place: object) -> bool:
    return isinstance(place, list) and bool(place) and all(isinstance(item, dict) for item in place)


def _not_a_table(place: object, change: tuple[str, str], above: str) -> ScenarioError:
    where = " ".join(change)
    if _is_tables(place):
        return ScenarioError(f"{where}: {above} is a list of tables, expected a key of one, as in {above}.0.KEY")
    return ScenarioError(f"{where}: {above} is {place!r}, which has no keys; expected {change[0]} {above}=VALUE")
