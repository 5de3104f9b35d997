"""Same scenario, same bytes out: whatever the hash seed, and one run after another."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pandas as pd
from command import SCENARIO, servesim_process

if TYPE_CHECKING:
    from pathlib import Path

CLOSED_LOOP = """
[workload.closed_loop]
concurrency = 8
requests = 40
think_time_s = { kind = "exponential", mean = 0.1 }
prompt_tokens = { kind = "zipf", alpha = 1.2, low = 10, high = 900 }
output_tokens = { kind = "uniform", low = 2, high = 50 }
[slo]
"""


#: Files of a result that are compared as they are.
PICTURED = ("cdf.png", "timeline.png", "timeline.parquet", "timeline.json", "report.html")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what a result says, the time of the run left out."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.pop("cpu_s") >= 0
    rows = pd.read_parquet(folder / "requests.parquet").to_csv(index=False, float_format="%.17g")
    return {
        "requests.parquet": digest((folder / "requests.parquet").read_bytes()),
        "its rows": digest(rows.encode()),
        "summary.json": digest(json.dumps(summary).encode()),
        "manifest.json": digest((folder / "manifest.json").read_bytes()),
        **{name: digest((folder / name).read_bytes()) for name in PICTURED},
    }


def run_all(folder: Path, *runs: tuple[str, str]) -> list[dict[str, str]]:
    """Run the scenario of a folder under (hash seed, seed) each, two processes at a time."""

    def run(number: int) -> dict[str, str]:
        name, (hash_seed, seed) = f"run {number}", runs[number]
        arguments = ("run", "s.toml", "--quiet", "--seed", seed, "--out", name)
        done = servesim_process(*arguments, cwd=folder, PYTHONHASHSEED=hash_seed)
        assert (done.returncode, done.stderr) == (0, "")
        return digests(folder / name)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(run, range(len(runs))))


def test_runs_under_any_hash_seed_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SCENARIO)
    runs = [("0", "7"), ("1", "7"), ("1", "7"), ("4242", "7"), ("random", "7"), ("0", "8")]
    first, *same, other = run_all(tmp_path, *runs)
    assert same == [first] * 4
    # Digests of nothing would pass the line above; another seed changes every one of them.
    assert not set(first.values()) & set(other.values())


def test_a_closed_loop_gives_the_same_bytes(tmp_path: Path) -> None:
    synthetic = SCENARIO.index("[workload.synthetic]")
    rest = SCENARIO[SCENARIO.index("[slo]\n") + len("[slo]\n") :]
    (tmp_path / "s.toml").write_text(SCENARIO[:synthetic] + CLOSED_LOOP.lstrip() + rest)
    first, second = run_all(tmp_path, ("0", "7"), ("random", "7"))
    assert first == second
