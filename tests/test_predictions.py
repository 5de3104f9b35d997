"""The prediction gate: nothing that is predicted for the small grid moves unseen, and what moved is shown."""

from __future__ import annotations

import math
import re
import subprocess

import pytest

from benchmarks.predictions.__main__ import EXPECTED, main
from benchmarks.predictions.changes import Change, at_revision, changes, moved, text
from benchmarks.predictions.grid import TAKEN, grid_points, predictions, read, write
from hardware.errors import UserError

GRIDS = EXPECTED.parents[3] / "benchmarks" / "predictions"
#: The last digits of means may differ between builds of numpy.
ROUNDING = 1e-6

GRID = """\
[every]
model = { name = "Qwen/Qwen3-8B", max_tokens = 4096 }
[every.pool]
chip = "h100_sxm"
cost_sources = ["roofline"]
[load.few.workload.closed_loop]
concurrency = 2
requests = 4
prompt_tokens = { kind = "fixed", value = 100 }
output_tokens = { kind = "fixed", value = 10 }
[load.more.workload.closed_loop]
concurrency = 4
requests = 8
prompt_tokens = { kind = "fixed", value = 100 }
output_tokens = { kind = "fixed", value = 10 }
[layout.one]
pool = { tensor_parallel = 1 }
[layout.three]
pool = { tensor_parallel = 3 }
[layout.split]
pools = [{ stages = ["prefill"] }, { stages = ["decode"], chip = "h200_sxm" }]
[[rule]]
when = { load = ["more"], layout = ["three", "split"] }
skip = true
[[rule]]
when = { load = ["more"] }
model = { max_tokens = 2048 }
"""


@pytest.fixture(scope="module")
def small():
    return predictions(GRIDS / "small.toml")


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(GRID)
    return path


def test_predictions_of_the_small_grid_are_those_expected(small):
    found = moved(changes(read(EXPECTED), small), ROUNDING)
    if found:
        advice = "if that is meant, run: python -m benchmarks.predictions write"
        pytest.fail(f"predictions moved; {advice}\n{text(found, ROUNDING)}", pytrace=False)


def test_the_small_grid_reaches_what_it_is_to_guard(small):
    engines = ("vllm", "sglang", "trtllm")
    for family in ("dense", "experts", "latent", "window", "delta_net"):
        for engine in engines:
            layouts = {name.split("/")[2] for name in small if name.startswith(f"{family}/{engine}/")}
            assert layouts == {"tensor", "ranks", "split"} - ({"ranks"} if family == "dense" else set())
    assert not [name for name, row in small.items() if "error" in row]
    assert all(row["roofline_share"] + row["host_share"] == pytest.approx(1) for row in small.values())
    assert all(row["completed"] == (40 if name.endswith("light") else 96) for name, row in small.items())
    assert sum(row["preemptions"] for row in small.values()) > 50
    assert all((row["prefix_cache_hit_rate"] > 0) == name.endswith("light") for name, row in small.items())
    assert {row["pool0_kv_blocks"] for name, row in small.items() if "tensor/crowded" in name} == {1999, 32000, 1000}
    assert "decode_kv_blocks" in small["dense/vllm/split/light"]


def test_every_scenario_of_the_full_grid_is_one():
    from simulator.scenario import resolve_scenario

    points = dict(grid_points(GRIDS / "full.toml"))
    assert len(points) == 2 * 3 * 3 * (2 * 2 + 6 * 3)
    for name, table in points.items():
        resolve_scenario(table, EXPECTED, name)


def test_a_grid_is_every_combination_less_what_is_skipped(grid):
    points = dict(grid_points(grid))
    assert list(points) == ["few/one", "few/three", "few/split", "more/one"]
    assert [points[name]["model"]["max_tokens"] for name in points] == [4096, 4096, 4096, 2048]
    assert [pool["chip"] for pool in points["few/split"]["pool"]] == ["h100_sxm", "h200_sxm"]
    assert points["few/three"]["pool"][0]["tensor_parallel"] == 3


def test_predictions_are_the_same_from_any_number_of_processes_and_from_a_file(grid, tmp_path):
    rows = predictions(grid)
    assert rows == predictions(grid, jobs=2)
    write(tmp_path / "rows.json", rows)
    assert read(tmp_path / "rows.json") == rows
    assert len((tmp_path / "rows.json").read_text().splitlines()) == len(rows) + 2
    assert set(TAKEN) < set(rows["few/one"])
    assert rows["few/three"]["error"].startswith("pool.pool0.tensor_parallel is 3, which does not divide")


