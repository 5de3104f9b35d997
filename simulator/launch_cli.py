"""The ``servesim launch`` command; imports of weight wait until it needs them."""

from __future__ import annotations

import click

__all__ = ["launch"]


@click.command()
@click.argument("result_dir")
@click.option(
    "--target",
    type=click.Choice(["vllm", "sglang", "trtllm", "dynamo", "llm-d"]),
    help="What to launch with.  [default: the engine that was simulated]",
)
@click.option("--out", metavar="DIR", help="Folder of the launch files.  [default: RESULT_DIR-launch]")
def launch(result_dir: str, target: str | None, out: str | None) -> None:
    """Write what launches the deployment of RESULT_DIR: a run, the best of a comparison or the winner of a search.

    Every flag says whether the scenario chose it or it is a default of the engine. With them come the requests of the
    simulation, the command that sends them, and what it should show.
    """
    from pathlib import Path  # noqa: PLC0415 - --help stays light

    from simulator.launch_deployment import read_deployment  # noqa: PLC0415 - --help stays light
    from simulator.launch_folder import launch_files, write_launch  # noqa: PLC0415 - --help stays light

    folder = Path(result_dir)
    files = launch_files(read_deployment(folder), target)
    place = folder.parent / f"{folder.resolve().name}-launch" if out is None else Path(out)
    write_launch(files, place)
    click.echo("\n".join(f"{place / name}" for name in files))
