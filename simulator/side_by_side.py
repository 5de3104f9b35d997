"""The folders of comparisons and sweeps: what is written into them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simulator.compare import case_points
from simulator.compare_page import compare_page
from simulator.journal import point_key
from simulator.plots_compare import plot_candidates
from simulator.plots_sweep import plot_capacities, plot_sweep
from simulator.plots_timeline import plot_links
from simulator.result_folder import json_text
from simulator.sweep_page import sweep_page
from simulator.timeline import LINK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from simulator.candidates import Case
    from simulator.compare import Comparison
    from simulator.staging import Staging
    from simulator.sweep import Sweep

__all__ = ["write_comparison", "write_sweep"]


def write_comparison(found: Comparison, cases: Sequence[Case], staging: Staging) -> None:
    """Write ``report.html``, ``compare.json``, ``points.parquet``, pictures, and a result folder per candidate.

    Parameters
    ----------
    found
        What came of the candidates.
    cases
        The candidates, their runs in the journal of ``staging``.
    staging
        The result directory in the making.

    Raises
    ------
    OutputError
        If the directory holds something else or cannot be written.
    """
    first_seed = found.content["seeds"][:1]
    results = {
        name: staging.journal.result(point_key(point)) for (name, _), point in case_points(cases, first_seed).items()
    }
    staging.place(lambda folder: _fill_comparison(folder, found, results))


def write_sweep(content: Mapping[str, Any], found: Sequence[Sweep], staging: Staging) -> None:
    """Write ``report.html``, ``sweep.json``, ``sweep.parquet`` and ``sweep.png``.

    Parameters
    ----------
    content
        The content of ``sweep.json``.
    found
        What came of the loads, of one scenario or of several candidates.
    staging
        The result directory in the making.

    Raises
    ------
    OutputError
        If the directory holds something else or cannot be written.
    """
    staging.place(lambda folder: _fill_sweep(folder, content, found))


def _fill_comparison(folder: Path, found: Comparison, results: Mapping[str, Path]) -> None:
    (folder / "compare.json").write_text(json_text(found.content), encoding="utf-8")
    pd.DataFrame(found.rows).to_parquet(folder / "points.parquet", index=False)
    for name, result in results.items():
        shutil.copytree(result, folder / "candidates" / name)
    requests = {name: pd.read_parquet(result / "requests.parquet") for name, result in results.items()}
    runs = {
        name: (_read_json(result / "summary.json"), _read_json(result / "manifest.json"), requests[name])
        for name, result in results.items()
    }
    (folder / "report.html").write_text(compare_page(found.content, runs), encoding="utf-8")
    title = f"{found.content['name']}: {len(results)} candidates, seed {found.content['seeds'][0]}"
    plot_candidates(requests, found.content["slo_ms"], title, folder / "cdf.png")
    links = {name: curve for name, result in results.items() if (curve := _busiest_link(result)) is not None}
    if links:
        plot_links(links, title, folder / "links.png")


def _busiest_link(result: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the edges of a run's windows, s, and the use of its busiest link in each; None if it has no link."""
    table = pd.read_parquet(result / "timeline.parquet")
    name = next((name for name in table.columns if name.startswith(LINK)), None)
    if name is None:
        return None
    return np.append(table["start_s"], table["end_s"].iloc[-1]), table[name].to_numpy()


def _fill_sweep(folder: Path, content: Mapping[str, Any], found: Sequence[Sweep]) -> None:
    (folder / "sweep.json").write_text(json_text(content), encoding="utf-8")
    several = "candidates" in content
    label = [{"candidate": sweep.scenario.name} if several else {} for sweep in found]
    rows = [named | row for named, sweep in zip(label, found, strict=True) for row in sweep.rows()]
    pd.DataFrame(rows).to_parquet(folder / "sweep.parquet", index=False)
    (folder / "report.html").write_text(sweep_page(content, rows), encoding="utf-8")
    (plot_capacities if several else plot_sweep)(content, folder / "sweep.png")


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
