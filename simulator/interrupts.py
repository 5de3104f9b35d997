"""Ctrl-C while other processes are started, waited for and ended."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OneInterrupt"]

_CAN_BLOCK: Final = hasattr(signal, "pthread_sigmask")


class OneInterrupt:
    """A context in which Ctrl-C is heard once, and only where it is listened for.

    A terminal sends Ctrl-C to every process; that which started the others is to answer it, once, and neither a
    second one nor one at the wrong moment may keep it from ending them. Processes that are started here are never
    interrupted. One that comes where nobody listens counts from when somebody does, or from the end of the context.

    Outside the main thread nothing changes: Python delivers signals to no other.
    """

    def __init__(self) -> None:
        self._heard = self._raised = self._listens = False
        self._here = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._here:
            self._before = signal.signal(signal.SIGINT, self._hear)
            if _CAN_BLOCK:
                # Started with the first process, it would unblock signals again.
                resource_tracker.ensure_running()
            self._block()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._here:
            return
        self._unblock()
        signal.signal(signal.SIGINT, self._before)
        if self._heard and not self._raised and kind is None:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Raise KeyboardInterrupt here."""
        if not self._here:
            yield
            return
        try:
            self._listens = True
            self._unblock()
            if self._heard and not self._raised:
                self._interrupt()
            yield
        finally:
            self._listens = False
            self._block()

    def _hear(self, *_: object) -> None:
        self._heard = True
        if self._listens and not self._raised:
            self._interrupt()

    def _interrupt(self) -> None:
        self._raised = True
        raise KeyboardInterrupt

    @staticmethod
    def _block() -> None:
        # A process inherits what is blocked in the thread that starts it.
        if _CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    @staticmethod
    def _unblock() -> None:
        if _CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
