"""Find and read the Parquet tables of the installed kernel database.

Layout of the package (read from ``aiconfigurator-core`` 0.12): ``systems/data/<system>/<family>/
<framework>/<version>/<table>_perf.parquet``, latencies in milliseconds, and ``systems/query_versions.yaml``
with the version of each framework that is complete.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["find_table", "installed_root", "pick_version", "read_table", "sha256"]


@cache
def installed_root() -> Path | None:
    """Return the ``systems`` folder of the installed database, or None where it is not installed."""
    # find_spec locates the package without importing it: its own code is never run.
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        return None
    root = Path(next(iter(found.submodule_search_locations))) / "systems"
    return root if (root / "data").is_dir() else None


def find_table(root: Path, system: str, family: str, framework: str, table: str) -> Path | None:
    """Return the file of a table in the version the database calls current, or the nearest older one.

    Parameters
    ----------
    root
        The ``systems`` folder.
    system
        Folder of the chip, for example ``h200_sxm``.
    family, framework, table
        For example ``gemm``, ``vllm``, ``gemm``.
    """
    folder = root / "data" / system / family / framework
    name = f"{table}_perf.parquet"
    versions = [path.parent.name for path in folder.glob(f"*/{name}")] if folder.is_dir() else []
    chosen = pick_version(versions, _current_version(root, system, framework))
    return folder / chosen / name if chosen else None


def pick_version(available: Sequence[str], wanted: str | None) -> str | None:
    """Return the newest version not newer than ``wanted``, else the oldest there is, else None.

    Examples
    --------
    >>> pick_version(["0.14.0", "0.19.0", "0.24.0"], "0.22.0")
    '0.19.0'
    """
    ordered = sorted(available, key=_version_key)
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

    table = pq.ParquetFile(path).read(columns=list(columns))
    present = [name for name in columns if name in table.column_names]
    arrays = {name: np.asarray(table.column(name).to_numpy(zero_copy_only=False)) for name in present}
    return MappingProxyType(arrays)


@lru_cache(maxsize=64)
def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
