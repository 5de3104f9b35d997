"""What stands between clients and a scheduler: HTTP, tokenisation, and the way of tokens back to their clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.records import Ledger

__all__ = ["FrontEnd", "FrontEndTime", "Outlet"]


@dataclass(frozen=True, slots=True)
class FrontEndTime:
    """What one front end needs, ns.

    Attributes
    ----------
    latency_ns
        From the client to the scheduler, and of the first token back, with nothing else to do.
    request_ns, token_ns
        In which it does nothing else, per request and per prompt token: requests that come together queue.
    output_ns
        Same, per token that goes back to its client (per message, where several go in one).
    """

    latency_ns: int = 0
    request_ns: int = 0
    token_ns: int = 0
    output_ns: int = 0

    def __bool__(self) -> bool:
        return bool(self.latency_ns or self.request_ns or self.token_ns or self.output_ns)


class FrontEnd:
    """The front end of one instance: one process that takes requests in and sends tokens out, one after the other.

    Work it has not done yet is kept as a sum. Tokens of a run of steps come evenly between the moments at which
    somebody looks, which are the same however steps are gathered: when a request comes, gets its first token, or ends.

    Parameters
    ----------
    time
        What it needs.
    """

    __slots__ = ("_at_ns", "_left_ns", "time")

    def __init__(self, time: FrontEndTime) -> None:
        self.time = time
        self._left_ns = self._at_ns = 0

    def take_in(self, now_ns: int, prompt_tokens: int) -> int:
        """Take a request in now; return after how many ns a scheduler sees it."""
        time = self.time
        self._work(now_ns, 0)
        self._left_ns += time.request_ns + time.token_ns * prompt_tokens
        return max(1, self._left_ns + time.latency_ns)

    def send_out(self, now_ns: int, tokens: int) -> int:
        """Send out what appeared since the last time; return after how many ns clients have the last of it."""
        self._work(now_ns, tokens * self.time.output_ns)
        return self._left_ns

    def left_ns(self, now_ns: int) -> int:
        """Return how long it will be busy with what it has."""
        self._work(now_ns, 0)
        return self._left_ns

    def _work(self, now_ns: int, added_ns: int) -> None:
        self._left_ns = max(0, self._left_ns + added_ns - (now_ns - self._at_ns))
        self._at_ns = now_ns


class Outlet:
    """Where the tokens of one scheduler leave for their clients.

    Parameters
    ----------
    ledger
        Where it is noted when clients have them.

    Attributes
    ----------
    front_end
        What they pass; None where that takes no time.
    waiting
        Tokens that have appeared and are not sent out yet.
    """

    __slots__ = ("_ledger", "front_end", "waiting")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self.waiting = ledger, 0
        self.front_end: FrontEnd | None = None

    def first(self, index: int, now_ns: int) -> None:
        """Let a client have the first token as soon as it gets through."""
        self._ledger.told_ns[index] = now_ns if self.front_end is None else self._leaves_ns(self.front_end, now_ns)

    def last(self, index: int, now_ns: int) -> None:
        """Let a client have the last token as soon as it gets through."""
        self._ledger.finish_ns[index] = now_ns if self.front_end is None else self._leaves_ns(self.front_end, now_ns)

    def _leaves_ns(self, front_end: FrontEnd, now_ns: int) -> int:
        tokens, self.waiting = self.waiting, 0
        return now_ns + front_end.send_out(now_ns, tokens)
