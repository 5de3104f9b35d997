"""What tells requests apart but for their lengths: who asks, and what the prompt begins with."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from simulator.request import Request
    from workloads.table import IntColumn, Prefixes

__all__ = ["KnownIdentities"]


class KnownIdentities:
    """Sessions and prefixes of a workload, by request; a :class:`simulator.cluster.Identities`.

    Parameters
    ----------
    prefixes
        What prompts share, or None.
    session
        int64[n], numbers of sessions, or None.
    priority
        int64[n], the lowest the most urgent, or None.
    """

    __slots__ = ("_contents", "_ends", "_named", "_offsets", "_priority", "_session")

    def __init__(self, prefixes: Prefixes | None, session: IntColumn | None, priority: IntColumn | None = None) -> None:
        self._offsets = None if prefixes is None else _column(prefixes.offsets)
        self._named: bytes | None = None
        if prefixes is not None:
            self._contents, self._ends = _column(prefixes.contents), _column(prefixes.ends)
            self._named = _named(prefixes)
        self._session = None if session is None else _column(session)
        self._priority = None if priority is None else _column(priority)

    def identify(self, request: Request) -> None:
        """Fill in the session, the priority and the prefix of a request."""
        index = request.index
        if self._priority is not None:
            request.priority = self._priority[index]
        if self._session is not None:
            request.session = self._session[index]
        if self._named is not None:
            request.named = bool(self._named[index])
        if self._offsets is not None:
            start, end = self._offsets[index], self._offsets[index + 1]
            if start < end:
                request.prefix = tuple(self._contents[start:end])
                request.prefix_ends = tuple(self._ends[start:end])


def _named(prefixes: Prefixes) -> bytes | None:
    """Return a byte per request: 1 if a prompt goes on from its answer; None if none does."""
    answers = -1 - prefixes.contents[prefixes.contents < 0]
    if not answers.size:
        return None
    found = np.zeros(len(prefixes), np.uint8)
    found[answers] = 1
    return found.tobytes()


def _column(values: IntColumn) -> array[int]:
    """Return a column whose numbers are plain ones."""
    return array("q", values.tobytes())
