"""The Azure LLM inference traces of 2023 and 2024, and the multimodal one of 2025.

The multimodal trace counts images, but says neither how large they are nor how many tokens they became.

Source: https://github.com/Azure/AzurePublicDataset (CC-BY). Time stamps are UTC dates with up to seven
digits after the second (2023) or six and an offset (2024).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from workloads.limits import LAST_ARRIVAL_NS, NS_PER_S
from workloads.media import Item
from workloads.readers.fields import csv_fields, shown, tokens
from workloads.readers.protocol import BadRowError, Layout, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.readers.protocol import Container

__all__ = ["Azure", "date_ns"]

_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d):([0-5]\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=64)
def _minute_ns(minute: str, offset: str) -> int:
    """Return nanoseconds since 1970 of a minute such as ``2023-11-16 18:15``."""
    return (datetime.fromisoformat(minute + offset) - _EPOCH) // timedelta(seconds=1) * NS_PER_S


def date_ns(text: str, field: str) -> int:
    """Return a date and time as whole nanoseconds since 1970, exactly; without an offset it is UTC.

    Raises
    ------
    BadRowError
        When the text is not such a date, or not from 1970 to 2116.

    Examples
    --------
    >>> date_ns("1970-01-01 00:00:01.0000005", "TIMESTAMP")
    1000000500
    """
    match = _STAMP.fullmatch(text)
    if match is None:
        raise _not_a_date(text, field)
    minute, second, fraction, offset = match.groups()
    try:
        minute_ns = _minute_ns(minute, offset or "Z")
    except ValueError:
        raise _not_a_date(text, field) from None
    found_ns = minute_ns + int(second) * NS_PER_S + int((fraction or "0").ljust(9, "0"))
    if 0 <= found_ns <= LAST_ARRIVAL_NS:
        return found_ns
    raise BadRowError("time out of range", f"{field} is {shown(text)}, expected a date from 1970 to 2116")


def _not_a_date(text: str, field: str) -> BadRowError:
    expected = "a date and time such as 2023-11-16 18:15:46.6805900"
    return BadRowError("not a date", f"{field} is {shown(text)}, expected {expected}")


class Azure:
    """``TIMESTAMP, ContextTokens, GeneratedTokens`` and, in the multimodal trace, ``NumImages``."""

    container: Container = "csv"
    expects = "the columns TIMESTAMP, ContextTokens, GeneratedTokens and optionally NumImages"
    generic = False
    example = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,600,10\n"
        "2023-11-16 18:15:48.6805900,1100,20\n"
        "2023-11-16 18:15:51.6805900,30,30\n"
    )

    def matches(self, keys: Sequence[str]) -> bool:
        """See Reader."""
        return {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= set(keys)

    def layout(self, keys: Sequence[str]) -> Layout:
        """See Reader."""
        if "NumImages" in keys:
            multimodal = csv_fields(keys, ("TIMESTAMP", "ContextTokens", "GeneratedTokens", "NumImages"))
            return Layout(lambda text: _multimodal_row(*multimodal(text)), columns=("media",))
        fields = csv_fields(keys, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"))
        return Layout(lambda text: _row(*fields(text)))


def _row(stamp: str, prompt: str, output: str) -> Row:
    return Row(date_ns(stamp, "TIMESTAMP"), tokens(prompt, "ContextTokens"), tokens(output, "GeneratedTokens"))


def _multimodal_row(stamp: str, prompt: str, output: str, images: str) -> Row:
    return _row(stamp, prompt, output)._replace(items=(Item(),) * tokens(images, "NumImages", lowest=0))
