"""Where many runs are kept until the folder of their results is complete."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.export import check_target, put_in_place, unwritable
from simulator.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Staging", "staged"]


@dataclass(frozen=True, slots=True)
class Staging:
    """A result directory in the making.

    Attributes
    ----------
    directory
        The result directory.
    foreign
        Tells what in a folder is no part of an earlier result of the same kind.
    """

    directory: Path
    foreign: Callable[[Path], str | None]

    @property
    def folder(self) -> Path:
        """A hidden folder beside the result directory, on the same disk and always of the same name."""
        target = self.directory.resolve()
        return target.parent / f".servesim-{target.name}.partial"

    @property
    def journal(self) -> Journal:
        """The runs that are finished."""
        return Journal(self.folder / "points")

    def place(self, fill: Callable[[Path], None]) -> None:
        """Write the result directory, all of it or nothing, and forget the runs behind it.

        Parameters
        ----------
        fill
            Writes every file into a folder.

        Raises
        ------
        OutputError
            If the directory holds something else or cannot be written; the runs are still kept.
        """
        fresh, old = self.folder / "new", self.folder / "old"
        try:
            for left_over in (fresh, old):
                shutil.rmtree(left_over, ignore_errors=True)
            fresh.mkdir(parents=True)
            fill(fresh)
            check_target(self.directory, self.foreign)
            put_in_place(fresh, self.directory.resolve(), old)
            shutil.rmtree(self.folder)
        except OSError as error:
            raise unwritable(self.directory, error) from error


@contextmanager
def staged(directory: Path, foreign: Callable[[Path], str | None]) -> Iterator[Staging]:
    """Keep the runs made within for the next time, should anything go wrong; leave nothing where none finished.

    Raises
    ------
    OutputError
        If the directory holds something else, or cannot be written; before anything runs.
    """
    check_target(directory, foreign)
    staging = Staging(directory, foreign)
    try:
        yield staging
    finally:
        if not any(staging.journal.folder.glob("*.json")):
            shutil.rmtree(staging.folder, ignore_errors=True)
