"""The traces of Mooncake (Kimi), also what other tools call a timed trace.

Source: https://github.com/kvcache-ai/Mooncake, ``FAST25-release/traces`` (Apache-2.0). ``timestamp`` is in
milliseconds, but the published files only have a distinct one every 3 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workloads.readers.fields import block_hashes, json_object, member, time_ns, tokens
from workloads.readers.protocol import Layout, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.readers.protocol import Container

__all__ = ["Mooncake"]

_BLOCK_TOKENS: Final = 512
_NS_PER_MS: Final = 1_000_000


class Mooncake:
    """``timestamp`` (ms), ``input_length``, ``output_length`` and ``hash_ids`` of 512-token blocks."""

    container: Container = "json"
    expects = "the keys timestamp (ms), input_length, output_length and optionally hash_ids"
    generic = False
    example = (
        '{"timestamp": 27000, "input_length": 600, "output_length": 10, "hash_ids": [0, 1]}\n'
        '{"timestamp": 29000, "input_length": 1100, "output_length": 20, "hash_ids": [0, 2, 3]}\n'
        '{"timestamp": 32000, "input_length": 30, "output_length": 30, "hash_ids": [4]}\n'
    )

    def matches(self, keys: Sequence[str]) -> bool:
        """See Reader."""
        return {"timestamp", "input_length", "output_length"} <= set(keys) and "chat_id" not in keys

    def layout(self, keys: Sequence[str]) -> Layout:
        """See Reader."""
        if "hash_ids" in keys:
            return Layout(_row_with_hashes, block_tokens=_BLOCK_TOKENS, coarse_clock=True)
        return Layout(lambda text: Row(*_fields(json_object(text))), coarse_clock=True)


def _fields(found: dict[str, object]) -> tuple[int, int, int]:
    """Return the first fields of a row."""
    return (
        time_ns(member(found, "timestamp"), "timestamp", _NS_PER_MS),
        tokens(member(found, "input_length"), "input_length"),
        tokens(member(found, "output_length"), "output_length"),
    )


def _row_with_hashes(text: str) -> Row:
    found = json_object(text)
    fields = _fields(found)
    return Row(*fields, hashes=block_hashes(member(found, "hash_ids"), fields[1], _BLOCK_TOKENS))
