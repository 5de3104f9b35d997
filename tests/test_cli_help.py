"""Help and version: complete, and there before anything heavy is imported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from command import servesim, servesim_process

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--help",), ("run", "show", "trace", "--version")),
        (("-h",), ("run", "show", "trace", "--version")),
        (("run", "--help"), ("SCENARIO", "--set KEY=VALUE", "--seed", "--out DIR", "--csv", "--json", "--quiet")),
        (("show", "--help"), ("RESULT_DIR", "--json")),
        (("perf", "--help"), ("audit", "list", "price", "show")),
        (("perf", "price", "--help"), ("SCENARIO", "--prefill TOKENS[@PAST]", "--decode SEQSxCONTEXT")),
        (("trace", "--help"), ("describe", "convert", "synth")),
        (("trace", "convert", "--help"), ("-o, --output FILE", "--format FORMAT", "--on-error")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_help_names_what_there_is(arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    result = servesim(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    for part in ("Usage: servesim", *parts):
        assert part in result.stdout


def test_the_version_is_that_of_the_distribution() -> None:
    result = servesim("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"servesim, version \d+\.\d+\.\d+\S*\n", result.stdout)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("perf", "audit", "--help"), ("trace", "describe", "--help")]
)
def test_help_imports_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = servesim_process(*arguments, cwd=tmp_path, flags=("-X", "importtime"))
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"click", "simulator.cli", "simulator.trace_cli"} <= imported
    packages = {name.partition(".")[0] for name in imported}
    heavy = {"numpy", "pandas", "scipy", "matplotlib", "networkx", "pyarrow", "pydantic", "rich", "simpy", "yaml"}
    assert packages & heavy == set()
    assert packages & {"hardware", "workloads", "perfdb"} == set()
