"""A search beside AIConfigurator's: ``python -m benchmarks.search_peer AICONFIGURATOR [--backend B] SEARCH_DIR``.

AICONFIGURATOR is the command of aiconfigurator 0.12, SEARCH_DIR what ``servesim search search`` left. The peer is asked
for the same model, chips, lengths and SLO; the best deployment it names of each kind, with its batch sizes, is put
under load here, and printed beside what the peer says of it and what the search found.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from simulator.entries import LONG, Entry, ladder_of, trial_of
from simulator.journal import Journal
from simulator.objectives import goal_of
from simulator.pool_table import Pool
from simulator.search_space import Choice, Role, Unit
from simulator.search_table import load_searched
from simulator.traffic import describe_traffic
from simulator.trials import Verdict, run_trial, trial_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.objectives import Goal
    from simulator.search_table import Searched

_STAGES: Final[Mapping[Role, tuple[str, ...]]] = {
    "colocated": ("prefill", "decode"),
    "prefill": ("prefill",),
    "decode": ("decode",),
}
#: Sequences and tokens of a step by the names of each engine.
_LIMITS: Final = {
    "vllm": ("max_num_seqs", "max_num_batched_tokens"),
    "sglang": ("max_running_requests", "chunked_prefill_size"),
}


def ask(command: str, backend: str, folder: Path) -> tuple[dict[str, dict[str, str]], float]:
    """Return the best deployment of each kind that the peer names, by kind, and how long it took, s."""
    asked = (
        f"--model-path Qwen/Qwen3-32B-FP8 --total-gpus 32 --system h200_sxm --backend {backend} --isl 4000 --osl 500"
    )
    options = [*asked.split(), "--ttft", "300", "--tpot", "10", "--save-dir", str(folder), "--no-color"]
    started = time.monotonic()
    subprocess.run([command, "cli", "default", *options], check=True, capture_output=True)  # noqa: S603 - as asked
    took = time.monotonic() - started
    found = {}
    for kind in ("agg", "disagg"):
        for file in folder.rglob(f"{kind}/best_config_topn.csv"):
            with file.open(encoding="utf-8", newline="") as stream:
                found[kind] = next(csv.DictReader(stream))
    return found, took


def unit_of(row: Mapping[str, str], searched: Searched, backend: str) -> Unit:
    """Return the deployment that a row of the peer describes."""
    if "(p)workers" not in row:
        size = int(row["bs"])
        return Unit(((_choice("colocated", row, "", (size, size + int(row["ctx_tokens"])), searched, backend), 1),))
    prompts = _choice("prefill", row, "(p)", (int(row["(p)bs"]), int(row["isl"]) + 1500), searched, backend)
    decodes = _choice("decode", row, "(d)", (int(row["(d)bs"]), max(int(row["(d)bs"]), 512)), searched, backend)
    return Unit(((prompts, int(row["(p)workers"])), (decodes, int(row["(d)workers"]))))


def _choice(  # noqa: PLR0913, PLR0917 - what a worker of the peer is
    role: Role, row: Mapping[str, str], prefix: str, limits: tuple[int, int], searched: Searched, backend: str
) -> Choice:
    tensor = int(row[f"{prefix}tp"])
    options = dict(zip(_LIMITS[backend], limits, strict=True))
    pool = {
        "name": role,
        "stages": _STAGES[role],
        "chip": searched.table.chips[0],
        "tensor_parallel": tensor,
        "engine": backend,
        "engine_options": options,
    }
    return Choice(role, searched.scenario.model, Pool.model_validate(pool), f"TP{tensor}, {limits[0]} sequences")


def bears(unit: Unit, searched: Searched, goal: Goal, rate_per_s: float) -> dict[str, Any] | None:
    """Return the run of the highest load, up to twice a rate of a unit, that a deployment bears; None for none."""
    entry = Entry(unit, 32 // unit.chips, 2 * rate_per_s, 0.0, rate_per_s)
    ladder = ladder_of(entry, goal, LONG, 32, 5.0)
    trial = trial_of(entry, searched.scenario, goal, LONG, ladder, hint=len(ladder) // 4, floor=None, allowed_s=5.0)
    with tempfile.TemporaryDirectory() as place:
        verdict = Verdict.of(run_trial(trial_key(trial), trial, Journal(Path(place))))
    return verdict.at(verdict.place)


def main() -> None:
    """Print both answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("aiconfigurator")
    parser.add_argument("--backend", choices=list(_LIMITS), default="vllm")
    parser.add_argument("search_dir", type=Path)
    given = parser.parse_args()
    searched = load_searched("search", gpus=None, objective=None)
    goal = goal_of("goodput", searched.scenario, searched.table.chips, describe_traffic(searched.scenario))
    shown = Table("", "deployment", "requests/s\nper chip", "TTFT, ms", "TPOT, ms", "SLO met")
    with tempfile.TemporaryDirectory() as place:
        named, took = ask(given.aiconfigurator, given.backend, Path(place))
    for kind, row in named.items():
        unit = unit_of(row, searched, given.backend)
        units = 32 // unit.chips
        shown.add_row(f"peer, {kind}: it says", unit.label(units), row["seq/s/gpu"], row["ttft"], row["tpot"], "")
        rate = float(row["seq/s/gpu"]) * unit.chips
        _add(shown, f"peer, {kind}: here", unit.label(units), bears(unit, searched, goal, rate), units * unit.chips)
    content = json.loads((given.search_dir / "search.json").read_text(encoding="utf-8"))
    for split, one in content["best_by_split"].items():
        _add(shown, f"search, {split}", one["deployment"], one, one["chips"])
    Console().print(shown, f"The peer took {took:.1f} s.")


def _add(shown: Table, what: str, deployment: str, point: Mapping[str, Any] | None, chips: int) -> None:
    if point is None:
        shown.add_row(what, deployment, "no load within the SLO", "", "", "")
        return
    latencies = (f"{point['p50_ttft_ms']:.0f}", f"{point['p50_tpot_ms']:.2f}")
    met = f"{100 * point['slo_attainment']:.1f} %"
    shown.add_row(what, deployment, f"{point['load'] / chips:.3f}", *latencies, met)


if __name__ == "__main__":
    main()
