"""What tests of the command are made of: a small scenario, and the command run in this process or in its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from click.testing import CliRunner

import simulator.export
import simulator.side_by_side
from simulator.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from click.testing import Result

#: Two pools of three instances in all; priced by the roofline, so that no kernel tables are read.
SCENARIO = """\
name = "small"
seed = 7
[model]
name = "Qwen/Qwen3-8B"
[workload.synthetic]
requests = 30
arrivals = { kind = "poisson", rate_per_s = 20.0 }
prompt_tokens = { kind = "lognormal", mean = 300, sigma = 0.5, max = 2000 }
output_tokens = { kind = "uniform", low = 5, high = 40 }
[slo]
ttft_ms = 1000
tpot_ms = 40
[[pool]]
name = "left"
stages = ["prefill", "decode"]
chip = "h100_sxm"
router = "power_of_two"
cost_sources = ["roofline"]
[[pool]]
name = "right"
chip = "h200_sxm"
replicas = 2
router = "power_of_two"
cost_sources = ["roofline"]
[cost]
chip_hour = { h100_sxm = 2.5, h200_sxm = 3.5 }
"""


#: What a run leaves.
RESULT = [
    "cdf.png",
    "manifest.json",
    "report.html",
    "requests.parquet",
    "summary.json",
    "timeline.json",
    "timeline.parquet",
    "timeline.png",
]

#: Two deployments of it.
CANDIDATES = """
[[candidate]]
name = "as is"
[[candidate]]
name = "big"
set = { "pool.right.replicas" = 4 }
"""


def draw_nothing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let pictures drawn in this process be empty files, for they are slow: those of a run, and the named ones."""
    for module, name in (
        (simulator.export, "plot_cdf"),
        (simulator.export, "plot_timeline"),
        *((simulator.side_by_side, name) for name in names),
    ):
        monkeypatch.setattr(module, name, lambda *arguments: arguments[-1].write_bytes(b""))


def servesim(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, arguments)


def servesim_process(
    *arguments: str, cwd: Path, module: str = "simulator", flags: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own, in a folder and with environment variables on top of ours."""
    return subprocess.run(
        [sys.executable, *flags, "-m", module, *arguments],
        cwd=cwd,
        env={**os.environ, "MPLBACKEND": "Agg", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def tree(folder: Path) -> list[str]:
    """Return everything below a folder, hidden or not."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def error_sentence(code: int, stdout: str, stderr: str) -> str:
    """Check that a command refused its input as it should, and return the sentence it gave."""
    assert "Traceback" not in stderr
    found = re.fullmatch(r"servesim: error: ([^\n]+)\n", stderr)
    assert found, f"expected one line, found {stderr!r}"
    assert (code, stdout) == (2, "")
    return found[1]
