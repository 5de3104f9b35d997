"""The Qwen traces of Alibaba Cloud's Bailian service.

Source: https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon (Apache-2.0). Every request has its own
``chat_id``; a follow-up names the request before it as ``parent_chat_id``, a first turn has -1 there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workloads.readers.fields import block_hashes, json_object, member, shown, time_ns, tokens
from workloads.readers.protocol import BadRowError, Layout, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.readers.protocol import Container

__all__ = ["Bailian"]

_BLOCK_TOKENS: Final = 16
_NO_PARENT: Final = -1


class Bailian:
    """Conversations with ``timestamp`` (s), lengths and ``hash_ids`` of 16-token blocks."""

    container: Container = "json"
    expects = "the keys chat_id, parent_chat_id, timestamp (s), input_length, output_length, hash_ids"
    generic = False
    example = (
        '{"chat_id": 7, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 600, "output_length": 10,'
        ' "type": "text", "turn": 1, "hash_ids": [1, 2]}\n'
        '{"chat_id": 8, "parent_chat_id": 7, "timestamp": 63.114, "input_length": 1100, "output_length": 20,'
        ' "type": "text", "turn": 2, "hash_ids": [1, 2, 3]}\n'
        '{"chat_id": 9, "parent_chat_id": -1, "timestamp": 66.114, "input_length": 30, "output_length": 30,'
        ' "type": "search", "turn": 1, "hash_ids": [4, 5]}\n'
    )

    def matches(self, keys: Sequence[str]) -> bool:
        """See Reader."""
        wanted = {"chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "hash_ids"}
        return wanted <= set(keys)

    def layout(self, keys: Sequence[str]) -> Layout:
        """See Reader."""
        del keys
        first_turn: dict[int | str, int | str] = {}
        return Layout(
            lambda text: _row(json_object(text), first_turn),
            columns=("session",),
            block_tokens=_BLOCK_TOKENS,
        )


def _row(found: dict[str, object], first_turn: dict[int | str, int | str]) -> Row:
    prompt_tokens = tokens(member(found, "input_length"), "input_length")
    return Row(
        time_ns(member(found, "timestamp"), "timestamp"),
        prompt_tokens,
        tokens(member(found, "output_length"), "output_length"),
        session=_session(found, first_turn),
        hashes=block_hashes(member(found, "hash_ids"), prompt_tokens, _BLOCK_TOKENS),
    )


def _session(found: dict[str, object], first_turn: dict[int | str, int | str]) -> int | str:
    """Return the chat id of the conversation's first turn, or of the oldest turn the trace still has."""
    chat, parent = _chat_id(found, "chat_id"), _chat_id(found, "parent_chat_id")
    root = chat if parent == _NO_PARENT else first_turn.get(parent, parent)
    first_turn[chat] = root
    return root


def _chat_id(found: dict[str, object], key: str) -> int | str:
    value = member(found, key)
    if isinstance(value, int | str):
        return value
    raise BadRowError("bad chat id", f"{key} is {shown(value)}, expected a whole number or a text")
