"""What vLLM's benchmark reads and writes: JSON lines with token counts, and its detailed results.

Source: ``vllm bench serve`` (``--dataset-name custom`` and ``--save-detailed``). A result file is one JSON
document of parallel lists; it is read as one row per request, in the order they were sent, and an error names
the request's position instead of a line.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final

from workloads.readers.fields import LENIENT, json_object, member, shown, time_ns, tokens
from workloads.readers.protocol import BadRowError, Layout, NumberedLines, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.readers.protocol import Container

__all__ = ["Vllm"]

_PROMPT_KEYS: Final = ("prompt_tokens", "input_len", "prompt_len")
_OUTPUT_KEYS: Final = ("output_tokens", "output_len")
_RESULT_KEYS: Final = ("start_times", "input_lens", "output_lens")


class Vllm:
    """JSON lines with lengths and perhaps a time, or the JSON of ``vllm bench serve --save-detailed``.

    Without a ``timestamp`` in the first line, every request arrives at time zero.
    """

    container: Container = "json"
    expects = (
        "the keys prompt_tokens (or input_len, prompt_len), output_tokens (or output_len) and optionally"
        " timestamp (s), or the input_lens, output_lens and start_times of --save-detailed"
    )
    generic = False
    example = (
        '{"timestamp": 0.25, "prompt": "a", "prompt_tokens": 600, "output_tokens": 10}\n'
        '{"timestamp": 2.25, "prompt": "b", "prompt_tokens": 1100, "output_tokens": 20}\n'
        '{"timestamp": 5.25, "prompt": "c", "prompt_tokens": 30, "output_tokens": 30}\n'
    )

    def matches(self, keys: Sequence[str]) -> bool:
        """See Reader."""
        return set(_RESULT_KEYS) <= set(keys) or (
            _first(keys, _PROMPT_KEYS) is not None and _first(keys, _OUTPUT_KEYS) is not None
        )

    def layout(self, keys: Sequence[str]) -> Layout:
        """See Reader."""
        if set(_RESULT_KEYS) <= set(keys):
            return Layout(lambda text: _row(text, *_RESULT_KEYS), rows=_requests)
        prompt_key = _first(keys, _PROMPT_KEYS) or _PROMPT_KEYS[0]
        output_key = _first(keys, _OUTPUT_KEYS) or _OUTPUT_KEYS[0]
        time_key = _first(keys, ("timestamp",))
        return Layout(lambda text: _row(text, time_key, prompt_key, output_key))


def _first(keys: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in keys), None)


def _row(text: str, time_key: str | None, prompt_key: str, output_key: str) -> Row:
    found = json_object(text)
    return Row(
        0 if time_key is None else time_ns(member(found, time_key), time_key),
        tokens(member(found, prompt_key), prompt_key),
        tokens(member(found, output_key), output_key),
    )


def _requests(lines: NumberedLines) -> NumberedLines:
    """Cut a result document into one small JSON object per request."""
    found = json_object(b"\n".join(line for _, line in lines).decode(errors="replace"), LENIENT)
    columns = [_column(found, key) for key in _RESULT_KEYS]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(f"{len(c)} {key}" for key, c in zip(_RESULT_KEYS, columns, strict=True))
        raise BadRowError("uneven lists", f"found {lengths}, expected one of each per request")
    # With a concurrency limit, requests are listed in the order created, not in the order sent.
    sent = sorted(zip(*columns, strict=True), key=_start)
    for position, values in enumerate(sent, 1):
        yield position, json.dumps(dict(zip(_RESULT_KEYS, values, strict=True))).encode()


def _column(found: dict[str, object], key: str) -> list[object]:
    value = member(found, key)
    if not isinstance(value, list):
        raise BadRowError("not a list", f"{key} is {shown(value)}, expected a list with one value per request")
    return value


def _start(values: tuple[object, ...]) -> float:
    """Return the sort key of a request; what is not a number goes last and is refused as a row."""
    start = values[0]
    if isinstance(start, float) and not math.isnan(start):
        return start
    return start if isinstance(start, int) else math.inf
