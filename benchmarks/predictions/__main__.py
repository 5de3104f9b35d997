"""``python -m benchmarks.predictions write | compare OLD [NEW]``: what is predicted for a grid, and what moved.

OLD and NEW are files that ``write`` made, or revisions of git, whose predictions are made anew; without NEW those of
the sources here are compared. Exit code 1 where a prediction moved by more than the threshold and was not accepted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.predictions.changes import ROOT, at_revision, changes, moved, report
from benchmarks.predictions.grid import predictions, read, write
from hardware.errors import UserError

if TYPE_CHECKING:
    from benchmarks.predictions.grid import Row

_HERE = Path(__file__).parent
#: What the tests expect of the small grid.
EXPECTED = ROOT / "tests" / "golden" / "predictions" / "small.json"


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.predictions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--grid", default="small", help="small, full, or a file in their form (default: small)")
    own.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    commands = found.add_subparsers(dest="command", required=True)
    writes = commands.add_parser("write", parents=[own], help="write predictions, by default those the tests expect")
    writes.add_argument("--out", type=Path, help="file to write (default: what the tests expect, for the small grid)")
    compares = commands.add_parser("compare", parents=[own], help="show what moved")
    compares.add_argument("old", help="file or revision")
    compares.add_argument("new", nargs="?", help="file or revision (default: the sources here)")
    compares.add_argument("--threshold", type=float, default=0.1, help="percent, or points of a share (default: 0.1)")
    compares.add_argument(
        "--accept", action="append", default=[], metavar="PATTERN", help="scenarios, or SCENARIO:METRIC; repeatable"
    )
    compares.add_argument("--limit", type=int, default=40, help="changes to show one by one (default: 40)")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        return _write(options) if options.command == "write" else _compare(options)
    except UserError as error:
        print(f"predictions: error: {error}", file=sys.stderr)
        return 2


def _grid(name: str) -> Path:
    path = _HERE / f"{name}.toml" if name in {"small", "full"} else Path(name)
    if not path.is_file():
        raise UserError(f"--grid {name}: found no such file; expected small, full or a TOML file in their form")
    return path


def _write(options: argparse.Namespace) -> int:
    if options.out is None and options.grid != "small":
        raise UserError(f"--grid {options.grid}: the tests expect nothing of it; name a file with --out")
    out = options.out or EXPECTED
    write(out, predictions(_grid(options.grid), options.jobs))
    print(out)
    return 0


def _compare(options: argparse.Namespace) -> int:
    old, new = (_predictions(given, options) for given in (options.old, options.new))
    found, threshold = changes(old, new), options.threshold / 100
    Console().print(report(found, threshold, options.accept, options.limit))
    return 1 if moved(found, threshold, options.accept) else 0


def _predictions(given: str | None, options: argparse.Namespace) -> dict[str, Row]:
    if given is None:
        return predictions(_grid(options.grid), options.jobs)
    if Path(given).is_file():
        return read(Path(given))
    return at_revision(given, _grid(options.grid), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
