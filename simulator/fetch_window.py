"""How long TensorRT-LLM waits for more requests before it plans a step.

With ``batch_wait_timeout_ms`` every iteration of the PyTorch backend of 1.3 fetches requests for that long, whether or
not any come, unless as many of them have come as a step may hold (``_get_from_request_queue`` of
``pyexecutor/executor_request_queue.py``). An idle engine begins to wait when the first one comes.
"""

from __future__ import annotations

__all__ = ["FetchWindow"]


class FetchWindow:
    """The window in which one engine, or its ranks together, fetch requests.

    Parameters
    ----------
    wait_ns
        How long it stays open.
    most
        Requests that close it (``max_batch_size``).
    """

    __slots__ = ("_closed_ns", "_later", "_most", "_opened_ns", "_within", "wait_ns")

    def __init__(self, wait_ns: int, most: int) -> None:
        self.wait_ns, self._most = wait_ns, most
        self._opened_ns = self._closed_ns = -1
        # Requests that this window fetches, and those that the next one will.
        self._within = self._later = 0

    def open(self, now_ns: int) -> bool:
        """Open it now; tell whether so many requests have come that it closes at once."""
        self._within, self._later = self._later, 0
        full = self._within >= self._most
        self._opened_ns, self._closed_ns = now_ns, now_ns if full else -1
        return full

    def reopened(self, start_ns: int) -> None:
        """Take note that it was opened for the last time at ``start_ns``, with nobody waiting to be fetched."""
        if start_ns != self._opened_ns:
            self._opened_ns, self._closed_ns, self._within = start_ns, -1, 0

    def close(self, now_ns: int) -> None:
        """Close it now."""
        self._closed_ns = now_ns

    def add(self, now_ns: int) -> bool:
        """Count a request that comes now; tell whether it closes the window."""
        if self._closed_ns >= 0 or now_ns > self._opened_ns + self.wait_ns:
            self._later += 1
            return False
        self._within += 1
        if self._within < self._most:
            return False
        self._closed_ns = now_ns
        return True

    def known_ns(self, start_ns: int) -> int:
        """Return until when the window has fetched that was opened at ``start_ns``, now that it is over."""
        early = self._opened_ns == start_ns and self._closed_ns >= 0
        return self._closed_ns if early else start_ns + self.wait_ns
