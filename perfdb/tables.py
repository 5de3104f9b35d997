"""Find and read the Parquet tables of the installed kernel database.

Layout of the package (read from ``aiconfigurator-core`` 0.12): ``systems/data/<system>/<family>/
<framework>/<version>/<table>_perf.parquet``, latencies in milliseconds, and ``systems/query_versions.yaml``
with the version of each framework that is complete. Any other folder of that layout will do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.errors import CatalogueError
from perfdb.points import Points

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "FRAMEWORKS",
    "TableChoice",
    "TableSet",
    "find_table",
    "installed_root",
    "pick_version",
    "read_points",
    "read_table",
    "sha256",
    "system_of",
    "tables_root",
    "tables_sha256",
]

#: Whose kernels were measured.
FRAMEWORKS = ("vllm", "sglang", "trtllm")
#: Chips whose folder in the database has another name.
_SYSTEMS: Mapping[str, str] = MappingProxyType({"a100_80_sxm": "a100_sxm"})
_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class TableChoice:
    """Which tables to read.

    Attributes
    ----------
    root
        The ``systems`` folder; None takes the installed package's.
    release
        Release of the engine whose kernels are wanted, such as ``0.19``; None takes the version the database calls
        current.
    """

    root: Path | None = None
    release: str | None = None


@dataclass(frozen=True, slots=True)
class TableSet:
    """The tables of one chip and framework.

    Attributes
    ----------
    root
        The ``systems`` folder; None where there is none.
    system
        Folder of the chip.
    framework
        Whose kernels.
    release
        See :class:`TableChoice`.
    """

    root: Path | None
    system: str
    framework: str
    release: str | None = None

    def find(self, family: str, table: str, framework: str | None = None) -> Path | None:
        """Return the file of a table, or None; ``framework`` where it stands in another's folder (NCCL)."""
        if self.root is None:
            return None
        release = None if framework else self.release
        return find_table(self.root, self.system, family, framework or self.framework, table, release)

    @property
    def siblings(self) -> tuple[TableSet, ...]:
        """The current tables of the other frameworks on the same chip."""
        return tuple(TableSet(self.root, self.system, name) for name in FRAMEWORKS if name != self.framework)


def system_of(chip: str) -> str:
    """Return the folder of a chip in the database."""
    return _SYSTEMS.get(chip, chip)


def tables_root(folder: str | Path) -> Path:
    """Return the ``systems`` folder that is meant by ``folder``: itself, or one in it.

    Raises
    ------
    CatalogueError
        If neither holds a folder ``data``.
    """
    given = Path(folder)
    for root in (given, given / "systems"):
        if (root / "data").is_dir():
            return root.resolve()
    raise CatalogueError(
        f"{folder}: found no folder data in it; expected data/<chip>/<family>/<framework>/<version>/, as in the "
        "folder systems of aiconfigurator-core"
    )


@cache
def installed_root() -> Path | None:
    """Return the ``systems`` folder of the installed database, or None where it is not installed."""
    # find_spec locates the package without importing it: its own code is never run.
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        return None
    root = Path(next(iter(found.submodule_search_locations))) / "systems"
    return root if (root / "data").is_dir() else None


def find_table(  # noqa: PLR0913, PLR0917 - the parts of a path
    root: Path, system: str, family: str, framework: str, table: str, release: str | None = None
) -> Path | None:
    """Return the file of a table in the version of a release, or the nearest older one, else the oldest.

    Parameters
    ----------
    root
        The ``systems`` folder.
    system
        Folder of the chip, for example ``h200_sxm``.
    family, framework, table
        For example ``gemm``, ``vllm``, ``gemm``.
    release
        None for the version the database calls current.
    """
    folder = root / "data" / system / family / framework
    name = f"{table}_perf.parquet"
    versions = [path.parent.name for path in folder.glob(f"*/{name}")] if folder.is_dir() else []
    chosen = pick_version(versions, release or _current_version(root, system, framework))
    return folder / chosen / name if chosen else None


def pick_version(available: Sequence[str], wanted: str | None) -> str | None:
    """Return the newest version not newer than ``wanted``, else the oldest there is, else None.

    Examples
    --------
    >>> pick_version(["0.14.0", "0.19.0", "0.24.0"], "0.22.0")
    '0.19.0'
    """
    # What is called dev-<commit> is of no release.
    ordered = sorted((name for name in available if name[0].isdecimal()), key=_version_key)
    if not ordered:
        return None
    older = [v for v in ordered if wanted is None or _version_key(v) <= _version_key(wanted)]
    return older[-1] if older else ordered[0]


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


@lru_cache
def _query_versions(root: Path) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415 - only needed once a table is read

    file = root / "query_versions.yaml"
    return MappingProxyType(yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {})


def _current_version(root: Path, system: str, framework: str) -> str | None:
    listed = _query_versions(root)
    slots: dict[str, dict[str, str | None]] = {
        **listed.get("defaults", {}),
        **listed.get("overrides", {}).get(system, {}),
    }
    return slots.get(framework, {}).get("current")


@lru_cache(maxsize=16)
def read_table(path: Path, columns: tuple[str, ...]) -> Mapping[str, NDArray[Any]]:
    """Return some columns of a Parquet table as arrays of equal length; text columns as objects.

    A column the file does not have is left out: tables of early engine versions lack some.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - 0.1 s that --help must not pay

    known = pq.read_schema(path).names
    present = [name for name in columns if name in known]
    # Text is read as what it is, a few words over and over: half the time. Threads cost more than they are worth here.
    table = pq.ParquetFile(path, read_dictionary=present).read(columns=present, use_threads=False)
    arrays = {name: np.asarray(table.column(name).to_numpy(zero_copy_only=False)) for name in present}
    return MappingProxyType(arrays)


@lru_cache(maxsize=128)
def read_points(
    path: Path, shape: tuple[str, ...], at: str, where: tuple[tuple[str, str | int], ...] = (), latency: str = "latency"
) -> Points | None:
    """Return measured points of a table, or None where it holds none of these.

    Parameters
    ----------
    path
        The file.
    shape
        Columns that tell curves apart; one the file lacks (early tables know no sliding windows) counts as 0.
    at
        Column that goes along the curves.
    where
        Values that other columns must have.
    latency
        Column of the time, ms.
    """
    filtered = tuple(name for name, _ in where)
    table = read_table(path, (*shape, at, *filtered, latency))
    keep = np.ones(len(table[latency]), bool)
    for name, value in where:
        keep &= table[name] == value
    if not keep.any():
        return None
    columns = [table[name][keep] if name in table else np.zeros(int(keep.sum()), np.int64) for name in shape]
    return Points.of(columns, table[at][keep], table[latency][keep] * _NS_PER_MS)


@lru_cache(maxsize=64)
def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tables_sha256(root: Path) -> str:
    """Return the SHA-256 of the names and contents of all tables below a ``systems`` folder, hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted((root / "data").rglob("*.parquet")):
        digest.update(f"{path.relative_to(root).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()
