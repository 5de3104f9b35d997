"""Many runs, side by side on the cores of one machine."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from hardware.errors import ServesimError
from simulator.interrupts import OneInterrupt
from simulator.journal import Journal, Point, Summary, point_key
from simulator.run import run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from simulator.run import Result

__all__ = ["OnProgress", "run_missing", "run_point", "run_points", "usable_cores"]

_Run = TypeVar("_Run")
_Work: TypeAlias = "Callable[[str, _Run, Journal], Summary]"


class OnProgress(Protocol):
    """Told how many runs were planned, and finished, since it was last told."""

    def __call__(self, *, planned: int = 0, finished: int = 0) -> None:
        """Add to what is known."""
        ...


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


def run_missing(
    runs: Mapping[str, _Run],
    work: _Work[_Run],
    journal: Journal,
    *,
    jobs: int = 1,
    on_progress: OnProgress | None = None,
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
    """
    tell = on_progress or _tell_nobody
    tell(planned=len(runs))
    found = {key: summary for key in runs if (summary := journal.load(key)) is not None}
    tell(finished=len(found))
    missing = {key: run for key, run in runs.items() if key not in found}
    made = _side_by_side if min(jobs, len(missing)) > 1 else _one_by_one
    found |= zip(missing, made(missing, work, journal, min(jobs, len(missing)), tell), strict=True)
    return found


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
    missing: Mapping[str, _Run], work: _Work[_Run], journal: Journal, _jobs: int, tell: OnProgress
) -> Iterator[Summary]:
    for key, run in missing.items():
        yield work(key, run, journal)
        tell(finished=1)


def _side_by_side(
    missing: Mapping[str, _Run], work: _Work[_Run], journal: Journal, jobs: int, tell: OnProgress
) -> list[Summary]:
    others = active_children()
    with OneInterrupt() as interrupt:
        executor = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_follow_parent)
        try:
            futures = [executor.submit(work, key, run, journal) for key, run in missing.items()]
            for future in futures:
                future.add_done_callback(lambda _: tell(finished=1))
            with interrupt.listening():
                return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise ServesimError(
                "a process was killed before its run ended, most likely for want of memory; run again with fewer "
                "--jobs (finished runs are kept)"
            ) from error
        except BaseException:
            # Neither a wrong input nor Ctrl-C waits for runs that nobody wants any more.
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise
        finally:
            executor.shutdown()


def _follow_parent() -> None:
    """Let a worker end when the process that started it is gone, however it went."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        # Not an exit of Python, which would wait for the run: no file is ever half-written, see Journal.
        os._exit(1)
