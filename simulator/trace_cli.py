"""The ``servesim trace`` commands; imports of weight wait until one of them needs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from workloads.table import Arrivals

__all__ = ["trace"]

_FORMAT = click.option("--format", "name", metavar="FORMAT", help="Format of FILE.  [default: told from its columns]")
_ON_ERROR = click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What to do with a row that cannot be used: stop, or skip and count it.",
)
_TARGET = click.option(
    "-o",
    "--output",
    "target",
    required=True,
    metavar="FILE",
    help="File to write: .csv, or .jsonl for Mooncake's form with its block hashes; .gz after either.",
)


@click.group()
def trace() -> None:
    """Describe, convert and make traces of requests."""


@trace.command()
@click.argument("file")
@_FORMAT
@_ON_ERROR
def describe(file: str, name: str | None, on_error: Literal["raise", "skip"]) -> None:
    """Print the statistics of a trace FILE, plain or gzipped.

    Arrivals that share a tick of a coarse clock (Mooncake's) are spread over it first, as in a run.
    """
    from rich.console import Console  # noqa: PLC0415 - --help stays light

    from workloads.statistics import describe as statistics  # noqa: PLC0415 - --help stays light
    from workloads.traces import detect_format, read_trace  # noqa: PLC0415 - --help stays light

    name = name or detect_format(file)
    found = read_trace(file, name, on_error=on_error)
    click.echo(f"{file} ({name})")
    Console().print(_table(statistics(found)))
    _note_skipped(found)


@trace.command()
@click.argument("file")
@_TARGET
@_FORMAT
@_ON_ERROR
def convert(file: str, target: str, name: str | None, on_error: Literal["raise", "skip"]) -> None:
    """Write a trace FILE of any format as plain CSV, or in Mooncake's form.

    CSV has the columns arrival_s, prompt_tokens, output_tokens and, where there are images, media.
    What it has no place for, such as block hashes and sessions, is left out and named. The first request arrives at 0.
    """
    from simulator.trace_file import trace_form  # noqa: PLC0415 - --help stays light
    from workloads.traces import read_trace  # noqa: PLC0415 - --help stays light

    path = _target(target, file)
    # A reader of CSV takes times as they are, one of Mooncake's form spreads them itself.
    found = read_trace(file, name, on_error=on_error, spread=trace_form(path) == "csv")
    _note_skipped(found)
    _write(found, path)


@trace.command()
@click.argument("scenario")
@_TARGET
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a key of the scenario; repeatable.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every random stream.")
def synth(scenario: str, target: str, changes: tuple[str, ...], seed: int | None) -> None:
    """Write the requests a SCENARIO with [workload.synthetic] draws as a trace."""
    from simulator.requests import synthetic_arrivals  # noqa: PLC0415 - --help stays light
    from simulator.scenario import load_changed  # noqa: PLC0415 - --help stays light

    path = _target(target, scenario)
    _write(synthetic_arrivals(load_changed(scenario, changes, seed)), path)


def _target(target: str, source: str) -> Path:
    """Return the file to write, after a check of its name."""
    from hardware.errors import OutputError  # noqa: PLC0415 - --help stays light
    from simulator.trace_file import trace_form  # noqa: PLC0415 - --help stays light

    path = Path(target)
    trace_form(path)
    if path.resolve() == Path(source).resolve():
        raise OutputError(f"-o {target}: is the file that is read, expected another one")
    return path


def _write(arrivals: Arrivals, path: Path) -> None:
    from simulator.trace_file import left_out, trace_form, write_trace  # noqa: PLC0415 - --help stays light

    write_trace(arrivals, path)
    missing = left_out(arrivals, trace_form(path))
    if missing:
        click.echo(f"servesim: left out, for want of a column: {', '.join(missing)}", err=True)
    click.echo(f"{path}: {len(arrivals):,} requests")


def _note_skipped(arrivals: Arrivals) -> None:
    if arrivals.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(arrivals.skipped.items()))
        click.echo(f"servesim: rows skipped: {reasons}", err=True)


def _table(found: Mapping[str, float]) -> Table:
    from rich.table import Table  # noqa: PLC0415 - --help stays light

    table = Table()
    table.add_column("")
    table.add_column("value", justify="right")
    for name, value in found.items():
        table.add_row(name, _number(value))
    return table


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
