"""Runs on a Ray cluster: nothing is lost with a worker, and nothing counts twice."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, TypeVar

from hardware.errors import UserError
from simulator.journal import Journal, Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from simulator.parallel import OnProgress

__all__ = ["RayExecutor"]

_Run = TypeVar("_Run")
_Work: TypeAlias = "Callable[[str, _Run, Journal], Summary]"


class _Made(NamedTuple):
    """What comes back of a run: its summary, and the files of its result folder, if it has one."""

    summary: Summary
    files: dict[str, bytes]


class RayExecutor:
    """The workers of a Ray cluster that is running.

    A run of which the worker dies is made again elsewhere. What is made comes back to this process, which alone
    keeps it: a run counts when it is in the journal, whoever made it and however often. Files that a scenario names
    must be where they are here on every node.
    """

    def __init__(self) -> None:
        try:
            import ray  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise UserError(
                "--executor ray: Ray is not installed; pip install 'servesim[ray]', or leave --executor out"
            ) from error
        self._ray = ray

    def __enter__(self) -> Self:
        try:
            self._ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            raise UserError(
                "--executor ray: no Ray cluster is running here; start one with 'ray start --head', or name one in "
                "RAY_ADDRESS"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def make(
        self, missing: Mapping[str, _Run], work: _Work[_Run], journal: Journal, tell: OnProgress
    ) -> Iterable[Summary]:
        """Make each run and keep it; return their summaries in order.

        Raises
        ------
        UserError
            If a scenario asks for something impossible.
        """
        make_one = self._ray.remote(max_retries=-1, retry_exceptions=False)(_make)
        waiting = {make_one.remote(work, key, run): key for key, run in missing.items()}
        found: dict[str, Summary] = {}
        while waiting:
            (ready, *_), _ = self._ray.wait(list(waiting), num_returns=1)
            key = waiting.pop(ready)
            try:
                made = self._ray.get(ready)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            _keep(key, made, journal)
            found[key] = made.summary
            tell(finished=1)
        return [found[key] for key in missing]


def _make(work: Callable[[str, Any, Journal], Summary], key: str, run: object) -> _Made:
    """Make a run on a worker, which may have no disk in common with whoever asked for it."""
    with tempfile.TemporaryDirectory(prefix="servesim-") as place:
        journal = Journal(Path(place))
        summary = work(key, run, journal)
        result = journal.result(key)
        files = [path for path in sorted(result.rglob("*")) if path.is_file()] if result.is_dir() else []
        return _Made(summary, {path.relative_to(result).as_posix(): path.read_bytes() for path in files})


def _keep(key: str, made: _Made, journal: Journal) -> None:
    """Keep what came back: the files first, for a run is finished when its summary is there."""
    if made.files:
        partial = journal.result(f"{key}.files")
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in made.files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        shutil.rmtree(journal.result(key), ignore_errors=True)
        partial.rename(journal.result(key))
    journal.store(key, made.summary)
