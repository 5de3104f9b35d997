"""Files as users have them: damaged, misnamed, empty, of no known format."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import TraceError
from workloads.readers import READERS
from workloads.traces import detect_format, read_trace

if TYPE_CHECKING:
    from pathlib import Path

    from workloads.table import Arrivals

ROWS = 12


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces") / "trace"


def good_lines(name: str) -> tuple[list[bytes], list[bytes]]:
    """Return the header lines (none or one) and a dozen good rows of a format."""
    lines = READERS[name].example.encode().splitlines()
    header = lines[:1] if READERS[name].container == "csv" else []
    rows = lines[len(header) :]
    return header, [*rows, *[rows[-1]] * (ROWS - len(rows))]


JUNK = st.binary(max_size=30).map(lambda junk: junk.replace(b"\n", b" "))


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes, int]:
    """Draw a format, a file of it with some rows replaced, cut or spliced with junk, and its row count."""
    name = draw(st.sampled_from(sorted(READERS)))
    header, rows = good_lines(name)
    for place in draw(st.sets(st.integers(0, ROWS - 1))):
        cut = draw(st.integers(0, len(rows[place])))
        resume = draw(st.integers(cut, len(rows[place])))
        rows[place] = rows[place][:cut] + draw(JUNK) + rows[place][resume:]
    return name, b"\n".join([*header, *rows]), sum(bool(row.strip()) for row in rows)


@given(damaged_files())
def test_rows_read_and_rows_skipped_are_the_rows_there_are(scratch: Path, damaged: tuple[str, bytes, int]) -> None:
    name, content, rows = damaged
    scratch.write_bytes(content)
    found = outcome(scratch, name, "skip")
    if isinstance(found, TraceError):
        # Nothing usable: the error itself accounts for every row, unless there is not even a JSON object.
        left_out = sum(int(count) for count in re.findall(r"[(,] ?(\d+) [a-z]", str(found).partition("left out")[2]))
        assert left_out == rows or (left_out == 0 and (rows == 0 or READERS[name].container == "json"))
    else:
        assert len(found) + sum(found.skipped.values()) == rows


@given(damaged_files())
def test_a_damaged_file_reads_whole_or_names_a_line(scratch: Path, damaged: tuple[str, bytes, int]) -> None:
    name, content, rows = damaged
    scratch.write_bytes(content)
    found = outcome(scratch, name, "raise")
    if isinstance(found, TraceError):
        line, _, sentence = str(found).removeprefix(f"{scratch}:").partition(":")
        assert 1 <= int(line) <= ROWS + 1
        assert "\n" not in sentence
    else:
        assert len(found) == rows


def outcome(path: Path, name: str, on_error: str) -> Arrivals | TraceError:
    try:
        return read_trace(path, name, on_error=on_error)
    except TraceError as error:
        return error


@given(junk=st.binary(max_size=300))
def test_junk_is_never_more_than_a_trace_error(scratch: Path, junk: bytes) -> None:
    scratch.write_bytes(junk)
    for name in (None, *READERS):
        with pytest.raises(TraceError, match="expected"):
            read_trace(scratch, name, on_error="skip")


@given(cut=st.integers(0, 400))
def test_a_truncated_gzip_keeps_the_rows_before_the_cut(scratch: Path, cut: int) -> None:
    header, rows = good_lines("azure")
    content = gzip.compress(b"\n".join([*header, *rows]), mtime=0)
    cut = min(cut, len(content) - 1)
    scratch.write_bytes(content[:cut])
    with pytest.raises(TraceError):
        read_trace(scratch, "azure")
    found = outcome(scratch, "azure", "skip")
    if not isinstance(found, TraceError):
        assert len(found) <= ROWS
        assert found.skipped == {"truncated file": 1}


def test_a_long_truncated_gzip_is_read_up_to_the_cut(tmp_path: Path) -> None:
    header = "arrival_s,prompt_tokens,output_tokens\n"
    rows = [f"{k},{k * 7919 % 1009 + 1},{k * 104729 % 997 + 1}\n" for k in range(20_000)]
    content = gzip.compress((header + "".join(rows)).encode())
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(content[: len(content) // 2])
    arrivals = read_trace(path, on_error="skip")
    assert 5_000 < len(arrivals) < 15_000
    assert arrivals.prompt_tokens[-1] == (len(arrivals) - 1) * 7919 % 1009 + 1
    assert arrivals.skipped == {"truncated file": 1}
    line = len(arrivals) + 2
    with pytest.raises(TraceError, match=rf"csv\.gz:{line}: the gzip stream stops early, expected"):
        read_trace(path)


def test_a_truncated_gzip_of_json_lines_is_read_up_to_the_cut(tmp_path: Path) -> None:
    rows = [
        json.dumps({"timestamp": k, "prompt_tokens": k * 7919 % 1009 + 1, "output_tokens": k + 1}) for k in range(60)
    ]
    content = gzip.compress("\n".join(rows).encode())
    path = tmp_path / "trace"
    path.write_bytes(content[:-9])
    assert read_trace(path, on_error="skip").skipped == {"truncated file": 1}


def test_a_gzip_with_a_wrong_checksum_is_damaged(tmp_path: Path) -> None:
    header, rows = good_lines("azure")
    content = bytearray(gzip.compress(b"\n".join([*header, *rows, b""])))
    content[-6] ^= 0xFF
    path = tmp_path / "trace"
    path.write_bytes(bytes(content))
    with pytest.raises(TraceError, match="reading on fails"):
        read_trace(path)
    arrivals = read_trace(path, on_error="skip")
    assert arrivals.skipped == {"damaged file": 1}


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes, on_error: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)
    for name in (None, *READERS):
        with pytest.raises(TraceError, match=":1: the file is empty, expected a trace"):
            read_trace(path, name, on_error=on_error)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_header_alone_is_an_error(tmp_path: Path, on_error: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    with pytest.raises(TraceError, match=r"csv:1: no rows follow, expected at least one"):
        read_trace(path, on_error=on_error)


def test_when_every_row_is_bad_the_error_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,isl,osl\n0,x,1\n0,y,1\n0,1\n")
    expected = r"all rows left out \(2 not a number, 1 wrong number of columns\)"
    with pytest.raises(TraceError, match=expected):
        read_trace(path, on_error="skip")


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "conversation.jsonl").write_text("{}")
    with pytest.raises(TraceError, match=r"no such file, .* did you mean 'conversation.jsonl'"):
        read_trace(tmp_path / "conversations.jsonl")
    with pytest.raises(TraceError, match=r"no such file, expected a trace$"):
        read_trace(tmp_path / "nowhere" / "at-all.csv")


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b"])
def test_a_path_that_cannot_be_a_file_is_a_trace_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match="expected a"):
        read_trace(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "mooncak"}, "format is 'mooncak', did you mean 'mooncake'"),
        ({"format": "parquet"}, "expected one of azure, bailian"),
        ({"on_error": "skipp"}, "on_error is 'skipp', did you mean 'skip'"),
        ({"limit": 0}, "limit is 0, expected at least 1"),
        ({"rate_scale": 0.0}, "rate_scale is 0.0, expected a positive number"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(READERS["azure"].example)
    with pytest.raises(TraceError, match=message):
        read_trace(path, **options)


@pytest.mark.parametrize(
    "content",
    ["a,b,c\n1,2,3\n", '{"a": 1}\n', "TIMESTAMP,ContextTokens\n", "arrival_s,isl\n", "timestamp;isl;osl\n"],
)
def test_columns_nobody_knows_list_the_formats(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trace"
    path.write_text(content)
    with pytest.raises(TraceError, match="azure, bailian, burstgpt, csv, mooncake, servegen, vllm"):
        detect_format(path)


def test_columns_that_fit_two_formats_are_ambiguous(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "prompt_tokens": 5, "output_tokens": 1}\n')
    with pytest.raises(TraceError, match="which fit mooncake and vllm: say which with format"):
        read_trace(path)
    assert len(read_trace(path, "vllm")) == 1


@pytest.mark.parametrize("name", READERS)
def test_the_wrong_format_says_what_it_expects(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace"
    path.write_text("a,b\n1,2\n" if READERS[name].container == "csv" else '{"a": 1}\n')
    with pytest.raises(TraceError, match=r"trace:1: found the (columns|keys) 'a.*expected .*\(format"):
        read_trace(path, name)


@pytest.mark.parametrize(
    "content",
    [
        '[{"id": "x", "conversations": [{"from": "human", "value": "hi"}]}]',
        '[\n  {"id": "x"}\n]',
        '{"prompt": "hi", "output_tokens": 5}\n',
        '{"conversations": []}\n',
        '{"messages": []}\n',
    ],
)
def test_texts_without_token_counts_say_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sharegpt.json"
    path.write_text(content)
    for name in (None, "vllm"):
        with pytest.raises(TraceError, match=r"tokenizer.*prompt_tokens and output_tokens"):
            read_trace(path, name)


def test_a_bad_first_row_is_a_row_and_not_the_rule(tmp_path: Path) -> None:
    good = READERS["mooncake"].example
    path = tmp_path / "trace"
    for bad, reason in [
        ("{oops", "invalid JSON"),
        ("{}", "missing field"),
        ('{"timestamp": 0}', "missing field"),
        ('{"a": NaN}', "not finite"),
    ]:
        path.write_text(f"{bad}\n{good}")
        assert detect_format(path) == "mooncake"
        with pytest.raises(TraceError, match=":1: "):
            read_trace(path)
        assert read_trace(path, on_error="skip").skipped == {reason: 1}


def test_rows_after_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(READERS["azure"].example + "junk\n")
    assert len(read_trace(path, limit=3)) == 3
    with pytest.raises(TraceError, match=":5: 1 columns, expected 3"):
        read_trace(path)


def test_reading_leaves_no_file_open(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(READERS["azure"].example.encode()))
    read_trace(path, limit=1)
    detect_format(path)
    assert not recwarn.list