def test_changes_are_told_the_largest_first():
    old = {
        "a": {"mean_ttft_ms": 100.0, "host_share": 0.1, "preemptions": 0.0, "completed": 4.0},
        "b": {"mean_ttft_ms": 50.0},
        "c": {"error": "no room"},
        "gone": {"mean_ttft_ms": 1.0, "completed": 4.0},
    }
    new = {
        "a": {"mean_ttft_ms": 90.0, "host_share": 0.35, "preemptions": 2.0, "completed": 4.0},
        "b": {"mean_ttft_ms": 50.5},
        "c": {"mean_ttft_ms": 3.0, "completed": 4.0},
    }
    found = changes(old, new)
    assert [(change.scenario, change.metric) for change in found] == [
        ("a", "preemptions"),
        ("c", "error"),
        ("gone", "mean_ttft_ms"),
        ("a", "host_share"),
        ("a", "mean_ttft_ms"),
        ("b", "mean_ttft_ms"),
    ]
    assert [change.size for change in found] == pytest.approx([math.inf, math.inf, math.inf, 0.25, -0.1, 0.01])
    assert moved(found, 0.05) == found[:5]
    assert moved(found, 0.05, ["a", "c"]) == [found[2]]
    assert moved(found, 0.05, ["?:host_share", "gone"]) == [found[0], found[1], found[4]]
    assert changes(new, new) == []


def test_what_moved_is_shown_as_a_table():
    found = [Change("a/b", "mean_ttft_ms", 100.0, 90.0), Change("a/b", "host_share", 0.1, 0.11)]
    said = " ".join(re.sub(r"[^\x20-\x7e\n]", " ", text(found, 0.05, ["x"])).split())
    assert "a/b mean_ttft_ms 100 90 -10 %" in said
    assert "a/b host_share 0.1 0.11 +1 points" in said
    assert "2 predictions moved, 1 of them by more than 5.0000%" in said
    assert "accepted" in text(found, 0.05, ["a/*:mean*"])
    assert "and 1 smaller changes" in text(found, 0.05, most=1)
    assert text([], 0.05) == "no prediction moved\n"


def test_the_command_fails_where_a_prediction_moved_and_was_not_accepted(grid, tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    assert main(["write", "--grid", str(grid), "--out", str(old)]) == 0
    assert main(["compare", str(old), "--grid", str(grid)]) == 0
    assert "no prediction moved" in capsys.readouterr().out
    rows = read(old)
    rows["few/one"]["mean_ttft_ms"] *= 1.02
    write(new, rows)
    assert main(["compare", str(old), str(new)]) == 1
    assert main(["compare", str(old), str(new), "--threshold", "2.5"]) == 0
    assert main(["compare", str(old), str(new), "--accept", "few/*:mean_ttft_ms"]) == 0
    assert main(["compare", str(old), str(new), "--accept", "more/*"]) == 1
    assert "+2 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compare", "no-such-thing"], "no-such-thing: found neither such a file nor such a revision"),
        (["write", "--grid", "huge"], "--grid huge: "),
        (["write", "--grid", "full"], "--grid full: the tests expect nothing of it; name a file with --out"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"predictions: error: {sentence}")


REVISION = {
    "hardware/errors.py": "class ServesimError(Exception): pass\n",
    "hardware/__init__.py": "",
    "simulator/__init__.py": "",
    "simulator/scenario.py": "def resolve_scenario(table, file, where): return table\n",
    "simulator/run.py": """\
from types import SimpleNamespace
def run_scenario(table):
    summary = {name: SPEED for name in TAKEN} | {"pools": {}, "host_share": 0.5}
    return SimpleNamespace(summary=summary)
""",
}


def test_predictions_of_a_revision_are_made_by_its_own_sources(grid, tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-q")
    for speed in ("7.0", "8.0"):
        for name, source in REVISION.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(source.replace("SPEED", speed).replace("TAKEN", repr(TAKEN)))
        git("add", "simulator", "hardware")
        git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", speed)
    for revision, speed in (("HEAD~1", 7.0), ("HEAD", 8.0)):
        rows = at_revision(revision, grid, 1, tmp_path)
        assert [row["mean_ttft_ms"] for row in rows.values()] == [speed] * 4
    (tmp_path / "simulator" / "run.py").write_text("boom\n")
    git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-a", "-m", "broken")
    with pytest.raises(UserError, match="HEAD: the grid cannot be run there: NameError: name 'boom'"):
        at_revision("HEAD", grid, 1, tmp_path)
