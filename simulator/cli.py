"""The ``servesim`` command; imports of weight wait until a command needs them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from simulator.ownership import ForeignPackageError, check_ownership

if TYPE_CHECKING:
    from pathlib import Path

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
        except Exception as error:
            from hardware.errors import ServesimError, UserError  # noqa: PLC0415 - only when something failed

            if not isinstance(error, ServesimError):
                raise
            self._fail(str(error), EXIT_USER if isinstance(error, UserError) else EXIT_ERROR)

    @staticmethod
    def _fail(sentence: str, code: int) -> None:
        click.echo(f"servesim: error: {sentence}", err=True)
        sys.exit(code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="servesim", prog_name="servesim")
def main() -> None:
    """Simulate LLM serving, to find the deployment that meets the latency targets at the least cost."""


@main.command()
@click.argument("scenario")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key, as in pool.0.replicas=4; repeatable.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every random stream.")
@click.option("--out", metavar="DIR", help="Result directory.  [default: results/NAME]")
@click.option("--csv", is_flag=True, help="Write requests.csv in place of requests.parquet.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="Print no table and no progress.")
def run(  # noqa: PLR0913 - one parameter per option
    scenario: str,
    changes: tuple[str, ...],
    seed: int | None,
    out: str | None,
    *,
    csv: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a SCENARIO (a TOML file, or the name of a shipped one).

    Writes a result directory with summary.json, requests.parquet, manifest.json and cdf.png, and prints the
    latency, throughput and pools. Exit code 3 if the share of requests that meet the SLO is too small.
    """
    from pathlib import Path  # noqa: PLC0415 - --help stays light

    from simulator.export import check_target, write_result  # noqa: PLC0415 - --help stays light

    loaded = _load(scenario, changes, seed)
    target = Path(out) if out else Path("results") / loaded.name
    check_target(target)
    result = _simulate(loaded, quiet=quiet or as_json)
    write_result(result, target, csv=csv)
    _print(result, target, as_json=as_json, quiet=quiet)
    if result.summary["slo_attainment"] < loaded.slo.attainment:
        sys.exit(EXIT_SLO_MISSED)


def _load(path: str, changes: tuple[str, ...], seed: int | None) -> Scenario:
    from simulator.scenario import load_scenario, parse_override  # noqa: PLC0415 - --help stays light

    overrides = dict(parse_override(change) for change in changes)
    if seed is not None:
        overrides["seed"] = seed
    return load_scenario(path, overrides)


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


def _print(result: Result, target: Path, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        import json  # noqa: PLC0415 - --help stays light

        click.echo(json.dumps(result.summary, indent=2))
    elif not quiet:
        from rich.console import Console  # noqa: PLC0415 - --help stays light

        from simulator.export import slo_bounds  # noqa: PLC0415 - --help stays light
        from simulator.report import render  # noqa: PLC0415 - --help stays light

        Console().print(render(result.summary, slo_bounds(result)))
        click.echo(f"Results: {target}")
