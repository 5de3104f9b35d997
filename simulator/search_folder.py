"""The folder of a search: what is written into it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pandas as pd
import tomlkit

from simulator.journal import Point, point_key
from simulator.plots_search import plot_front
from simulator.result_folder import json_text
from simulator.search_content import point_rows
from simulator.search_page import search_page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from simulator.found import Confirmed, Found
    from simulator.objectives import Goal
    from simulator.scenario import Scenario
    from simulator.staging import Staging

__all__ = ["scenario_toml", "winner_points", "write_search"]


def winner_points(found: Found) -> dict[str, Point]:
    """Return the runs that show the best deployment of each split, by split."""
    return {
        one.entry.unit.split: Point(
            _named(one), f"the best {one.entry.unit.split}", {"search": one.entry.unit.label(one.units)}
        )
        for one in found.confirmed
    }


def _named(one: Confirmed) -> Scenario:
    scenario = one.scenario
    return scenario.model_copy(update={"name": f"{scenario.name[:180]}-{one.entry.unit.split}"})


def write_search(content: Mapping[str, Any], goal: Goal, found: Found, staging: Staging) -> None:
    """Write the report, ``search.json``, ``best.json``, ``front.json``, ``points.parquet``, ``pareto.png`` and winners.

    ``winner.toml`` is the whole scenario of the best deployment under the load it bears; ``deployments/SPLIT`` the
    result folder of the best of each split, with its ``scenario.toml`` beside.

    Parameters
    ----------
    content
        The content of ``search.json``.
    goal, found
        What was searched for, and found; the winners' runs are in the journal of ``staging``.
    staging
        The result directory in the making.

    Raises
    ------
    OutputError
        If the directory holds something else or cannot be written.
    """
    staging.place(lambda folder: _fill(folder, content, goal, found, staging))


def _fill(folder: Path, content: Mapping[str, Any], goal: Goal, found: Found, staging: Staging) -> None:
    best = {key: content[key] for key in ("best", "best_by_split")}
    parts = {"search.json": content, "best.json": best, "front.json": {"front": content["front"]}}
    for name, part in parts.items():
        (folder / name).write_text(json_text(part), encoding="utf-8")
    rows = point_rows(goal, found)
    pd.DataFrame(rows).to_parquet(folder / "points.parquet", index=False)
    plot_front(content, rows, folder / "pareto.png")
    winners = winner_points(found)
    best_scenario = next((point.scenario.model_dump(mode="json") for point in winners.values()), None)
    text = search_page(content, rows, best_scenario)
    (folder / "report.html").write_text(text, encoding="utf-8")
    for number, (split, point) in enumerate(winners.items()):
        shutil.copytree(staging.journal.result(point_key(point)), folder / "deployments" / split)
        text = scenario_toml(point.scenario)
        (folder / f"{split}.toml").write_text(text, encoding="utf-8")
        if number == 0:
            (folder / "winner.toml").write_text(text, encoding="utf-8")


def scenario_toml(scenario: Scenario) -> str:
    """Return a scenario as the text of a file that reads back as the same one."""
    return tomlkit.dumps(scenario.model_dump(mode="json", exclude_unset=True, exclude_none=True))
