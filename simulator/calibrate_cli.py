"""The ``servesim calibrate`` command; imports of weight wait until it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group

    from simulator.calibrate import Fit, Measured

__all__ = ["calibrate"]


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "output", required=True, metavar="CALIBRATION", help="TOML file to write.")
@click.option("--scenario", metavar="SCENARIO", help="The server that results among the files were measured on.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of every scenario, as in pool.0.chip=h200_sxm; repeatable.",
)
@click.option("--where", "conditions", multiple=True, metavar="COLUMN=VALUE", help="Only such cases; repeatable.")
@click.option("--rules", "rules_file", metavar="FILE", help="How cases were launched.  [default: the rules shipped]")
@click.option("--quiet", is_flag=True, help="Print no table and no progress.")
def calibrate(  # noqa: PLR0913 - one parameter per option
    files: tuple[str, ...],
    output: str,
    *,
    scenario: str | None,
    changes: tuple[str, ...],
    conditions: tuple[str, ...],
    rules_file: str | None,
    quiet: bool,
) -> None:
    """Fit host overheads and kernel times to measured runs of a server.

    A FILE is a result of `vllm bench serve --save-detailed`, with --scenario for the server; or a scenario whose
    workload.trace is such a result; or a CSV of measured cases as for `servesim validate`. One or two runs are
    enough; a light and a heavy load tell more than two alike. A pool names what is written:
    calibration = "CALIBRATION".
    """
    from pathlib import Path  # noqa: PLC0415 - --help stays light

    from hardware.errors import OutputError  # noqa: PLC0415 - --help stays light

    target = Path(output)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise OutputError(f"-o {output}: expected a file in a folder that exists")
    runs = [*_cases([file for file in files if _is_cases(file)], conditions, rules_file)]
    runs += _results([file for file in files if not _is_cases(file)], scenario, changes)
    found = _fitted(runs, quiet=quiet)
    try:
        target.write_text(found.calibration.toml(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"-o {output}: cannot be written ({error.strerror}); name another file") from error
    if not quiet:
        from rich.console import Console  # noqa: PLC0415 - --help stays light

        Console().print(_tables(found))
        click.echo(f'Written: {output}; in a pool: calibration = "{output}"')


def _is_cases(file: str) -> bool:
    return file.endswith(".csv")


def _cases(files: Sequence[str], conditions: Sequence[str], rules_file: str | None) -> Sequence[Measured]:
    """Return the runs that the cases of CSV files are about."""
    from simulator.cases import read_cases, restricted  # noqa: PLC0415 - --help stays light
    from simulator.launch_rules import load_rules  # noqa: PLC0415 - --help stays light
    from simulator.measured import measured_cases  # noqa: PLC0415 - --help stays light

    if not files:
        return ()
    wanted = [one for text in conditions for one in text.split(",")]
    cases = restricted([case for file in files for case in read_cases(file)], wanted)
    return measured_cases(cases, load_rules(rules_file))


def _results(files: Sequence[str], scenario: str | None, changes: Sequence[str]) -> Sequence[Measured]:
    """Return the runs of results, and of scenarios that name one."""
    from hardware.errors import ScenarioError  # noqa: PLC0415 - --help stays light
    from simulator.measured import read_measured  # noqa: PLC0415 - --help stays light
    from simulator.scenario import load_changed  # noqa: PLC0415 - --help stays light

    runs = []
    for file in files:
        if file.endswith(".toml"):
            own = load_changed(file, changes)
            if own.workload.trace is None:
                raise ScenarioError(f"{file}: has no workload.trace, expected the result that was measured on it")
            runs.append(read_measured(own.workload.trace, own))
        elif scenario is None:
            raise ScenarioError(f"{file}: the server it was measured on is not known; add --scenario SCENARIO")
        else:
            runs.append(read_measured(file, load_changed(scenario, changes)))
    return runs


def _fitted(runs: Sequence[Measured], *, quiet: bool) -> Fit:
    from rich.console import Console  # noqa: PLC0415 - --help stays light

    from simulator.calibrate import fit  # noqa: PLC0415 - --help stays light

    terminal = Console(stderr=True)
    if quiet or not terminal.is_terminal:
        return fit(runs)
    with terminal.status("simulating") as status:
        return fit(runs, lambda error: status.update(f"mean error {error:.1%}"))


def _tables(found: Fit) -> Group:
    from simulator.calibrate_report import render_fit  # noqa: PLC0415 - --help stays light

    return render_fit(found)
