"""What is printed of a fit: the constants, and the latencies of each run before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.calibrate import Constant, Fit

__all__ = ["render_fit"]


def render_fit(found: Fit) -> Group:
    """Return the tables of a fit."""
    constants = Table("constant", "usual", "fitted", "± one sd", "told by the runs", title="Calibration")
    rows = zip(found.constants, found.usual, found.values, found.deviations, found.told, strict=True)
    for constant, usual, value, deviation, told in rows:
        shown = (_shown(constant, number) for number in (usual, value, deviation))
        constants.add_row(f"{constant.table}.{constant.name}", *shown, f"{told:.0%}")
    runs = Table("run", "TTFT before", "after", "TPOT before", "after", title="Simulated over measured, mean")
    names = found.calibration.fit.runs if found.calibration.fit else ()
    for name, before, after in zip(names, found.before, found.after, strict=True):
        cells = (_mean(ratios, metric) for metric in ("ttft", "tpot") for ratios in (before, after))
        runs.add_row(name, *cells)
    return Group(constants, runs)


def _shown(constant: Constant, number: float) -> str:
    return f"{number:.3f}" if constant.is_factor else f"{number / 1e6:.3f} ms"


def _mean(ratios: Mapping[str, float], metric: str) -> str:
    logs = [np.log(ratio) for name, ratio in ratios.items() if name.startswith(metric)]
    return f"{np.exp(np.mean(logs)) - 1:+.1%}" if logs else "-"
