"""The ``servesim search`` command; imports of weight wait until it needs them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.compare_cli import print_result, staged_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulator.journal import Journal, Summary
    from simulator.parallel import LocalExecutor
    from simulator.ray_executor import RayExecutor
    from simulator.search_table import Searched
    from simulator.staging import Staging

    Make = Callable[[Mapping[str, Any], Callable[[str, Any, Journal], Summary]], dict[str, Summary]]

__all__ = ["search"]

_SLO_MISSED = 3


@click.command()
@click.argument("scenario")
@click.option("--gpus", type=click.IntRange(min=1), help="Most chips.  [default: search.gpus, or those of the pools]")
@click.option(
    "--objective", type=click.Choice(["goodput", "cost", "chips", "pareto"]), help="What deployments are ranked by."
)
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="End the search then.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Who makes the runs: processes here, or a Ray cluster that is running.",
)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a key, as in search.gpus=16; repeatable."
)
@click.option("--out", metavar="DIR", help="Result directory.  [default: results/NAME-search]")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="Print no table and no progress.")
def search(  # noqa: PLR0913, PLR0917 - one parameter per option
    scenario: str,
    gpus: int | None,
    objective: str | None,
    budget: float | None,
    executor: str,
    changes: tuple[str, ...],
    *,
    out: str | None,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the best deployment for the model, traffic and SLO of a SCENARIO.

    Tries what its [search] table says, or sensible defaults on the chips of its pools. Prints the best colocated and
    disaggregated deployment, why others lost and the Pareto front. Writes search.json, best.json, front.json,
    points.parquet, pareto.png, winner.toml and a result directory per winner. Interrupted, the same command goes on
    where it stopped. Exit code 3 if no deployment meets the SLO.
    """
    started = time.monotonic()

    from simulator.parallel import run_missing  # noqa: PLC0415 - --help stays light
    from simulator.result_folder import foreign_in_search  # noqa: PLC0415 - --help stays light
    from simulator.search_table import load_searched  # noqa: PLC0415 - --help stays light

    searched = load_searched(scenario, changes, gpus=gpus, objective=objective)
    target = Path("results") / f"{searched.scenario.name}-search" if out is None else Path(out)
    with (
        staged_runs(target, foreign_in_search, quiet=quiet or as_json) as (staging, tell),
        _executor(executor, jobs) as workers,
    ):

        def make(runs: Mapping[str, Any], work: Callable[[str, Any, Journal], Summary]) -> dict[str, Summary]:
            return run_missing(runs, work, staging.journal, on_progress=tell, executor=workers)

        content = _made(
            searched, staging, make, lambda share: budget is not None and time.monotonic() - started > share * budget
        )

    from simulator.search_report import render_search, search_sentence  # noqa: PLC0415 - --help stays light

    print_result(content, render_search(content), target, as_json=as_json, quiet=quiet)
    if content["best"] is None:
        click.echo(f"servesim: {search_sentence(content)}", err=True)
        sys.exit(_SLO_MISSED)


def _made(searched: Searched, staging: Staging, make: Make, late: Callable[[float], bool]) -> dict[str, Any]:
    """Search, and write what came of it; what is imported here is while other processes get ready."""
    from simulator.journal import point_key  # noqa: PLC0415 - --help stays light
    from simulator.objectives import goal_of  # noqa: PLC0415 - --help stays light
    from simulator.parallel import run_point  # noqa: PLC0415 - --help stays light
    from simulator.search import Search  # noqa: PLC0415 - --help stays light
    from simulator.search_content import search_content  # noqa: PLC0415 - --help stays light
    from simulator.search_folder import winner_points, write_search  # noqa: PLC0415 - --help stays light
    from simulator.traffic import describe_traffic  # noqa: PLC0415 - --help stays light

    traffic = describe_traffic(searched.scenario)
    goal = goal_of(searched.table.objective, searched.scenario, searched.table.chips, traffic)
    found = Search(searched, goal, make, late).run()
    content = search_content(searched, goal, found)
    make({point_key(point): point for point in winner_points(found).values()}, run_point)
    write_search(content, goal, found, staging)
    return content


def _executor(name: str, jobs: int | None) -> LocalExecutor | RayExecutor:
    from simulator.parallel import LocalExecutor, usable_cores  # noqa: PLC0415 - --help stays light
    from simulator.ray_executor import RayExecutor  # noqa: PLC0415 - --help stays light

    return RayExecutor() if name == "ray" else LocalExecutor(jobs or usable_cores())
