"""The folder of a finished run: which files are in it, and how its JSON is written and read back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hardware.errors import UserError
from simulator.cases import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "RESULT_FILES",
    "StoredResult",
    "foreign_file",
    "foreign_in_comparison",
    "foreign_in_search",
    "foreign_in_sweep",
    "foreign_in_validation",
    "json_text",
    "read_result",
    "read_side_by_side",
]

RESULT_FILES: Final = (
    "cdf.png",
    "manifest.json",
    "report.html",
    "requests.csv",
    "requests.parquet",
    "summary.json",
    "timeline.json",
    "timeline.parquet",
    "timeline.png",
)
"""Every file a run may leave; a folder with any other is not ours to replace."""


class StoredResult(NamedTuple):
    """What a result folder says.

    Attributes
    ----------
    summary
        The content of ``summary.json``.
    slo_ms
        The bounds of the scenario by ``ttft``, ``tpot`` and ``e2el``, None for no bound.
    """

    summary: dict[str, Any]
    slo_ms: dict[str, float | None]


def json_text(value: Mapping[str, Any]) -> str:
    """Return a value as the text of a JSON file of ours."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def foreign_file(directory: Path) -> str | None:
    """Return the name of something in a folder that is no part of a servesim result; None if all of it is.

    A ``manifest.json`` is a common name: it counts as ours only with the hash of a scenario in it.
    """
    names = sorted(entry.name for entry in directory.iterdir())
    strange = next((name for name in names if name not in RESULT_FILES), None)
    if strange is not None or not names:
        return strange
    try:
        ours = "scenario_sha256" in _read_json(directory, "manifest.json")
    except UserError:
        ours = False
    return None if ours else names[0]


def foreign_in_comparison(directory: Path) -> str | None:
    """Return the name of something in a folder that is no part of a comparison; None if all of it is."""
    ours = ("candidates", "cdf.png", "compare.json", "links.png", "points.parquet", "report.html")
    return _foreign(directory, "compare", ours) or _foreign_run(directory, "candidates")


def foreign_in_search(directory: Path) -> str | None:
    """Return the name of something in a folder that is no part of a search; None if all of it is."""
    found = ("best.json", "front.json", "pareto.png", "points.parquet", "report.html", "search.json")
    scenarios = ("winner.toml", "colocated.toml", "disaggregated.toml")
    return _foreign(directory, "search", ("deployments", *found, *scenarios)) or _foreign_run(directory, "deployments")


def _foreign_run(directory: Path, name: str) -> str | None:
    """As :func:`foreign_file`, for each of the folders in one, where there is one."""
    runs = directory / name
    if not runs.exists():
        return None
    if not runs.is_dir():
        return runs.name
    for folder in sorted(runs.iterdir()):
        inside = foreign_file(folder) if folder.is_dir() else ""
        if inside is not None:
            return str((folder / inside).relative_to(directory))
    return None


def foreign_in_sweep(directory: Path) -> str | None:
    """Return the name of something in a folder that is no part of a sweep; None if all of it is."""
    return _foreign(directory, "sweep", ("report.html", "sweep.json", "sweep.parquet", "sweep.png"))


def foreign_in_validation(directory: Path) -> str | None:
    """Return the name of something in a folder that is no part of a validation; None if all of it is."""
    pictures = tuple(f"{metric}.png" for metric in METRICS)
    ours = ("predictions.csv", "report.json", "report.md", "skipped.csv", "users.png", *pictures)
    return _foreign(directory, "validate", ours, "report.json")


def _foreign(directory: Path, kind: str, ours: Sequence[str], file: str = "") -> str | None:
    """As :func:`foreign_file`, for a folder whose JSON file, by default called by its kind, says what it is."""
    names = sorted(entry.name for entry in directory.iterdir())
    strange = next((name for name in names if name not in ours), None)
    if strange is not None or not names:
        return strange
    try:
        return None if _read_json(directory, file or f"{kind}.json").get("servesim") == kind else names[0]
    except UserError:
        return names[0]


def read_side_by_side(directory: Path) -> dict[str, Any] | None:
    """Return the content of a comparison, sweep, search or validation from its folder; None for one of another kind.

    Raises
    ------
    UserError
        If its JSON file cannot be read.
    """
    found = next(
        (name for name in ("compare.json", "sweep.json", "search.json", "report.json") if (directory / name).is_file()),
        None,
    )
    return None if found is None else _read_json(directory, found)


def read_result(directory: Path) -> StoredResult:
    """Read a result folder back.

    Raises
    ------
    UserError
        If it is not one.
    """
    if not directory.is_dir():
        found = "is a file" if directory.exists() else "there is no such folder"
        raise UserError(f"{directory}: {found}, expected the folder of a servesim result")
    summary, manifest = (_read_json(directory, name) for name in ("summary.json", "manifest.json"))
    try:
        slo = manifest["scenario"]["slo"]
        return StoredResult(summary, {"ttft": slo["ttft_ms"], "tpot": slo["tpot_ms"], "e2el": slo["e2e_ms"]})
    except (KeyError, TypeError):
        raise UserError(
            f"{directory / 'manifest.json'}: has no scenario with an slo table, expected the manifest of a servesim run"
        ) from None


def _read_json(directory: Path, name: str) -> dict[str, Any]:
    file = directory / name
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory}: has no {name}, expected the folder of a servesim result") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}), expected a file of a servesim result") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON in UTF-8 ({error}), expected a file of a servesim result") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds a {type(found).__name__}, expected a JSON object")
    return found
