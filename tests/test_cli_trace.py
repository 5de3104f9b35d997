"""The trace commands: a trace written and read again is the same trace."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from command import SCENARIO, servesim, tree
from hypothesis import given
from hypothesis import strategies as st

from simulator import load_scenario, simulate
from simulator.trace_file import left_out, write_trace
from workloads.readers import READERS
from workloads.statistics import describe
from workloads.table import Arrivals, BlockHashes
from workloads.traces import read_trace

SHARED = Path(__file__).parents[2] / "shared" / "data" / "traces"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with nothing but a good scenario."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def same_rows(first: Arrivals, second: Arrivals) -> None:
    for name in ("arrival_ns", "prompt_tokens", "output_tokens"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()


def shared(name: str) -> Path:
    if not (SHARED / name).is_file():
        pytest.skip(f"the shared trace {name} is not at hand")
    return SHARED / name


# --- writing and reading again -----------------------------------------------------------------------


@st.composite
def workloads(draw: st.DrawFn) -> Arrivals:
    rows = draw(st.integers(1, 12))
    times = sorted(draw(st.lists(st.integers(0, 10**15), min_size=rows, max_size=rows)))
    prompts = draw(st.lists(st.integers(1, 3000), min_size=rows, max_size=rows))
    outputs = draw(st.lists(st.integers(1, 2**31 - 1), min_size=rows, max_size=rows))
    counts = [draw(st.integers(0, -(-prompt // 512))) for prompt in prompts]
    hashes = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=sum(counts), max_size=sum(counts)))
    return Arrivals(
        arrival_ns=np.array(times, np.int64) - times[0],
        prompt_tokens=np.array(prompts, np.int64),
        output_tokens=np.array(outputs, np.int64),
        source="drawn",
        blocks=BlockHashes(np.cumsum([0, *counts]), np.array(hashes, np.int64), 512),
    )


@given(arrivals=workloads(), name=st.sampled_from(["t.csv", "t.csv.gz", "t.jsonl", "T.JSONL.GZ"]))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, arrivals: Arrivals, name: str) -> None:
    path = tmp_path_factory.mktemp("trace") / name
    write_trace(arrivals, path)
    found = read_trace(path, spread=False)
    same_rows(found, arrivals)
    if "jsonl" in name.lower():
        assert found.blocks is not None
        assert [found.blocks.of(row).tolist() for row in range(len(found))] == [
            arrivals.blocks.of(row).tolist() for row in range(len(arrivals))
        ]
    assert tree(path.parent) == [name]


@pytest.mark.parametrize("target", ["new.csv", "new.csv.gz"])
@pytest.mark.parametrize("name", READERS)
def test_every_format_converts_to_csv(folder: Path, name: str, target: str) -> None:
    Path("old").write_text(READERS[name].example)
    result = servesim("trace", "convert", "old", "-o", target, "--format", name)
    assert (result.exit_code, result.stdout) == (0, f"{target}: 3 requests\n")
    same_rows(read_trace(target), read_trace("old", name))
    missing = left_out(read_trace("old", name), "csv")
    assert ("left out" in result.stderr) == bool(missing)
    assert all(words in result.stderr for words in missing)
    assert tree(folder) == sorted(["old", target, "s.toml"])


@pytest.mark.usefixtures("folder")
def test_zipped_traces_have_no_time_or_name_in_them() -> None:
    Path("old.csv").write_text(READERS["csv"].example)
    servesim("trace", "convert", "old.csv", "-o", "new.csv.gz")
    content = Path("new.csv.gz").read_bytes()
    # RFC 1952: flags in byte 3 (0 is no name), the time in bytes 4 to 7.
    assert (content[3], content[4:8]) == (0, bytes(4))
    assert gzip.decompress(content).startswith(b"arrival_s,prompt_tokens,output_tokens\n0.000000000,600,10\n")


def test_an_older_file_of_that_name_is_replaced(folder: Path) -> None:
    (folder / "old.csv").write_text(READERS["csv"].example)
    (folder / "new.csv").write_text("something else")
    assert servesim("trace", "convert", "old.csv", "-o", "new.csv").exit_code == 0
    assert len(read_trace("new.csv")) == 3


def test_mooncakes_form_keeps_shared_ticks_and_hashes_as_they_are(folder: Path) -> None:
    lines = [line for line in READERS["mooncake"].example.splitlines() for _ in range(2)]
    (folder / "old.jsonl").write_text("\n".join(lines))
    assert servesim("trace", "convert", "old.jsonl", "-o", "new.jsonl").exit_code == 0
    old, new = ([json.loads(line) for line in text] for text in (lines, Path("new.jsonl").read_text().splitlines()))
    assert new == [row | {"timestamp": row["timestamp"] - old[0]["timestamp"]} for row in old]


@pytest.mark.parametrize(
    ("trace", "target"),
    [
        ("azure2023_conv.csv", "new.csv"),
        ("mooncake_conversation_trace.jsonl", "new.csv"),
        ("mooncake_conversation_trace.jsonl", "new.jsonl.gz"),
        ("servegen_mm-image_1h.csv.gz", "new.csv.gz"),
    ],
)
def test_real_traces_have_the_same_statistics_after_conversion(folder: Path, trace: str, target: str) -> None:
    path = shared(trace)
    assert servesim("trace", "convert", str(path), "-o", target).exit_code == 0
    old, new = describe(read_trace(path)), describe(read_trace(folder / target))
    assert new == {name: old[name] for name in new}
    assert {"rows", "rate_per_s", "burstiness", "p99_prompt_tokens", "p99_output_tokens"} <= set(new)
    assert ("prefix_hit_ratio" in new) == target.startswith("new.jsonl")


# --- describing --------------------------------------------------------------------------------------


def rows_of(table: str) -> dict[str, str]:
    """Return the rows of a printed table: name to value."""
    return dict(re.findall(r"^│ (\w+) +│ +(\S+) +│$", table, flags=re.MULTILINE))


def test_description_has_every_statistic(folder: Path) -> None:
    (folder / "old.jsonl").write_text(READERS["mooncake"].example)
    result = servesim("trace", "describe", "old.jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("old.jsonl (mooncake)\n")
    found = rows_of(result.stdout)
    assert list(found) == list(describe(read_trace("old.jsonl")))
    # Three requests at 0, 2 and 5 s; the second shares one block of 512 tokens, of 1730 tokens in all.
    assert found["rows"] == "3"
    assert found["span_s"] == "5"
    assert found["rate_per_s"] == "0.4"
    assert found["max_prompt_tokens"] == "1,100"
    assert found["prefix_hit_ratio"] == f"{512 / 1730:.4g}"


def test_description_before_and_after_conversion_is_the_same(folder: Path) -> None:
    (folder / "old.csv").write_text(READERS["azure"].example)
    servesim("trace", "convert", "old.csv", "-o", "new.csv")
    old, new = (rows_of(servesim("trace", "describe", name).stdout) for name in ("old.csv", "new.csv"))
    assert old == new
    assert len(old) > 10


@pytest.mark.parametrize("command", [("describe", "t.csv"), ("convert", "t.csv", "-o", "new.csv")])
def test_rows_are_skipped_only_on_request_and_counted(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,2\n1,x,2\n2,1,2\n")
    assert servesim("trace", *command).exit_code == 2
    result = servesim("trace", *command, "--on-error", "skip")
    assert (result.exit_code, result.stderr) == (0, "servesim: rows skipped: 1 not a number\n")


# --- synthesising ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_a_synthesised_trace_replays_the_scenario() -> None:
    changes = ("--set", "workload.rate_scale=2", "--set", "workload.limit=20")
    result = servesim("trace", "synth", "s.toml", "-o", "new.csv", "--seed", "5", *changes)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "new.csv: 20 requests\n", "")
    drawn = load_scenario("s.toml", {"seed": 5, "workload.rate_scale": 2.0, "workload.limit": 20})
    replayed = load_scenario("s.toml", {"seed": 5, "workload.trace": "new.csv"})
    first, second = simulate(drawn).requests, simulate(replayed).requests
    # A trace starts at 0, a synthetic stream after its first gap: all times move by it.
    shift_s = first["arrival_s"][0] - second["arrival_s"][0]
    assert shift_s > 0
    np.testing.assert_allclose(first["arrival_s"] - shift_s, second["arrival_s"], rtol=0, atol=1e-9)
    for name in ("prompt_tokens", "output_tokens", "ttft_ms", "tpot_ms", "e2e_ms", "prefill_instance"):
        assert first[name].tolist() == second[name].tolist()


def test_another_seed_gives_another_trace(folder: Path) -> None:
    for seed in ("1", "2"):
        servesim("trace", "synth", "s.toml", "-o", f"{seed}.csv", "--seed", seed)
    assert (folder / "1.csv").read_bytes() != (folder / "2.csv").read_bytes()
