"""Traces written for a test, read back, and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hardware.errors import TraceError
from workloads.traces import read_trace

if TYPE_CHECKING:
    from pathlib import Path

    from workloads.table import Arrivals


def written(tmp_path: Path, content: str | bytes, name: str = "trace") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(tmp_path: Path, content: str | bytes, **options: object) -> Arrivals:
    return read_trace(written(tmp_path, content), **options)


def canonical(arrivals: Arrivals) -> list[list[int]]:
    return [arrivals.arrival_ns.tolist(), arrivals.prompt_tokens.tolist(), arrivals.output_tokens.tolist()]


THREE_REQUESTS = [[0, 2_000_000_000, 5_000_000_000], [600, 1100, 30], [10, 20, 30]]


def check_refused(tmp_path: Path, name: str, lines: list[str], reason: str | None, *, bad_line: int, kept: int) -> None:
    path = written(tmp_path, "\n".join(lines).encode(errors="surrogateescape"))
    for format_name in (None, name):
        with pytest.raises(TraceError) as error:
            read_trace(path, format_name)
        message = str(error.value)
        assert message.startswith(f"{path}:{bad_line}: ")
        assert "expected" in message
        assert "\n" not in message
        assert len(message) < len(str(path)) + 400
        skipped = read_trace(path, format_name, on_error="skip")
        assert len(skipped) == kept
        assert sum(skipped.skipped.values()) == 1
        assert reason is None or list(skipped.skipped) == [reason]
