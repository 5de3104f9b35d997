"""Any CSV file with a time in seconds and two lengths, under one of the names in use."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hardware.errors import TraceError
from workloads.limits import MAX_TOKENS
from workloads.readers.fields import csv_fields, time_ns, tokens
from workloads.readers.media_field import parse_items
from workloads.readers.protocol import Layout, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workloads.readers.protocol import Container

__all__ = ["ALIASES", "PlainCsv"]

ALIASES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "arrival_s": ("arrival_s", "arrival_time_s", "arrived_at", "timestamp", "timestamp_s", "time_s"),
        "prompt_tokens": (
            "prompt_tokens",
            "num_prefill_tokens",
            "input_tokens",
            "input_length",
            "input_len",
            "prompt_len",
            "isl",
        ),
        "output_tokens": (
            "output_tokens",
            "num_decode_tokens",
            "completion_tokens",
            "output_length",
            "output_len",
            "osl",
        ),
    }
)
"""The names each column may have, in capitals or not; ``arrived_at`` and ``num_*`` are Vidur's."""

PROMPT_ID: Final = "prompt_id"
"""An optional column of whole numbers: rows with the same one have the same prompt text."""

MEDIA: Final = "media"
"""An optional column of images, videos and sounds; :mod:`workloads.media` says how they are written."""


class PlainCsv:
    """A time in seconds and two lengths in any order, among others of which ``prompt_id`` and ``media`` count."""

    container: Container = "csv"
    expects = "; ".join(f"a column {' or '.join(names)}" for names in ALIASES.values())
    generic = True
    example = "request,osl,isl,arrival_s\na,10,600,1e2\nb,20,1100,102\nc,30,30,105.000\n"

    def matches(self, keys: Sequence[str]) -> bool:
        """See Reader."""
        return all(_named(keys, names) for names in ALIASES.values())

    def layout(self, keys: Sequence[str]) -> Layout:
        """See Reader.

        Raises
        ------
        TraceError
            When two columns could both be the same one.
        """
        chosen = [_named(keys, names) for names in ALIASES.values()]
        for names in chosen:
            if len(names) > 1:
                raise TraceError(f"columns {' and '.join(names)} mean the same, expected one of them")
        time_column, prompt_column, output_column = (names[0] for names in chosen)
        same_text, media = _named(keys, (PROMPT_ID,)), _named(keys, (MEDIA,))
        fields = csv_fields(keys, (time_column, prompt_column, output_column, *same_text, *media))

        def row(text: str) -> Row:
            time_s, prompt_tokens, output, *others = fields(text)
            prompt = tokens(prompt_tokens, prompt_column)
            return Row(
                time_ns(time_s, time_column),
                prompt,
                tokens(output, output_column),
                items=parse_items(others[-1], prompt) if media else (),
                hashes=[tokens(found, PROMPT_ID, lowest=0) for found in others[: len(same_text)]],
            )

        # The whole prompt is one block, whose name stands for all of its text.
        return Layout(row, columns=("media",) if media else (), block_tokens=MAX_TOKENS if same_text else 0)


def _named(keys: Sequence[str], names: Sequence[str]) -> list[str]:
    return [key for key in keys if key.lower() in names]
