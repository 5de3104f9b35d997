"""What stands between a client and a scheduler: HTTP, tokenisation, and the way to the engine's process."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapreplace

__all__ = ["FrontEnd", "FrontEndTime"]


@dataclass(frozen=True, slots=True)
class FrontEndTime:
    """How long a request is under way to the scheduler, ns.

    Attributes
    ----------
    latency_ns
        From the client to the scheduler, and of the first token back, with nothing else to do.
    request_ns, token_ns
        In which a server does nothing else, per request and per prompt token: requests that come together queue.
    """

    latency_ns: int = 0
    request_ns: int = 0
    token_ns: int = 0

    def __bool__(self) -> bool:
        return bool(self.latency_ns or self.request_ns or self.token_ns)


class FrontEnd:
    """The front ends of a deployment, one per instance, each of which takes one request after the other.

    Parameters
    ----------
    time
        What each needs.
    servers
        How many there are.
    """

    def __init__(self, time: FrontEndTime, servers: int) -> None:
        self.time = time
        self._free_ns = [0] * servers

    def delay_ns(self, now_ns: int, prompt_tokens: int) -> int:
        """Take a request in now; return after how many ns a scheduler sees it. The server free first takes it."""
        time = self.time
        start_ns = max(now_ns, self._free_ns[0])
        done_ns = start_ns + time.request_ns + time.token_ns * prompt_tokens
        heapreplace(self._free_ns, done_ns)
        return max(1, done_ns + time.latency_ns - now_ns)
