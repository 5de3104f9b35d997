"""Write a result directory: all of it, or nothing."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.errors import OutputError
from simulator.made_by import versions
from simulator.measures import slo_ms
from simulator.plots import plot_cdf
from simulator.plots_timeline import Caption, plot_timeline
from simulator.result_folder import foreign_file, json_text
from simulator.run_page import run_page
from simulator.trace_events import SMALL_TRACE, trace_json, trace_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulator.run import Result

__all__ = ["check_target", "manifest", "put_in_place", "slo_bounds", "unwritable", "write_result"]


def write_result(
    result: Result, directory: Path, *, csv: bool = False, events: bool = False, origin: Mapping[str, Any] | None = None
) -> None:
    """Write ``summary.json``, ``requests.parquet``, ``timeline.parquet``, ``manifest.json``, pictures and a report.

    And ``timeline.json``, where it has at most :data:`SMALL_TRACE` events.

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
    events
        Write ``timeline.json`` however many events it has.
    origin
        What the manifest says on top, such as the candidate a run stands for.

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
            _fill(result, fresh, manifest(result) | dict(origin or {}), csv=csv)
            if events or trace_size(result.run) <= SMALL_TRACE:
                (fresh / "timeline.json").write_text(trace_json(result.run), encoding="utf-8")
            check_target(directory)
            put_in_place(fresh, target, Path(staging) / "old")
    except OSError as error:
        raise unwritable(directory, error) from error


def put_in_place(fresh: Path, target: Path, aside: Path) -> None:
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


def check_target(directory: Path, foreign: Callable[[Path], str | None] = foreign_file) -> None:
    """Refuse a result directory that cannot be written, or that holds anything but an earlier result.

    Parameters
    ----------
    directory
        The result directory.
    foreign
        Returns the name of something in a folder that is no part of an earlier result of the same kind, or None.

    Raises
    ------
    OutputError
        If it is a file, a mount point or a folder with other content, or the folder above is not writable.
    """
    target = directory.resolve()
    try:
        if target.exists():
            _check_replaceable(directory, target, foreign)
        above = next(folder for folder in target.parents if folder.exists())
        if not above.is_dir():
            raise OutputError(f"--out {directory}: {above} is a file, expected a folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise OutputError(f"--out {directory}: folder {above} is not writable, expected one that is")
    except OSError as error:
        raise unwritable(directory, error) from error


def _check_replaceable(directory: Path, target: Path, foreign: Callable[[Path], str | None]) -> None:
    if not target.is_dir():
        raise OutputError(f"--out {directory}: is a file, expected a folder that servesim may create")
    if target.is_mount():
        raise OutputError(f"--out {directory}: is a mount point, which cannot be replaced; name a folder inside it")
    found = foreign(target)
    if found is not None:
        raise OutputError(
            f"--out {directory}: holds {found!r}, which is not of an earlier result of this command; "
            "name an empty or a new folder"
        )


def unwritable(directory: Path, error: OSError) -> OutputError:
    """Return the error that says why a result directory cannot be written."""
    return OutputError(f"--out {directory}: cannot be written ({error.strerror or error}); name another folder")


def slo_bounds(result: Result) -> dict[str, float | None]:
    """Return the latency bounds of a result's scenario, ms, by metric."""
    return slo_ms(result.scenario.slo)


def manifest(result: Result) -> dict[str, Any]:
    """Return what produced a result: the resolved scenario, its hash, table hashes, versions and the seed."""
    scenario = result.scenario.model_dump(mode="json")
    pools = {
        pool.name: {
            "engine_options": pool.options.model_dump(mode="json"),
            "chosen_options": table.engine_options.model_dump(mode="json", exclude_unset=True),
            "kv_blocks": pool.parts.blocks,
            "memory_bytes": {name: getattr(pool.memory, name) for name in pool.memory.__slots__},
            "tables": dict(sorted(pool.tables.items())),
            "rows_set_aside": {path: dict(counts) for path, counts in sorted(pool.set_aside.items())},
        }
        for pool, table in zip(result.run.pools, result.scenario.pool, strict=True)
    }
    return {
        "scenario": scenario,
        "scenario_sha256": sha256(json_text(scenario).encode()).hexdigest(),
        "seed": result.scenario.seed,
        "workload": result.run.requests.source,
        "pools": pools,
        "versions": versions(),
    }


def _fill(result: Result, folder: Path, made_by: Mapping[str, Any], *, csv: bool) -> None:
    (folder / "summary.json").write_text(json_text(result.summary), encoding="utf-8")
    (folder / "manifest.json").write_text(json_text(made_by), encoding="utf-8")
    if csv:
        result.requests.to_csv(folder / "requests.csv", index=False)
    else:
        result.requests.to_parquet(folder / "requests.parquet", index=False)
    result.timeline.to_parquet(folder / "timeline.parquet", index=False)
    title = f"{result.scenario.name}: {result.scenario.model.name}, {result.summary['chips']} chips"
    plot_cdf(result.requests, result.run.gaps, slo_bounds(result), title, folder / "cdf.png")
    caption = Caption(title, slo_bounds(result), result.run.incidents, result.scenario.workload.warmup_s)
    plot_timeline(result.timeline, caption, folder / "timeline.png")
    report = run_page(result.summary, made_by, result.requests, result.timeline)
    (folder / "report.html").write_text(report, encoding="utf-8")
