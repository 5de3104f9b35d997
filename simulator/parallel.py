"""Many runs, side by side on the cores of one machine."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypeVar

from hardware.errors import ServesimError
from simulator.interrupts import OneInterrupt
from simulator.journal import Journal, Point, Summary, point_key
from simulator.run import run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from simulator.run import Result

__all__ = ["Executor", "LocalExecutor", "OnProgress", "run_missing", "run_point", "run_points", "usable_cores"]

_Run = TypeVar("_Run")
_Work: TypeAlias = "Callable[[str, _Run, Journal], Summary]"


class OnProgress(Protocol):
    """Told how many runs were planned, and finished, since it was last told."""

    def __call__(self, *, planned: int = 0, finished: int = 0) -> None:
        """Add to what is known."""
        ...


class Executor(Protocol):
    """Makes runs somewhere."""

    def make(
        self, missing: Mapping[str, _Run], work: _Work[_Run], journal: Journal, tell: OnProgress
    ) -> Iterable[Summary]:
        """Make each run and keep it; return their summaries in order."""
        ...


class LocalExecutor:
    """Processes of this machine that stay for several rounds of runs, and what they have built with them.

    Parameters
    ----------
    jobs
        How many; one makes runs in this process.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs, self._interrupt = jobs, OneInterrupt()
        self._pool: ProcessPoolExecutor | None = None
        self._others = active_children()

    def __enter__(self) -> Self:
        if self._jobs > 1:
            self._interrupt.__enter__()
            self._pool = ProcessPoolExecutor(self._jobs, mp_context=get_context("spawn"), initializer=_follow_parent)
            # They get ready while this process does.
            for _ in range(self._jobs):
                self._pool.submit(_tell_nobody)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._pool is None:
            return
        try:
            if kind is not None:
                # Neither a wrong input nor Ctrl-C waits for runs that nobody wants any more.
                for process in active_children():
                    if process not in self._others:
                        process.terminate()
            self._pool.shutdown()
        finally:
            self._interrupt.__exit__(kind, *error)

    def make(
        self, missing: Mapping[str, _Run], work: _Work[_Run], journal: Journal, tell: OnProgress
    ) -> Iterable[Summary]:
        """Make runs side by side.

        Raises
        ------
        ServesimError
            If a process was killed.
        """
        if self._pool is None:
            return _one_by_one(missing, work, journal, tell)
        try:
            futures = [self._pool.submit(work, key, run, journal) for key, run in missing.items()]
            for future in futures:
                future.add_done_callback(lambda _: tell(finished=1))
            with self._interrupt.listening():
                return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise ServesimError(
                "a process was killed before its run ended, most likely for want of memory; run again with fewer "
                "--jobs (finished runs are kept)"
            ) from error


def usable_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_points(
    points: Sequence[Point], journal: Journal, *, jobs: int = 1, on_progress: OnProgress | None = None
) -> list[Summary]:
    """Run scenarios, those that the journal knows not again.

    Parameters
    ----------
    points
        What to run; equal points are run once.
    journal
        Where finished runs are kept.
    jobs
        Processes. Summaries are the same whatever their number. With more than one, a script that calls this must
        be importable (``if __name__ == "__main__"``), as ``multiprocessing`` with new processes requires.
    on_progress
        Told of what is planned and finished.

    Returns
    -------
    list
        The summary of each point, in their order.

    Raises
    ------
    UserError
        If a scenario asks for something impossible; of several, that of the first point.
    ServesimError
        If a process was killed.
    """
    keys = [point_key(point) for point in points]
    found = run_missing(dict(zip(keys, points, strict=True)), run_point, journal, jobs=jobs, on_progress=on_progress)
    return [found[key] for key in keys]


def run_missing(  # noqa: PLR0913 - what runs, how, and who is told
    runs: Mapping[str, _Run],
    work: _Work[_Run],
    journal: Journal,
    *,
    jobs: int = 1,
    on_progress: OnProgress | None = None,
    executor: Executor | None = None,
) -> dict[str, Summary]:
    """Make runs of any kind, those that the journal knows not again; see :func:`run_points`.

    Parameters
    ----------
    runs
        What to run, by key of the journal.
    work
        Makes one run and keeps it: a function of a module, as other processes must find it.
    journal, jobs, on_progress
        As for :func:`run_points`.
    executor
        Who makes them, in place of so many processes of its own.
    """
    tell = on_progress or _tell_nobody
    tell(planned=len(runs))
    found = {key: summary for key in runs if (summary := journal.load(key)) is not None}
    tell(finished=len(found))
    missing = {key: run for key, run in runs.items() if key not in found}
    if executor is not None:
        made = executor.make(missing, work, journal, tell)
    else:
        made = _made(missing, work, journal, min(jobs, len(missing)), tell)
    found |= zip(missing, made, strict=True)
    return found


def _made(
    missing: Mapping[str, _Run], work: _Work[_Run], journal: Journal, jobs: int, tell: OnProgress
) -> Iterable[Summary]:
    if jobs <= 1:
        return _one_by_one(missing, work, journal, tell)
    with LocalExecutor(jobs) as executor:
        return executor.make(missing, work, journal, tell)


def run_point(key: str, point: Point, journal: Journal) -> Summary:
    """Run one scenario and keep it in the journal; an error sentence begins with the label of the point."""
    try:
        result = run_scenario(point.scenario)
    except ServesimError as error:
        raise type(error)(f"{point.label}: {error}") from error
    summary = {name: value for name, value in result.summary.items() if name != "cpu_s"}
    if point.origin is not None:
        _keep(replace(result, summary=summary), key, point.origin, journal)
    journal.store(key, summary)
    return summary


def _keep(result: Result, key: str, origin: Mapping[str, object], journal: Journal) -> None:
    from simulator.export import write_result  # noqa: PLC0415 - most runs draw no picture

    write_result(result, journal.result(key), origin=origin)


def _tell_nobody(*, planned: int = 0, finished: int = 0) -> None:
    del planned, finished


def _one_by_one(
    missing: Mapping[str, _Run], work: _Work[_Run], journal: Journal, tell: OnProgress
) -> Iterator[Summary]:
    for key, run in missing.items():
        yield work(key, run, journal)
        tell(finished=1)


def _follow_parent() -> None:
    """Let a worker end when the process that started it is gone, however it went."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        # Not an exit of Python, which would wait for the run: no file is ever half-written, see Journal.
        os._exit(1)
