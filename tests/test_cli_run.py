"""The good path of the command: what a run leaves and prints, and the same again with ``show``."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from command import RESULT, SCENARIO, servesim, servesim_process, tree
from rich.console import Console

import simulator.export
import simulator.run
from hardware.errors import LawError
from simulator import load_scenario, simulate
from simulator.report import render
from simulator.scenario import load_changed

#: The keys of ``vllm bench serve --save-result`` that a simulation has, and those of the outside contract.
VLLM_KEYS = [
    *("model_id", "num_prompts", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens"),
    *("request_throughput", "request_goodput", "output_throughput", "total_token_throughput"),
    *("max_output_tokens_per_s", "max_concurrent_requests"),
    *(
        f"{statistic}_{metric}_ms"
        for statistic in ("mean", "median", "std", "p50", "p90", "p95", "p99")
        for metric in ("ttft", "tpot", "itl", "e2el")
    ),
]
OUR_KEYS = [
    *("slo_attainment", "goodput_per_chip", "cost_per_million_output_tokens", "chips", "preemptions"),
    *("prefix_cache_hit_rate", "pools", "events", "steps", "extrapolated_share", "roofline_share", "cpu_s"),
]
COLUMNS = [
    *("request_id", "arrival_s", "prompt_tokens", "output_tokens", "images", "cached_tokens", "queue_ms", "encode_ms"),
    *("prefill_ms", "transfer_ms", "ttft_ms", "tpot_ms", "e2e_ms", "met_slo", "prefill_pool", "prefill_instance"),
    *("decode_pool", "decode_instance", "preemptions"),
]


DRAW = {name: getattr(simulator.export, name) for name in ("plot_cdf", "plot_timeline")}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with nothing but a good scenario; pictures, which take half a run's time, are not drawn."""
    for name in DRAW:
        monkeypatch.setattr(simulator.export, name, lambda *arguments: arguments[-1].write_bytes(b""))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


