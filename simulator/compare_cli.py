"""The ``servesim compare`` and ``servesim sweep`` commands; imports of weight wait until one of them needs them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, NoReturn

    from rich.console import Group

    from simulator.journal import Point, Summary
    from simulator.loads import LoadKind
    from simulator.parallel import OnProgress
    from simulator.staging import Staging

__all__ = ["compare", "print_result", "print_tables", "staged_runs", "sweep"]

_SLO_MISSED = 3
_SET = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key, as in pool.0.replicas=4; repeatable.",
)
_WORKLOAD = click.option(
    "--same-workload/--own-workloads",
    "same_workload",
    default=None,
    help="If workloads differ: serve the first with all, or each its own.  [default: refuse]",
)
_OUT = click.option("--out", metavar="DIR", help="Result directory.  [default: results/NAME-COMMAND]")
_JOBS = click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_QUIET = click.option("--quiet", is_flag=True, help="Print no table and no progress.")


@click.command()
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIO...")
@click.option("--seeds", type=click.IntRange(min=1), help="Seeds to average over.  [default: 5, for a trace 1]")
@_SET
@_WORKLOAD
@_OUT
@_JOBS
@_JSON
@_QUIET
def compare(  # noqa: PLR0913 - one parameter per option
    scenarios: tuple[str, ...],
    seeds: int | None,
    changes: tuple[str, ...],
    *,
    same_workload: bool | None,
    out: str | None,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Set SCENARIOs side by side on the same arrivals, or the [[candidate]] tables of one.

    Prints latency, goodput and cost of each, and the differences to the first with 95 % confidence intervals over
    seeds. Writes compare.json, points.parquet, pictures and a result directory per candidate. Interrupted, the same
    command goes on where it stopped. Exit code 3 if no candidate meets the SLO.
    """
    from simulator.candidates import load_cases  # noqa: PLC0415 - --help stays light
    from simulator.compare import compare as compare_cases  # noqa: PLC0415 - --help stays light
    from simulator.compare import default_seeds  # noqa: PLC0415 - --help stays light
    from simulator.compare_report import render_comparison, verdict  # noqa: PLC0415 - --help stays light
    from simulator.result_folder import foreign_in_comparison  # noqa: PLC0415 - --help stays light
    from simulator.side_by_side import write_comparison  # noqa: PLC0415 - --help stays light

    title, cases = load_cases(scenarios, changes, same_workload=same_workload)
    first = cases[0].scenario
    target = _target(out, title, "compare")
    every = range(first.seed, first.seed + (seeds or default_seeds(first)))
    with _runs(target, foreign_in_comparison, jobs, quiet=quiet or as_json) as (staging, run):
        found = compare_cases(title, cases, every, run)
        write_comparison(found, cases, staging)
    print_result(found.content, render_comparison(found.content), target, as_json=as_json, quiet=quiet)
    if not found.meets_slo:
        _exit_missed(verdict(found.content))


