"""The contract of every trace reader."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from traces import THREE_REQUESTS, canonical, check_refused, read, written

from workloads.readers import READERS
from workloads.traces import detect_format, read_trace

if TYPE_CHECKING:
    from pathlib import Path


TIME_FIELDS = ("timestamp", "TIMESTAMP", "Timestamp", "arrival_s")


def test_the_readers_are_those_of_the_interface_and_read_only() -> None:
    assert set(READERS) == {"azure", "bailian", "burstgpt", "csv", "mooncake", "servegen", "vllm"}
    with pytest.raises(TypeError):
        READERS["new"] = READERS["azure"]


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_its_example_and_knows_it_as_its_own(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, READERS[name].example)
    assert detect_format(path) == name
    arrivals = read_trace(path)
    assert canonical(arrivals) == THREE_REQUESTS
    assert canonical(read_trace(path, name)) == THREE_REQUESTS
    assert arrivals.skipped == {}
    assert arrivals.source == str(path)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_ends_marks_blank_lines_and_gzip_change_nothing(name: str, ending: str, tmp_path: Path) -> None:
    text = READERS[name].example.rstrip().replace("\n", f"{ending}{ending}")
    assert canonical(read(tmp_path, text)) == THREE_REQUESTS
    assert canonical(read(tmp_path, b"\xef\xbb\xbf" + text.encode())) == THREE_REQUESTS
    assert canonical(read(tmp_path, gzip.compress(text.encode()))) == THREE_REQUESTS


@pytest.mark.parametrize("name", READERS)
def test_limit_and_rate_scale_apply_to_every_format(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, READERS[name].example)
    assert canonical(read_trace(path, limit=2)) == [column[:2] for column in THREE_REQUESTS]
    assert read_trace(path, rate_scale=2.0).arrival_ns.tolist() == [0, 10**9, 25 * 10**8]
    assert len(read_trace(path, limit=99)) == 3


def set_field(line: str, header: list[str] | None, name: str, value: object) -> str:
    if header is None:
        return json.dumps({**json.loads(line), name: value})
    fields = line.split(",")
    fields[header.index(name)] = str(value)
    return ",".join(fields)


def field_with(line: str, header: list[str] | None, value: int) -> str:
    """Name the field of a line that holds a value."""
    if header is None:
        return next(key for key, found in json.loads(line).items() if found == value)
    return header[line.split(",").index(str(value))]


# What replaces the 20 output tokens of the second request, and the reason it is counted by.
BAD_LENGTHS = [
    ("x", "not a number"),
    ("", "not a number"),
    ("1_0", "not a number"),
    ("2.5", "not a number"),
    ("nan", "not finite"),
    ("inf", "not finite"),
    (-5, "length out of range"),
    (2**31, "length out of range"),
    (2**53 + 1, "length out of range"),
    (10**400, "length out of range"),
    ("1e999999", "length out of range"),
]
BAD_TIMES = [
    "soon",
    "",
    "nan",
    "-inf",
    -1,
    10**30,
    "1e999999",
    "-1e999999",
    "9999-12-31 00:00:00",
    "1969-12-31 23:59:59",
    "0001-01-01 00:00:00+23:59",
]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(("value", "reason"), BAD_LENGTHS)
def test_a_bad_length_is_an_error_with_its_line_or_a_skipped_row(
    name: str, value: object, reason: str, tmp_path: Path
) -> None:
    corrupt_second_row(
        tmp_path, name, reason, lambda line, header: set_field(line, header, field_with(line, header, 20), value)
    )


@pytest.mark.parametrize("name", READERS)
def test_a_length_of_zero_is_refused(name: str, tmp_path: Path) -> None:
    reason = "no response tokens" if name == "burstgpt" else "length out of range"
    corrupt_second_row(
        tmp_path, name, reason, lambda line, header: set_field(line, header, field_with(line, header, 20), 0)
    )


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("value", BAD_TIMES)
def test_a_bad_time_is_an_error_with_its_line_or_a_skipped_row(name: str, value: object, tmp_path: Path) -> None:
    def corrupt(line: str, header: list[str] | None) -> str:
        keys = header if header is not None else list(json.loads(line))
        return set_field(line, header, next(key for key in TIME_FIELDS if key in keys), value)

    corrupt_second_row(tmp_path, name, None, corrupt)


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.container == "csv"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda line: line + ",1", "wrong number of columns"),
        (lambda line: line.rpartition(",")[0], "wrong number of columns"),
        (lambda line: '"' + line, "invalid CSV"),
        (lambda line: "\udcff" + line, "undecodable bytes"),
        (lambda _line: "\0" * 20, "wrong number of columns"),
    ],
)
def test_a_csv_row_that_is_not_a_row_is_refused(name: str, change: object, reason: str, tmp_path: Path) -> None:
    corrupt_second_row(tmp_path, name, reason, lambda line, _header: change(line))


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.container == "json"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda line: line[:-1], "invalid JSON"),
        (lambda _line: "[1, 2]", "invalid JSON"),
        (lambda _line: "null", "invalid JSON"),
        (lambda _line: "[" * 100_000, "invalid JSON"),
        (lambda line: line.replace(": 20", ": " + "9" * 5000), "invalid JSON"),
        (lambda line: line.replace(": 20", ": NaN"), "not finite"),
        (lambda line: line.replace(": 20", ": 1e400"), "not finite"),
        (lambda line: line.replace(": 20", ": null"), "not a number"),
        (lambda line: line.replace(": 20", ": true"), "not a number"),
        (lambda line: line.replace(": 20", ": [20]"), "not a number"),
        (lambda line: '{"timestamp": 1, ' + line[1:], "duplicate key"),
        (lambda _line: "{}", "missing field"),
        (lambda line: line.replace("output_", "answer_"), "missing field"),
        (lambda line: line.replace("timestamp", "time"), "missing field"),
        (lambda line: "\udcff\udcfe" + line, "undecodable bytes"),
        (lambda _line: "\udc9f" * 20 + "\0", "undecodable bytes"),
    ],
)
def test_a_json_row_that_is_not_a_row_is_refused(name: str, change: object, reason: str, tmp_path: Path) -> None:
    corrupt_second_row(tmp_path, name, reason, lambda line, _header: change(line))


@pytest.mark.parametrize("name", READERS)
def test_time_going_backwards_is_refused(name: str, tmp_path: Path) -> None:
    lines = READERS[name].example.splitlines()
    lines[-1], lines[-2] = lines[-2], lines[-1]
    check_refused(tmp_path, name, lines, "time goes backwards", bad_line=len(lines), kept=2)


def corrupt_second_row(tmp_path: Path, name: str, reason: str | None, corrupt: object) -> None:
    lines = READERS[name].example.splitlines()
    header = lines[0].split(",") if READERS[name].container == "csv" else None
    lines[-2] = corrupt(lines[-2], header)
    check_refused(tmp_path, name, lines, reason, bad_line=len(lines) - 1, kept=2)


def test_every_reader_keeps_its_columns_as_64_bit_integers(tmp_path: Path) -> None:
    for name, reader in READERS.items():
        arrivals = read(tmp_path, reader.example, format=name)
        for column in (arrivals.arrival_ns, arrivals.session, arrivals.images, arrivals.image_tokens):
            assert column is None or column.dtype == np.int64
