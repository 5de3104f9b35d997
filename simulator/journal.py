"""A journal of finished runs, so that many runs that were interrupted go on where they stopped."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from simulator.made_by import program_sha256, versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from simulator.scenario import Scenario

__all__ = ["Journal", "Point", "Summary", "point_key"]

Summary: TypeAlias = dict[str, Any]
"""The content of ``summary.json`` without the time the run took, so that equal runs are equal."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of many.

    Attributes
    ----------
    scenario
        What to run, its seed included.
    label
        What an error sentence calls it.
    origin
        What the manifest of its result says on top; None for a run whose result folder nobody wants.
    """

    scenario: Scenario
    label: str
    origin: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Journal:
    """Finished runs in a folder: ``KEY.json`` with the summary, and ``KEY`` with the result where it was wanted.

    A file appears whole or not at all, so any number of processes may write, and be killed while they do.

    Attributes
    ----------
    folder
        Made when the first run is kept.
    """

    folder: Path

    def load(self, key: str) -> Summary | None:
        """Return the summary of a finished run; None where there is none that can be read."""
        with suppress(OSError, ValueError):
            found = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
        return None

    def store(self, key: str, summary: Summary) -> None:
        """Keep a summary."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{key}.partial"
        partial.write_text(json.dumps(summary, allow_nan=False), encoding="utf-8")
        partial.replace(self.folder / f"{key}.json")

    def result(self, key: str) -> Path:
        """Return the place of a run's result folder."""
        return self.folder / key


def point_key(point: Point) -> str:
    """Return the name of a run in a journal: a hash of everything that decides its result.

    That is the resolved scenario, the content of every file it names (a trace, a model configuration, a chip), the
    versions of the kernel tables and libraries, this program itself, and what its manifest will say.
    """
    scenario = point.scenario.model_dump(mode="json")
    decides = {
        "scenario": scenario,
        "files": {path: _file_sha256(path) for path in sorted({*_files(scenario), *_table_files(scenario)})},
        "versions": versions(),
        "program": program_sha256(),
        "origin": point.origin,
    }
    return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _files(value: object) -> Iterator[str]:
    """Yield every text of a scenario that is the path of a file, or of a model's folder."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _files(inner)
    if isinstance(value, str):
        with suppress(OSError, ValueError):
            path = Path(value) / "config.json" if Path(value).is_dir() else Path(value)
            if path.is_file():
                yield str(path)


def _table_files(scenario: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files of every folder of tables that a pool is priced from."""
    for pool in scenario.get("pool", ()):
        for folder in (pool.get("tables"), pool.get("step_profile")):
            if folder is not None and Path(folder).is_dir():
                yield from _listed(folder)


@cache
def _listed(folder: str) -> tuple[str, ...]:
    """Return the files below a folder, a thousand in a kernel database; like these tables, they are read once."""
    return tuple(str(path) for path in Path(folder).rglob("*") if path.is_file())


def _file_sha256(path: str) -> str:
    state = Path(path).stat()
    return _content_sha256(path, state.st_mtime_ns, state.st_size)


@cache
def _content_sha256(path: str, _changed_ns: int, _size_bytes: int) -> str:
    with Path(path).open("rb") as stream:
        digest = sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