@click.command()
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIO...")
@click.option("--rate", metavar="LOW:HIGH:STEP", help="Requests per second of an open loop.")
@click.option("--concurrency", metavar="LOW:HIGH:STEP", help="Users of a closed loop.")
@click.option("--refine/--no-refine", default=True, show_default=True, help="Bisect for the capacity, to 2 %.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Seeds to average over.")
@click.option("--candidate", metavar="NAME", help="Which [[candidate]] of the file; --set changes it.")
@_SET
@_WORKLOAD
@_OUT
@_JOBS
@_JSON
@_QUIET
def sweep(  # noqa: PLR0913 - one parameter per option
    scenarios: tuple[str, ...],
    rate: str | None,
    concurrency: str | None,
    seeds: int,
    changes: tuple[str, ...],
    *,
    candidate: str | None,
    refine: bool,
    same_workload: bool | None,
    out: str | None,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a SCENARIO under one load after another, and find the highest that keeps the SLO.

    Takes several SCENARIOs, or one with [[candidate]] tables, and sets their capacities side by side. Prints
    attainment, goodput and latency by load. Writes report.html, sweep.json, sweep.parquet and sweep.png. Interrupted,
    the same command goes on where it stopped. Exit code 3 if no load meets the SLO.
    """
    from simulator.candidates import load_swept  # noqa: PLC0415 - --help stays light
    from simulator.loads import check_loads, parse_grid  # noqa: PLC0415 - --help stays light
    from simulator.result_folder import foreign_in_sweep  # noqa: PLC0415 - --help stays light
    from simulator.side_by_side import write_sweep  # noqa: PLC0415 - --help stays light
    from simulator.sweep import sweep_all, sweeps_content  # noqa: PLC0415 - --help stays light
    from simulator.sweep_report import capacity_sentence, render_sweep  # noqa: PLC0415 - --help stays light

    if (rate is None) == (concurrency is None):
        raise click.UsageError("expected one of --rate LOW:HIGH:STEP and --concurrency LOW:HIGH:STEP")
    kind: LoadKind = "rate" if concurrency is None else "concurrency"
    title, cases = load_swept(scenarios, changes, candidate=candidate, same_workload=same_workload)
    grid = parse_grid(rate or concurrency or "", kind)
    swept = [case.scenario for case in cases]
    for scenario in swept:
        check_loads(scenario, kind, grid[-1])
    target = _target(out, title, "sweep")
    with _runs(target, foreign_in_sweep, jobs, quiet=quiet or as_json) as (staging, run):
        found = sweep_all(swept, grid, range(swept[0].seed, swept[0].seed + seeds), run, refine=refine)
        content = found[0].content() if len(found) == 1 else sweeps_content(title, cases, found)
        write_sweep(content, found, staging)
    print_result(content, render_sweep(content), target, as_json=as_json, quiet=quiet)
    if all(one.capacity.load is None for one in found):
        _exit_missed(capacity_sentence(content))


def _target(out: str | None, name: str, command: str) -> Path:
    return Path("results") / f"{name}-{command}" if out is None else Path(out)


def _exit_missed(sentence: str) -> NoReturn:
    click.echo(f"servesim: {sentence}", err=True)
    sys.exit(_SLO_MISSED)


@contextmanager
def _runs(
    target: Path, foreign: Callable[[Path], str | None], jobs: int | None, *, quiet: bool
) -> Iterator[tuple[Staging, Callable[[Sequence[Point]], list[Summary]]]]:
    """Give the result directory in the making, and what makes runs for it."""
    from simulator.parallel import run_points, usable_cores  # noqa: PLC0415 - --help stays light

    cores = jobs or usable_cores()
    with staged_runs(target, foreign, quiet=quiet) as (staging, tell):
        yield staging, lambda points: run_points(points, staging.journal, jobs=cores, on_progress=tell)


@contextmanager
def staged_runs(
    target: Path, foreign: Callable[[Path], str | None], *, quiet: bool
) -> Iterator[tuple[Staging, OnProgress]]:
    """Give a result directory in the making, and who is told of runs that are planned and finished.

    Parameters
    ----------
    target
        The directory.
    foreign
        Tells what in it is no part of an earlier result of the same kind.
    quiet
        Show no progress.
    """
    from simulator.staging import staged  # noqa: PLC0415 - --help stays light

    with staged(target, foreign) as staging, _progress(staging, quiet=quiet) as tell:
        yield staging, tell


@contextmanager
def _progress(staging: Staging, *, quiet: bool) -> Iterator[OnProgress]:
    """Show how many runs are finished, and say what is kept when somebody interrupts them."""
    from rich.console import Console  # noqa: PLC0415 - --help stays light
    from rich.progress import MofNCompleteColumn, Progress  # noqa: PLC0415 - --help stays light

    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True, disable=quiet or not terminal.is_terminal) as progress:
        task = progress.add_task("runs", total=0)

        def tell(*, planned: int = 0, finished: int = 0) -> None:
            total = (progress.tasks[task].total or 0) + planned
            progress.update(task, total=total, advance=finished)

        try:
            yield tell
        except KeyboardInterrupt:
            if staging.folder.exists():
                click.echo("servesim: interrupted; the same command goes on with the runs that are finished", err=True)
            raise


def print_result(content: Mapping[str, Any], tables: Group, target: Path, *, as_json: bool, quiet: bool) -> None:
    """Print the content of a result as JSON, or its tables and where it lies, or nothing."""
    import json  # noqa: PLC0415 - --help stays light

    if as_json:
        click.echo(json.dumps(content, indent=2))
    elif not quiet:
        print_tables(tables, target)


def print_tables(tables: Group, folder: Path) -> None:
    """Print the tables of a result, and where it lies."""
    from rich.console import Console  # noqa: PLC0415 - --help stays light

    Console().print(tables)
    click.echo(f"Results: {folder}")
    if (folder / "report.html").is_file():
        click.echo(f"Report: {folder / 'report.html'}")
