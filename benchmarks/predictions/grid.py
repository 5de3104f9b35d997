"""A grid of scenarios, and one row of predictions of each.

This file is also run by its path against the packages of another revision: it takes nothing but the ways into them.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hardware.errors import ServesimError
from simulator.run import run_scenario
from simulator.scenario import resolve_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Row: TypeAlias = "dict[str, float | str]"
"""Predictions of one scenario by name, or its error sentence under ``error``."""

#: What is taken from a summary as it is; of its pools ``kv_blocks``, and every share by origin besides.
TAKEN = (
    *("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms", "p99_itl_ms", "mean_e2el_ms"),
    *("output_throughput", "mean_power_w", "completed", "preemptions", "prefix_cache_hit_rate"),
)
#: Digits that are kept: the last ones of means differ between builds of numpy.
DIGITS = 9
_OUTSIDE = ("every", "rule")


def grid_points(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and root table of every scenario of a grid.

    Parameters
    ----------
    path
        TOML. ``[every]`` is what all scenarios have; each other table is an axis, and each table of an axis one of its
        values: keys of a scenario, ``pool`` for every pool and ``pools`` for those there are. ``[[rule]]`` tables
        change scenarios whose values their ``when`` lists, or ``skip`` them.
    """
    grid = tomllib.loads(path.read_text(encoding="utf-8"))
    axes = {axis: values for axis, values in grid.items() if axis not in _OUTSIDE}
    for names in product(*axes.values()):
        chosen = dict(zip(axes, names, strict=True))
        rules = [rule for rule in grid.get("rule", ()) if _holds(rule["when"], chosen)]
        if not any(rule.get("skip") for rule in rules):
            parts = [grid["every"], *(axes[axis][name] for axis, name in chosen.items()), *rules]
            yield "/".join(names), _scenario("/".join(names), parts)


def _holds(when: Mapping[str, list[str]], chosen: Mapping[str, str]) -> bool:
    return all(chosen[axis] in names for axis, names in when.items())


def _scenario(name: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        _merge(found, {key: value for key, value in part.items() if key != "when"})
    every = found.pop("pool", {})
    return found | {"name": name.replace("/", "-"), "pool": [every | own for own in found.pop("pools", [{}])]}


def _merge(into: dict[str, Any], table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = deepcopy(value)


def predicted(table: Mapping[str, Any]) -> Row:
    """Run a scenario and return its row; one that cannot be run has the sentence that says why."""
    try:
        summary = run_scenario(resolve_scenario(table, Path.cwd() / "grid.toml", str(table["name"]))).summary
    except ServesimError as error:
        return {"error": " ".join(str(error).split())}
    row = {name: summary[name] for name in TAKEN}
    row |= {f"{name}_kv_blocks": pool["kv_blocks"] for name, pool in summary["pools"].items()}
    row |= {name: value for name, value in summary.items() if name.endswith("_share")}
    return {name: float(f"{value:.{DIGITS}g}") for name, value in row.items() if value is not None}


def predictions(path: Path, jobs: int = 1) -> dict[str, Row]:
    """Return the predictions of a grid by scenario; the number of processes changes nothing."""
    points = dict(grid_points(path))
    if jobs == 1:
        return {name: predicted(table) for name, table in points.items()}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as executor:
        return dict(zip(points, executor.map(predicted, points.values()), strict=True))


def write(path: Path, rows: Mapping[str, Row]) -> None:
    """Write predictions as JSON with a line for each scenario, so that a diff of two files can be read."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def read(path: Path) -> dict[str, Row]:
    """Read predictions that were written."""
    found: dict[str, Row] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Write the predictions of a grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    write(options.out, predictions(options.grid, options.jobs))


if __name__ == "__main__":
    main()
