"""The ``servesim perf`` commands: what the kernel tables hold, how far they can be trusted, what a step costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

__all__ = ["perf"]

_TABLES = click.option(
    "--tables", metavar="DIR", help="Folder of kernel tables.  [default: those of the installed package]"
)
_CHIP = click.option("--chip", metavar="NAME", help="Only this chip's.")
_FRAMEWORK = click.option("--framework", metavar="NAME", help="Only this framework's: vllm, sglang or trtllm.")


@click.group()
def perf() -> None:
    """List, show, screen and price from the tables of measured kernels."""


@perf.command("list")
@_TABLES
@_CHIP
@_FRAMEWORK
def list_(tables: str | None, chip: str | None, framework: str | None) -> None:
    """List the tables there are, with their rows; * marks the versions that are priced from."""
    from simulator.perf_tables import listing  # noqa: PLC0415 - --help stays light

    _print(listing(_root(tables), chip, framework))


@perf.command()
@click.argument("table")
@_TABLES
@_CHIP
@_FRAMEWORK
@click.option("--version", metavar="V", help="Version of the framework.  [default: the one that is priced from]")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only rows with this value; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), default=40, show_default=True, help="Print at most so many rows.")
@click.option("--csv", "as_csv", is_flag=True, help="Print all rows as CSV.")
def show(  # noqa: PLR0913 - one parameter per option
    table: str,
    *,
    tables: str | None,
    chip: str | None,
    framework: str | None,
    version: str | None,
    where: tuple[str, ...],
    limit: int,
    as_csv: bool,
) -> None:
    """Show the rows of one TABLE, such as gemm, generation_attention or custom_allreduce."""
    from simulator.perf_tables import chosen_rows, rows_table  # noqa: PLC0415 - --help stays light

    title, rows = chosen_rows(_root(tables), table, (chip, framework, version), where)
    if as_csv:
        click.echo(rows.to_csv(index=False), nl=False)
    else:
        _print(rows_table(title, rows, limit))


@perf.command()
@_TABLES
@_CHIP
@_FRAMEWORK
@click.option("--table", metavar="NAME", help="Only this table, such as gemm.")
@click.option("--out", metavar="DIR", help="Write audit.csv (a row per table) and rows.csv (a row per bad row) here.")
def audit(tables: str | None, chip: str | None, framework: str | None, *, table: str | None, out: str | None) -> None:
    """Screen the tables: rows faster than light, far slower than every sibling, or beaten by a longer one.

    Rows that cannot be are set aside when steps are priced. Tables but for those of projections may honestly be
    slower than another framework's; such rows are named and stay.
    """
    from pathlib import Path  # noqa: PLC0415 - --help stays light

    from rich.console import Console  # noqa: PLC0415 - --help stays light
    from rich.progress import Progress  # noqa: PLC0415 - --help stays light

    from simulator.perf_audit import audit_all, audit_report, write_audit  # noqa: PLC0415 - --help stays light

    terminal, root = Console(stderr=True), _root(tables)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("tables", total=None)
        found = audit_all(
            root, chip, framework, table, lambda done, of: progress.update(task, completed=done, total=of)
        )
    if out is not None:
        write_audit(found, Path(out))
    _print(audit_report(found))
    if out is not None:
        click.echo(f"Results: {out}")


@perf.command()
@click.argument("scenario")
@click.option("--prefill", multiple=True, metavar="TOKENS[@PAST]", help="A chunk of a prompt; repeatable.")
@click.option("--decode", metavar="SEQSxCONTEXT", help="Sequences that decode, and the tokens each has cached.")
@click.option("--image", multiple=True, metavar="WIDTHxHEIGHT", help="An image to encode, pixels; repeatable.")
@click.option("--video", multiple=True, metavar="WIDTHxHEIGHTxFRAMES", help="A video to encode; repeatable.")
@click.option("--audio", multiple=True, metavar="SECONDS", help="A sound to encode; repeatable.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a key of the scenario; repeatable.")
@click.option("--candidate", metavar="NAME", help="Which [[candidate]] of the file; --set changes it.")
def price(  # noqa: PLR0913 - one parameter per option
    scenario: str,
    *,
    prefill: tuple[str, ...],
    decode: str | None,
    image: tuple[str, ...],
    video: tuple[str, ...],
    audio: tuple[str, ...],
    changes: tuple[str, ...],
    candidate: str | None,
) -> None:
    """Print what one step costs in each pool of a SCENARIO, operator by operator.

    With --prefill 2048 --prefill 512@4096 --decode 64x4096 the step computes a prompt of 2048 tokens, 512 tokens of
    one that has 4096 cached, and one token of 64 sequences. A pool takes the part of it that its stages serve. With
    --image 1280x720 the encoder of a multimodal model runs, over all images, videos and sounds together.
    """
    from simulator.candidates import load_picked  # noqa: PLC0415 - --help stays light
    from simulator.perf_image import encoded_report, encoded_runs, parse_media  # noqa: PLC0415 - --help stays light
    from simulator.perf_price import parse_step, price_report, priced_pools  # noqa: PLC0415 - --help stays light

    media = parse_media(image, video, audio)
    step = parse_step(prefill, decode) if prefill or decode or not media else None
    picked = load_picked(scenario, candidate, changes)
    for run in encoded_runs(picked, media) if media else ():
        _print(encoded_report(run))
    for pool in priced_pools(picked, step) if step else ():
        _print(price_report(pool))


def _root(tables: str | None) -> Path:
    from hardware.errors import CatalogueError  # noqa: PLC0415 - --help stays light
    from perfdb.tables import installed_root, tables_root  # noqa: PLC0415 - --help stays light

    root = installed_root() if tables is None else tables_root(tables)
    if root is None:
        raise CatalogueError(
            "--tables: aiconfigurator-core is not installed, so that there are no tables; expected a folder of them"
        )
    return root


def _print(part: RenderableType) -> None:
    from rich.console import Console  # noqa: PLC0415 - --help stays light

    Console().print(part)
