"""The ``servesim`` command; imports of weight wait until a command needs them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from simulator.calibrate_cli import calibrate
from simulator.compare_cli import compare, print_tables, sweep
from simulator.conform_cli import conform
from simulator.launch_cli import launch
from simulator.ownership import ForeignPackageError, check_ownership
from simulator.perf_cli import perf
from simulator.search_cli import search
from simulator.trace_cli import trace
from simulator.validate_cli import validate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Group

    from simulator.run import Result
    from simulator.scenario import Scenario

__all__ = ["main"]

EXIT_ERROR, EXIT_USER, EXIT_SLO_MISSED = 1, 2, 3


class _Commands(click.Group):
    """Commands whose user errors are one sentence and exit code 2."""

    def invoke(self, context: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        try:
            check_ownership()
            return super().invoke(context)
        except ForeignPackageError as error:
            self._fail(str(error), EXIT_USER)
        except click.exceptions.Exit:
            raise
        except MemoryError as error:
            self._fail(f"out of memory ({error}); simulate fewer requests or replicas at a time", EXIT_ERROR)
        except Exception as error:
            from hardware.errors import ServesimError, UserError  # noqa: PLC0415 - only when something failed

            if not isinstance(error, ServesimError):
                raise
            self._fail(str(error), EXIT_USER if isinstance(error, UserError) else EXIT_ERROR)

    @staticmethod
    def _fail(sentence: str, code: int) -> None:
        # One line, whatever a file name or a library put into the sentence.
        click.echo(f"servesim: error: {' '.join(sentence.splitlines())}", err=True)
        sys.exit(code)


@click.group("servesim", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="servesim", prog_name="servesim")
def main() -> None:
    """Simulate LLM serving, to find the deployment that meets the latency targets at the least cost."""


main.add_command(calibrate)
main.add_command(compare)
main.add_command(conform)
main.add_command(launch)
main.add_command(perf)
main.add_command(search)
main.add_command(sweep)
main.add_command(trace)
main.add_command(validate)


@main.command()
@click.argument("scenario")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key, as in pool.0.replicas=4; repeatable.",
)
@click.option("--candidate", metavar="NAME", help="Which [[candidate]] of the file; --set changes it.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every random stream.")
@click.option("--out", metavar="DIR", help="Result directory.  [default: results/NAME]")
@click.option("--csv", is_flag=True, help="Write requests.csv in place of requests.parquet.")
@click.option("--events", is_flag=True, help="Write timeline.json, for Perfetto, however large it gets.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="Print no table and no progress.")
def run(  # noqa: PLR0913 - one parameter per option
    scenario: str,
    changes: tuple[str, ...],
    seed: int | None,
    out: str | None,
    *,
    candidate: str | None,
    csv: bool,
    events: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a SCENARIO (a TOML file, or the name of a shipped one).

    Writes a result directory with report.html, summary.json, requests.parquet, timeline.parquet, timeline.json,
    manifest.json and pictures, and prints the latency, throughput and pools. Exit code 3 if the share of requests that
    meet the SLO is too small.
    """
    from pathlib import Path  # noqa: PLC0415 - --help stays light

    from simulator.candidates import load_picked  # noqa: PLC0415 - --help stays light
    from simulator.export import check_target, slo_bounds, write_result  # noqa: PLC0415 - --help stays light

    loaded = load_picked(scenario, candidate, changes, seed)
    target = Path("results") / loaded.name if out is None else Path(out)
    check_target(target)
    result = _simulate(loaded, quiet=quiet or as_json)
    write_result(result, target, csv=csv, events=events)
    if as_json:
        _print_json(result.summary)
    elif not quiet:
        print_tables(_render(result.summary, slo_bounds(result)), target)
    _say_left_out(target, quiet=quiet)
    attained, wanted = result.summary["slo_attainment"], loaded.slo.attainment
    if attained < wanted:
        click.echo(f"servesim: {attained:.2%} of the requests met the SLO, below slo.attainment = {wanted:g}", err=True)
        sys.exit(EXIT_SLO_MISSED)


def _say_left_out(folder: Path, *, quiet: bool) -> None:
    from simulator.trace_events import SMALL_TRACE  # noqa: PLC0415 - --help stays light

    if not quiet and not (folder / "timeline.json").is_file():
        click.echo(f"servesim: no timeline.json, of more than {SMALL_TRACE:,} events; --events writes it", err=True)


@main.command()
@click.argument("result_dir")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def show(result_dir: str, *, as_json: bool) -> None:
    """Print the tables of a finished run, comparison, sweep, search or validation again, from its RESULT_DIR."""
    from pathlib import Path  # noqa: PLC0415 - --help stays light

    from hardware.errors import UserError  # noqa: PLC0415 - --help stays light

    folder = Path(result_dir)
    try:
        content, tables = _stored(folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: not a result of this version ({type(error).__name__}: {error}); run the scenario again"
        ) from error
    if as_json:
        _print_json(content)
    else:
        print_tables(tables, folder)


def _stored(folder: Path) -> tuple[Mapping[str, Any], Group]:
    """Return the JSON content of a result folder and its tables."""
    from simulator.compare_report import render_comparison  # noqa: PLC0415 - --help stays light
    from simulator.result_folder import read_result, read_side_by_side  # noqa: PLC0415 - --help stays light
    from simulator.search_report import render_search  # noqa: PLC0415 - --help stays light
    from simulator.sweep_report import render_sweep  # noqa: PLC0415 - --help stays light
    from simulator.validate_report import render_validation  # noqa: PLC0415 - --help stays light

    tables = {
        "compare": render_comparison,
        "search": render_search,
        "sweep": render_sweep,
        "validate": render_validation,
    }
    content = read_side_by_side(folder)
    if content is not None:
        return content, tables[content["servesim"]](content)
    stored = read_result(folder)
    return stored.summary, _render(stored.summary, stored.slo_ms)


def _simulate(scenario: Scenario, *, quiet: bool) -> Result:
    from rich.console import Console  # noqa: PLC0415 - --help stays light
    from rich.progress import Progress  # noqa: PLC0415 - --help stays light

    from simulator.run import run_scenario  # noqa: PLC0415 - --help stays light

    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=quiet or not terminal.is_terminal) as progress:
        task = progress.add_task("requests", total=None)
        return run_scenario(
            scenario, on_progress=lambda done, total: progress.update(task, completed=done, total=total)
        )


def _print_json(summary: Mapping[str, Any]) -> None:
    import json  # noqa: PLC0415 - --help stays light

    click.echo(json.dumps(summary, indent=2))


def _render(summary: Mapping[str, Any], slo_ms: Mapping[str, float | None]) -> Group:
    from simulator.report import render  # noqa: PLC0415 - --help stays light

    return render(summary, slo_ms)
