"""What moved between two sets of predictions."""

from __future__ import annotations

import math
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.text import Text

from benchmarks.predictions import grid
from hardware.errors import UserError
from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from benchmarks.predictions.grid import Row

__all__ = ["ROOT", "Change", "at_revision", "changes", "moved", "report", "text"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Change:
    """One prediction of one scenario, before and after; None where there was, or is, none.

    Attributes
    ----------
    scenario, metric
        Whose, and which; ``error`` is the sentence of one that cannot be run.
    old, new
        Its values.
    """

    scenario: str
    metric: str
    old: float | str | None
    new: float | str | None

    @property
    def size(self) -> float:
        """By how much it moved: of shares and rates the difference, else the part of the old value; may be infinite."""
        if not isinstance(self.old, float) or not isinstance(self.new, float):
            return math.inf
        moved = self.new - self.old
        if self.metric.endswith(("_share", "_rate")):
            return moved
        return moved / abs(self.old) if self.old else math.copysign(math.inf, moved)

    def matches(self, pattern: str) -> bool:
        """Tell whether a pattern of shells is about it: of its scenario, or of both as ``SCENARIO:METRIC``."""
        return fnmatchcase(f"{self.scenario}:{self.metric}" if ":" in pattern else self.scenario, pattern)


def changes(old: Mapping[str, Row], new: Mapping[str, Row]) -> list[Change]:
    """Return what differs, the largest change first."""
    found = [
        Change(scenario, metric, before.get(metric), after.get(metric))
        for scenario in dict.fromkeys((*old, *new))
        for before, after in [(old.get(scenario, {}), new.get(scenario, {}))]
        for metric in _metrics(before, after)
        if before.get(metric) != after.get(metric)
    ]
    return sorted(found, key=lambda change: -abs(change.size))


def _metrics(before: Row, after: Row) -> Sequence[str]:
    """Return the metrics to be compared: of a scenario that is new, gone or cannot be run, one says it."""
    if not before or not after:
        return list(before or after)[:1]
    return ["error"] if "error" in {*before, *after} else list(dict.fromkeys((*before, *after)))


def moved(found: Sequence[Change], threshold: float, accepted: Sequence[str] = ()) -> list[Change]:
    """Return the changes above a threshold (0.01 is 1 % or one point of a share) that no pattern accepts."""
    return [
        change
        for change in found
        if abs(change.size) > threshold and not any(change.matches(pattern) for pattern in accepted)
    ]


def at_revision(revision: str, path: Path, jobs: int, root: Path = ROOT) -> dict[str, Row]:
    """Return what another revision of a repository predicts for a grid, its sources in a temporary folder.

    Raises
    ------
    UserError
        If there is no such revision, or it cannot run the grid.
    """
    git = ("git", "-C", str(root), "archive", revision)
    sources = subprocess.run(git, capture_output=True, check=False)  # noqa: S603 - the revision is the user's own
    if sources.returncode:
        raise UserError(f"{revision}: found neither such a file nor such a revision; expected either")
    with TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(sources.stdout)) as tree:
            tree.extractall(folder, filter="data")
        out = Path(folder) / "predictions.json"
        command = (sys.executable, "-P", grid.__file__, str(path.resolve()), str(out), "--jobs", str(jobs))
        # Not below the folder of this revision, whose packages would be found first.
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            command, cwd=folder, env=environ | {"PYTHONPATH": folder}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UserError(f"{revision}: the grid cannot be run there: {done.stderr.strip().splitlines()[-1]}")
        return grid.read(out)


def report(found: Sequence[Change], threshold: float, accepted: Sequence[str], most: int) -> Group:
    """Return tables of what moved: by metric, and the largest changes one by one."""
    if not found:
        return Group(Text("no prediction moved"))
    parts: list[RenderableType] = [_by_metric(found), _largest(found, accepted, most)]
    if len(found) > most:
        parts.append(Text(f"and {len(found) - most:,} smaller changes"))
    over = len(moved(found, threshold, accepted))
    line = f"{len(found):,} predictions moved, {over:,} of them by more than {threshold:.4%} and not accepted"
    return Group(*parts, Text(line))


def text(found: Sequence[Change], threshold: float, accepted: Sequence[str] = (), most: int = 40) -> str:
    """Return the same as plain text."""
    console = Console(width=120, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(report(found, threshold, accepted, most))
    return capture.get()


def _by_metric(found: Sequence[Change]) -> RenderableType:
    table = plain_table("By metric", "metric", "moved", "up", "median", "largest")
    for metric in dict.fromkeys(change.metric for change in found):
        own = [change for change in found if change.metric == metric]
        sizes = sorted(change.size for change in own)
        up = sum(size > 0 for size in sizes)
        middle = sizes[(len(sizes) - 1) // 2]
        table.add_row(metric, f"{len(own)}", f"{up}", *(_percent(metric, size) for size in (middle, own[0].size)))
    return table


def _largest(found: Sequence[Change], accepted: Sequence[str], most: int) -> RenderableType:
    table = plain_table("The largest", "scenario", "metric", "old", "new", "change", "")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for change in found[:most]:
        said = "accepted" if any(change.matches(pattern) for pattern in accepted) else ""
        values = _number(change.old), _number(change.new), _percent(change.metric, change.size)
        table.add_row(Text(change.scenario), change.metric, *values, said)
    return table


def _number(value: float | str | None) -> Text:
    if value is None:
        return Text("none")
    return Text(shorten(value, 60) if isinstance(value, str) else f"{value:,.6g}")


def _percent(metric: str, size: float) -> str:
    if math.isinf(size):
        return "" if metric == "error" else "from or to none"
    return f"{size * 100:+.4g} {'points' if metric.endswith(('_share', '_rate')) else '%'}"
