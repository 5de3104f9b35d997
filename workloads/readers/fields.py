"""Turning one field of a trace into a number, exactly, or saying what is wrong with it."""

from __future__ import annotations

import csv
import json
from array import array
from decimal import Decimal, InvalidOperation
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NoReturn

from workloads.limits import LAST_ARRIVAL_NS, MAX_TOKENS, NS_PER_S
from workloads.readers.protocol import BadRowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "LENIENT",
    "block_hashes",
    "csv_fields",
    "csv_line",
    "json_object",
    "member",
    "shown",
    "time_ns",
    "tokens",
]

_SHOWN_CHARACTERS: Final = 40


def shown(value: object) -> str:
    """Return a value as an error message quotes it: one short line."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _not_a_number(value: object, field: str, expected: str) -> BadRowError:
    found = "empty" if value == "" else shown(value)
    return BadRowError("not a number", f"{field} is {found}, expected {expected}")


def _decimal(value: object, field: str, expected: str) -> Decimal:
    """Return a finite number as an exact decimal."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _not_a_number(value, field, expected)
    text = value if isinstance(value, str) else repr(value)
    try:
        number = Decimal("" if "_" in text else text)
    except InvalidOperation:
        raise _not_a_number(value, field, expected) from None
    if not number.is_finite():
        raise BadRowError("not finite", f"{field} is {value}, expected {expected}")
    return number


def tokens(value: object, field: str, lowest: int = 1) -> int:
    """Return a count of tokens (or of images): a whole number of at least ``lowest``.

    Raises
    ------
    BadRowError
        When it is missing, not a whole number, below ``lowest`` or above ``MAX_TOKENS``.
    """
    # The first branch is what nearly every row takes; the limit on digits keeps int() cheap and safe.
    if type(value) is str and value.isascii() and value.isdecimal() and len(value) <= 10:
        count = int(value)
    elif type(value) is int:
        count = value
    else:
        count = _whole(value, field, lowest)
    if lowest <= count <= MAX_TOKENS:
        return count
    raise BadRowError(
        "length out of range",
        f"{field} is {shown(count)}, expected a whole number from {lowest} to {MAX_TOKENS}",
    )


def _whole(value: object, field: str, lowest: int) -> int:
    expected = f"a whole number of at least {lowest}"
    number = _decimal(value, field, expected)
    if abs(number) > MAX_TOKENS:
        raise BadRowError("length out of range", f"{field} is {shown(value)}, expected at most {MAX_TOKENS}")
    if number != int(number):
        raise _not_a_number(value, field, expected)
    return int(number)


def time_ns(value: object, field: str, unit_ns: int = NS_PER_S) -> int:
    """Return a time in whole nanoseconds, exactly as its digits say.

    Parameters
    ----------
    value
        A number, or the text of one, in units of ``unit_ns``.

    Raises
    ------
    BadRowError
        When it is missing, not a finite number, negative, or over 146 years.
    """
    expected = f"a time of at least 0 {'s' if unit_ns == NS_PER_S else 'ms'}"
    if type(value) is int:
        return _in_range(value * unit_ns, value, field, expected)
    number = _decimal(value, field, expected)
    # Compared before it is multiplied: 1e999999 would otherwise become an integer of a million digits.
    if abs(number) > LAST_ARRIVAL_NS:
        _in_range(LAST_ARRIVAL_NS + 1, value, field, expected)
    return _in_range(round(number * unit_ns), value, field, expected)


def _in_range(found_ns: int, value: object, field: str, expected: str) -> int:
    if 0 <= found_ns <= LAST_ARRIVAL_NS:
        return found_ns
    raise BadRowError("time out of range", f"{field} is {shown(value)}, expected {expected} and under 146 years")


def block_hashes(value: object, prompt_tokens: int, block_tokens: int) -> array[int]:
    """Return the hashes of a prompt's blocks.

    Raises
    ------
    BadRowError
        When they are not a list of 64-bit whole numbers, or more than the prompt has blocks.
    """
    try:
        hashes = array("q", value if isinstance(value, list) else [None])
    except (TypeError, OverflowError):
        expected = "a list of 64-bit whole numbers"
        raise BadRowError("bad block hashes", f"hash_ids is {shown(value)}, expected {expected}") from None
    most = -(-prompt_tokens // block_tokens)
    if len(hashes) > most:
        detail = f"{len(hashes)} hash_ids, expected at most {most} blocks of {block_tokens} for this prompt"
        raise BadRowError("bad block hashes", detail)
    return hashes


def csv_line(text: str) -> list[str]:
    """Return the fields of one CSV line.

    Raises
    ------
    BadRowError
        When its quotes do not close.
    """
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise BadRowError("invalid CSV", f"{shown(text)} is not a CSV row ({error})") from None


def csv_fields(header: Sequence[str], wanted: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a function that picks the wanted columns (two or more) from a line, in the order wanted."""
    width = len(header)
    pick = itemgetter(*(header.index(name) for name in wanted))

    def fields(text: str) -> tuple[str, ...]:
        found = csv_line(text)
        if len(found) != width:
            raise BadRowError("wrong number of columns", f"{len(found)} columns, expected {width} as in the header")
        picked: tuple[str, ...] = pick(found)
        return picked

    return fields


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadRowError("duplicate key", f"key {shown(twice)} appears twice, expected each key once")
    return members


def _refuse(constant: str) -> NoReturn:
    raise BadRowError("not finite", f"found {constant}, expected finite numbers only")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
LENIENT: Final = json.JSONDecoder()
"""For documents of which only a part is used: a NaN elsewhere does no harm."""


def json_object(text: str, decoder: json.JSONDecoder = _DECODER) -> dict[str, object]:
    """Return one line of JSON as a mapping.

    Parameters
    ----------
    text
        The line, or a whole document.
    decoder
        The default one refuses what a second reader could take for another value; ``LENIENT`` does not.

    Raises
    ------
    BadRowError
        When it is not JSON, not an object, names a key twice or holds NaN or Infinity.
    """
    try:
        found, end = decoder.raw_decode(text) if text.startswith("{") else (None, -1)
        if end != len(text):
            # There are blanks around it, or it is something else.
            found = decoder.decode(text)
    except RecursionError:
        raise BadRowError("invalid JSON", "nested too deep, expected one flat JSON object per line") from None
    except ValueError as error:
        # Not only JSONDecodeError: an integer of over 4300 digits is a plain ValueError.
        problem = str(error).partition(":")[0]
        detail = f"{shown(text)} is not JSON ({problem}), expected one object per line"
        raise BadRowError("invalid JSON", detail) from None
    if not isinstance(found, dict):
        raise BadRowError("invalid JSON", f"{shown(text)} is not an object, expected one JSON object per line")
    return found


def member(found: dict[str, object], key: str) -> object:
    """Return one value of a JSON object.

    Raises
    ------
    BadRowError
        When the key is missing.
    """
    try:
        return found[key]
    except KeyError:
        keys = ", ".join(found) or "none"
        raise BadRowError("missing field", f"no {key}, expected it among the keys {shown(keys)}") from None
