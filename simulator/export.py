"""Write a result directory: all of it, or nothing."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.errors import OutputError
from simulator.plots import plot_cdf
from simulator.result_folder import foreign_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.run import Result

__all__ = ["check_target", "manifest", "slo_bounds", "write_result"]

_PACKAGES = ("servesim", "aiconfigurator-core", "numpy", "simpy", "pandas", "pyarrow")


def write_result(result: Result, directory: Path, *, csv: bool = False) -> None:
    """Write ``summary.json``, ``requests.parquet``, ``manifest.json`` and ``cdf.png``.

    The files appear together: they are written beside the target and moved there in one step, so that whatever
    fails leaves the target as it was. An earlier result is replaced; a folder with anything else in it is refused.

    Parameters
    ----------
    result
        What to write.
    directory
        The result directory.
    csv
        Write ``requests.csv`` in place of the Parquet file.

    Raises
    ------
    OutputError
        If the directory holds something else or cannot be written.
    """
    target = directory.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".servesim-", dir=target.parent) as staging:
            fresh = Path(staging) / "new"
            fresh.mkdir()
            _fill(result, fresh, csv=csv)
            check_target(directory)
            _put_in_place(fresh, target, Path(staging) / "old")
    except OSError as error:
        raise _unwritable(directory, error) from error


def _put_in_place(fresh: Path, target: Path, aside: Path) -> None:
    """Move ``fresh`` to ``target``; what is there moves aside, and back again should that fail."""
    replaces = target.exists()
    if replaces:
        target.rename(aside)
    try:
        fresh.rename(target)
    except BaseException:
        if replaces:
            aside.rename(target)
        raise


def check_target(directory: Path) -> None:
    """Refuse a result directory that cannot be written, or that holds anything but an earlier result.

    Raises
    ------
    OutputError
        If it is a file, a mount point or a folder with other content, or the folder above is not writable.
    """
    target = directory.resolve()
    try:
        if target.exists():
            _check_replaceable(directory, target)
        above = next(folder for folder in target.parents if folder.exists())
        if not above.is_dir():
            raise OutputError(f"--out {directory}: {above} is a file, expected a folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise OutputError(f"--out {directory}: folder {above} is not writable, expected one that is")
    except OSError as error:
        raise _unwritable(directory, error) from error


def _check_replaceable(directory: Path, target: Path) -> None:
    if not target.is_dir():
        raise OutputError(f"--out {directory}: is a file, expected a folder that servesim may create")
    if target.is_mount():
        raise OutputError(f"--out {directory}: is a mount point, which cannot be replaced; name a folder inside it")
    foreign = foreign_file(target)
    if foreign is not None:
        raise OutputError(
            f"--out {directory}: holds {foreign!r}, which is not of a servesim result; name an empty or a new folder"
        )


def _unwritable(directory: Path, error: OSError) -> OutputError:
    return OutputError(f"--out {directory}: cannot be written ({error.strerror or error}); name another folder")


def slo_bounds(result: Result) -> dict[str, float | None]:
    """Return the latency bounds of a result's scenario, ms, by metric."""
    slo = result.scenario.slo
    return {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2el": slo.e2e_ms}


def manifest(result: Result) -> dict[str, Any]:
    """Return what produced a result: the resolved scenario, its hash, table hashes, versions and the seed."""
    scenario = result.scenario.model_dump(mode="json")
    pools = {
        pool.name: {
            "engine_options": pool.options.model_dump(mode="json"),
            "kv_blocks": pool.parts.blocks,
            "memory_bytes": {name: getattr(pool.memory, name) for name in pool.memory.__slots__},
            "tables": dict(sorted(pool.tables.items())),
        }
        for pool in result.run.pools
    }
    return {
        "scenario": scenario,
        "scenario_sha256": sha256(_json(scenario).encode()).hexdigest(),
        "seed": result.scenario.seed,
        "workload": result.run.requests.source,
        "pools": pools,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _fill(result: Result, folder: Path, *, csv: bool) -> None:
    (folder / "summary.json").write_text(_json(result.summary), encoding="utf-8")
    (folder / "manifest.json").write_text(_json(manifest(result)), encoding="utf-8")
    if csv:
        result.requests.to_csv(folder / "requests.csv", index=False)
    else:
        result.requests.to_parquet(folder / "requests.parquet", index=False)
    title = f"{result.scenario.name}: {result.scenario.model.name}, {result.summary['chips']} chips"
    plot_cdf(result.requests, result.run.gaps, slo_bounds(result), title, folder / "cdf.png")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
