"""The ``servesim validate`` command; imports of weight wait until it runs."""

from __future__ import annotations

from pathlib import Path

import click

from simulator.compare_cli import print_result, staged_runs

__all__ = ["validate"]


@click.command()
@click.option(
    "--cases", "path", metavar="FILE", required=True, help="CSV of measured cases, or a folder of such files."
)
@click.option(
    "--rules", "rules_file", metavar="FILE", help="How they were launched (TOML).  [default: the rules shipped]"
)
@click.option("--tables", metavar="DIR", help="Folder of kernel tables.  [default: those of the installed package]")
@click.option("--where", "conditions", multiple=True, metavar="COLUMN=VALUE", help="Only such cases; repeatable.")
@click.option("--out", metavar="DIR", help="Result directory.  [default: results/NAME-validate]")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="Print no table and no progress.")
def validate(  # noqa: PLR0913 - one parameter per option
    path: str,
    rules_file: str | None,
    tables: str | None,
    conditions: tuple[str, ...],
    out: str | None,
    *,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Replay measured cases as they were run, and score the predictions.

    Writes predictions.csv, skipped.csv (with the reason), report.json, report.md and pictures. Interrupted, the same
    command goes on where it stopped.
    """
    from perfdb.tables import tables_root  # noqa: PLC0415 - --help stays light
    from simulator.cases import read_cases, restricted, unread_columns  # noqa: PLC0415 - --help stays light
    from simulator.launch_rules import load_rules  # noqa: PLC0415 - --help stays light
    from simulator.parallel import run_missing, usable_cores  # noqa: PLC0415 - --help stays light
    from simulator.result_folder import foreign_in_validation  # noqa: PLC0415 - --help stays light
    from simulator.validate import validate as validate_cases  # noqa: PLC0415 - --help stays light
    from simulator.validate_folder import write_validation  # noqa: PLC0415 - --help stays light
    from simulator.validate_report import render_validation  # noqa: PLC0415 - --help stays light

    rules = load_rules(rules_file)
    root = None if tables is None else tables_root(tables)
    if root is not None:
        rules = rules.with_pool({"tables": str(root)})
    cases = restricted(read_cases(path), [one for text in conditions for one in text.split(",")])
    target = Path("results") / f"{Path(path).stem}-validate" if out is None else Path(out)
    silent = quiet or as_json
    with staged_runs(target, foreign_in_validation, quiet=silent) as (staging, tell):
        found = validate_cases(
            cases,
            rules,
            lambda runs, work: run_missing(runs, work, staging.journal, jobs=jobs or usable_cores(), on_progress=tell),
        )
        content = found.content(root)
        write_validation(found, content, staging)
    if unread := unread_columns(cases):
        click.echo(f"servesim: columns that no replay looks at: {', '.join(unread)}", err=True)
    print_result(content, render_validation(content), target, as_json=as_json, quiet=quiet)
