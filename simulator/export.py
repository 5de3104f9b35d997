"""Write a result directory: all of it, or nothing."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.errors import OutputError
from simulator.plots import plot_cdf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.run import Result

__all__ = ["check_target", "manifest", "slo_bounds", "write_result"]

_PACKAGES = ("servesim", "aiconfigurator-core", "numpy", "simpy", "pandas", "pyarrow")


def write_result(result: Result, directory: Path, *, csv: bool = False) -> None:
    """Write ``summary.json``, ``requests.parquet``, ``manifest.json`` and ``cdf.png``.

    The files appear together: they are written beside the target and moved there in one step. An earlier
    result in the target is replaced; any other folder is left alone.

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
    check_target(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise OutputError(f"--out {directory}: cannot be written ({error.strerror})") from error
    try:
        _fill(result, staging, csv=csv)
        if directory.exists():
            shutil.rmtree(directory)
        staging.chmod(0o755)
        staging.rename(directory)
    except OSError as error:
        raise OutputError(f"--out {directory}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_target(directory: Path) -> None:
    """Refuse a result directory that exists and is not an earlier result.

    Raises
    ------
    OutputError
        If it is a file, or a folder with other content.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise OutputError(f"--out {directory}: is a file, expected a folder that servesim may create")
    if any(directory.iterdir()) and not (directory / "manifest.json").is_file():
        raise OutputError(
            f"--out {directory}: holds files that are not a servesim result; name an empty or a new folder"
        )


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