@pytest.fixture
def pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Draw the pictures after all."""
    for name, draw in DRAW.items():
        monkeypatch.setattr(simulator.export, name, draw)
    return folder


def summary_in(folder: str) -> dict:
    return json.loads(Path(folder, "summary.json").read_text())


def without_time(summary: dict) -> dict:
    return {key: value for key, value in summary.items() if key != "cpu_s"}


def run_summary(*arguments: str) -> dict:
    result = servesim("run", "s.toml", "--json", "--out", "out", *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# --- what a run leaves -------------------------------------------------------------------------------


@pytest.mark.usefixtures("pictures")
def test_a_result_is_complete_and_lies_under_its_name() -> None:
    result = servesim("run", "s.toml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert tree(Path()) == ["results", "results/small", *(f"results/small/{name}" for name in RESULT), "s.toml"]
    summary = summary_in("results/small")
    assert [key for key in (*VLLM_KEYS, *OUR_KEYS) if key not in summary] == []
    assert list(summary["pools"]) == ["left", "right"]
    assert [pool["chips"] for pool in summary["pools"].values()] == [1, 2]
    for name in ("cdf", "timeline"):
        assert Path(f"results/small/{name}.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_requests_and_summary_tell_the_same_story() -> None:
    summary = run_summary()
    requests = pd.read_parquet("out/requests.parquet")
    assert [name for name in COLUMNS if name not in requests.columns] == []
    assert len(requests) == summary["num_prompts"] == summary["completed"] == 30
    assert requests["output_tokens"].sum() == summary["total_output_tokens"]
    assert requests["ttft_ms"].quantile(0.99) == pytest.approx(summary["p99_ttft_ms"])
    assert requests["met_slo"].mean() == summary["slo_attainment"]
    assert set(requests["decode_pool"]) == {"left", "right"}
    served = requests["prefill_pool"].value_counts()
    assert {name: served[name] for name in served.index} == {
        name: pool["requests"] for name, pool in summary["pools"].items()
    }


def test_the_manifest_says_what_was_run() -> None:
    run_summary("--seed", "11", "--set", "pool.right.replicas=1")
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["seed"] == manifest["scenario"]["seed"] == 11
    assert [pool["replicas"] for pool in manifest["scenario"]["pool"]] == [1, 1]
    assert re.fullmatch(r"[0-9a-f]{64}", manifest["scenario_sha256"])
    assert manifest["pools"]["left"]["engine_options"]["max_num_batched_tokens"] == 8192
    assert manifest["versions"]["servesim"]


def test_csv_takes_the_place_of_parquet() -> None:
    run_summary()
    parquet = pd.read_parquet("out/requests.parquet")
    run_summary("--csv")
    assert tree(Path("out")) == sorted({*RESULT, "requests.csv"} - {"requests.parquet"})
    pd.testing.assert_frame_equal(pd.read_csv("out/requests.csv"), parquet, check_dtype=False)


# --- what a run prints -------------------------------------------------------------------------------


def test_tables_go_to_stdout_and_show_prints_them_again() -> None:
    ran = servesim("run", "s.toml", "--out", "out")
    for part in ("small: Qwen/Qwen3-8B on 3 chips", "Latency, ms", "Throughput", "Pools", "Results: out"):
        assert part in ran.stdout
    assert f"{summary_in('out')['p99_ttft_ms']:,.2f}" in ran.stdout
    shown = servesim("show", "out")
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, ran.stdout, "")


def test_json_is_the_summary_and_nothing_else() -> None:
    printed = run_summary()
    assert printed == summary_in("out")
    shown = servesim("show", "out", "--json")
    assert json.loads(shown.stdout) == printed


def test_quiet_prints_nothing() -> None:
    result = servesim("run", "s.toml", "--quiet", "--out", "out")
    assert (result.exit_code, result.output) == (0, "")
    assert tree(Path("out")) == RESULT


def test_progress_goes_to_stderr_and_only_to_a_terminal(folder: Path) -> None:
    command = [sys.executable, "-m", "simulator", "run", "s.toml", "--out"]
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        # Linux ends a pseudo-terminal that nobody holds open with an error, others with nothing.
        try:
            while chunk := os.read(ours, 4096):
                seen.append(chunk)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    env = {**os.environ, "TERM": "xterm", "MPLBACKEND": "Agg"}
    on_terminal = subprocess.run([*command, "a"], cwd=folder, env=env, stdout=-1, stderr=theirs, text=True, check=True)
    os.close(theirs)
    reader.join()
    os.close(ours)
    piped = servesim_process("run", "s.toml", "--out", "a", cwd=folder)
    assert b"requests" in b"".join(seen)
    assert piped.stderr == ""
    # But for the CPU seconds of the run, stdout is the same.
    tables = [re.sub(r"[\d.]+ CPU s", "", text) for text in (on_terminal.stdout, piped.stdout)]
    assert tables[0] == tables[1]
    assert "Latency, ms" in tables[0]


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(("name", "pool"), [("[bold]", "[/x]"), ("中文", "[b]"), ("$a_$", "$a_$")])
def test_names_are_shown_as_they_are(name: str, pool: str) -> None:
    # To rich, square brackets are markup, to matplotlib dollars are mathematics, and its font has no Chinese.
    result = servesim("run", "s.toml", "--set", f"name='{name}'", "--set", f"pool.0.name='{pool}'", "--out", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{name}: Qwen" in result.stdout
    assert f" {pool} ┃" in result.stdout


def test_a_missing_price_and_skipped_rows_are_said() -> None:
    summary = simulate(load_scenario("s.toml", {"cost.chip_hour": {}})).summary
    assert summary["cost_per_million_output_tokens"] is None
    console = Console(file=io.StringIO(), width=100)
    console.print(render({**summary, "skipped_rows": {"not a number": 1234}}, {"ttft": 5.0}))
    text = console.file.getvalue()
    assert "no price given" in text
    assert "Trace rows skipped: 1,234 not a number." in text


# --- overrides and seeds -----------------------------------------------------------------------------


def test_a_pool_is_changed_by_its_name_or_its_number() -> None:
    by_name = run_summary("--set", "pool.right.replicas=4")
    by_number = run_summary("--set", "pool.1.replicas=4")
    assert without_time(by_name) == without_time(by_number)
    assert by_name["chips"] == 5


def test_later_changes_win_and_values_are_toml_or_text() -> None:
    found = load_changed("s.toml", ["seed=1", "seed=2", "name=night run", "slo.ttft_ms=5"])
    assert (found.seed, found.name, found.slo.ttft_ms) == (2, "night run", 5.0)
    assert load_changed("s.toml", ["seed=1"], seed=3).seed == 3
    # Text that only starts like TOML stays text: a second line is no second key.
    assert load_changed("s.toml", ["model.name='a'\nb = 2"]).model.name == "'a'\nb = 2"


def test_naming_a_kind_of_workload_takes_the_other_away() -> None:
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,3\n1,20,4\n")
    summary = run_summary("--set", "workload.trace=t.csv")
    assert (summary["completed"], summary["total_output_tokens"]) == (2, 7)


def test_files_beside_the_scenario_are_found(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,3\n")
    (folder / "deep" / "s.toml").write_text(SCENARIO)
    found = load_scenario("deep/s.toml", {"workload.trace": "t.csv"})
    assert found.workload.trace == str(Path("deep/t.csv"))


def test_the_seed_decides_the_result() -> None:
    same, again, other = (without_time(run_summary("--seed", seed)) for seed in ("7", "7", "8"))
    assert same == again == without_time(run_summary())
    assert other["mean_ttft_ms"] != same["mean_ttft_ms"]
    assert other["total_input_tokens"] != same["total_input_tokens"]


# --- exit codes --------------------------------------------------------------------------------------


def test_a_missed_slo_exits_3_and_leaves_a_result() -> None:
    result = servesim("run", "s.toml", "--set", "slo.ttft_ms=0.001", "--out", "out")
    assert result.exit_code == 3
    assert result.stderr == "servesim: 0.00% of the requests met the SLO, below slo.attainment = 0.9\n"
    assert "SLO attainment" in result.stdout
    assert summary_in("out")["slo_attainment"] == 0
    assert tree(Path("out")) == RESULT


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_share_that_must_meet_the_slo_decides(share: float) -> None:
    requests = simulate(load_scenario("s.toml")).requests
    bound_ms = float(requests["ttft_ms"].median())
    result = servesim(
        "run", "s.toml", "--quiet", "--set", f"slo={{ttft_ms={bound_ms!r}, attainment={share}}}", "--out", "out"
    )
    assert result.exit_code == (0 if share == 0.5 else 3)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (LawError("requests in = finished + failed: found 1, expected 2"), "requests in = finished + failed"),
        (MemoryError("Unable to allocate\n9 TiB"), "out of memory (Unable to allocate 9 TiB)"),
    ],
    ids=["broken law", "out of memory"],
)
def test_what_is_not_the_users_fault_exits_1_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(simulator.run, "run_scenario", fail)
    result = servesim("run", "s.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"servesim: error: {sentence}")
    assert result.stderr.count("\n") == 1
    assert tree(Path()) == ["s.toml"]


# --- replacing ---------------------------------------------------------------------------------------


def snapshot(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_an_earlier_result_is_replaced_as_a_whole() -> None:
    run_summary("--csv")
    run_summary("--seed", "8")
    assert tree(Path("out")) == RESULT
    assert tree(Path()) == ["out", *(f"out/{name}" for name in RESULT), "s.toml"]
    assert json.loads(Path("out/manifest.json").read_text())["seed"] == 8


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        ("manifest", ValueError("bug")),
        ("plot_cdf", OSError(28, "No space left on device")),
        ("plot_timeline", OSError(28, "No space left on device")),
        ("put_in_place", KeyboardInterrupt()),
    ],
)
def test_a_run_that_dies_while_writing_leaves_the_old_result(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, moment: str
) -> None:
    run_summary()
    before = snapshot("out")

    def die(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(simulator.export, moment, die)
        result = servesim("run", "s.toml", "--seed", "8", "--out", "out")
    assert result.exit_code == (2 if isinstance(error, OSError) else 1)
    if isinstance(error, OSError):
        assert result.stderr.startswith("servesim: error: --out out: cannot be written (No space left on device)")
    assert snapshot("out") == before
    assert tree(Path()) == ["out", *(f"out/{name}" for name in RESULT), "s.toml"]


def test_a_result_that_cannot_be_moved_in_puts_the_old_one_back(monkeypatch: pytest.MonkeyPatch) -> None:
    run_summary()
    before, rename = snapshot("out"), Path.rename

    def only_away(source: Path, target: Path) -> Path:
        if source.name == "new":
            raise OSError(16, "Device or resource busy")
        return rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", only_away)
        result = servesim("run", "s.toml", "--seed", "8", "--out", "out")
    assert result.exit_code == 2
    assert "Device or resource busy" in result.stderr
    assert snapshot("out") == before


def test_what_appears_in_the_target_during_the_run_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    run, notes = simulator.run.run_scenario, Path("out/notes.txt")

    def run_and_write(*arguments: object, **options: object) -> object:
        notes.parent.mkdir()
        notes.write_text("mine")
        return run(*arguments, **options)

    monkeypatch.setattr(simulator.run, "run_scenario", run_and_write)
    assert servesim("run", "s.toml", "--out", "out").exit_code == 2
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("target", ["link", "real/", "."])
def test_a_result_is_replaced_by_whatever_way_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    assert servesim("run", "s.toml", "--quiet", "--out", "real").exit_code == 0
    Path("link").symlink_to("real")
    if target == ".":
        monkeypatch.chdir("real")
    assert servesim("run", str(folder / "s.toml"), "--quiet", "--seed", "8", "--out", target).exit_code == 0
    assert summary_in(str(folder / "real"))["completed"] == 30
    assert json.loads((folder / "real" / "manifest.json").read_text())["seed"] == 8
    assert (folder / "link").is_symlink()
