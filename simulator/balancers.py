"""Which attention rank of an engine gets a request: each engine's own way of dealing them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

from numpy.random import default_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulator.engine_core import EngineCore

__all__ = ["BALANCERS", "Balancer", "RankLoad"]


class RankLoad:
    """What a balancer sees of a rank.

    Attributes
    ----------
    requests, prompt_tokens
        Requests that it has not finished, and the tokens of their prompts.
    """

    __slots__ = ("_core", "prompt_tokens", "requests")

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self.requests = self.prompt_tokens = 0

    def add(self, requests: int, prompt_tokens: int) -> None:
        """Count requests in, or out if there are less than none."""
        self.requests += requests
        self.prompt_tokens += requests * prompt_tokens

    def waiting(self) -> int:
        """Return how many requests are not running."""
        state = self._core.state
        return self.requests - len(state.running) + len(state.ending)

    def usage(self) -> float:
        """Return the share of its KV blocks that are in use."""
        self._core.take_begun()
        pool = self._core.state.pool
        return 1 - pool.free / pool.blocks


class Balancer(Protocol):
    """Chooses a rank."""

    def choose(self, loads: Sequence[RankLoad]) -> int:
        """Return the place of the rank that gets a request which comes now."""
        ...


class Turns:
    """Ranks in turn, whatever their load (SGLang's ``round_robin``, its default)."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, loads: Sequence[RankLoad]) -> int:
        """Return the next rank in turn."""
        chosen = self._next
        self._next = (chosen + 1) % len(loads)
        return chosen


class Rooms:
    """A rank by chance (SGLang's ``follow_bootstrap_room``, its default where an instance only computes prompts).

    The router numbers the meeting of two instances for a request at random (``bootstrap_room``), and the rank is the
    remainder of that number (``managers/data_parallel_controller.py``).

    Parameters
    ----------
    instance
        Whose ranks they are: every instance draws numbers of its own.
    """

    def __init__(self, instance: int) -> None:
        self._rng = default_rng([instance, crc32(b"bootstrap_room")])

    def choose(self, loads: Sequence[RankLoad]) -> int:
        """Return any rank with equal probability."""
        return int(self._rng.integers(len(loads)))


class FewestRequests:
    """The rank with the fewest requests, the first of equals (SGLang's ``total_requests``)."""

    def choose(self, loads: Sequence[RankLoad]) -> int:
        """Return the rank with the fewest requests."""
        return min(range(len(loads)), key=lambda rank: loads[rank].requests)


class LowestScore:
    """The rank with the fewest requests, those that wait counted more often the fuller the KV cache is.

    As vLLM 0.33 has it (``get_core_engine_for_request`` of ``v1/engine/core_client.py``): from half of the cache on,
    each waiting request counts up to four times. Equals are looked at from another rank on every time.
    """

    def __init__(self) -> None:
        self._first = 0

    def choose(self, loads: Sequence[RankLoad]) -> int:
        """Return the rank with the lowest score."""
        size, first = len(loads), self._first
        self._first = (first + 1) % size
        return min((place % size for place in range(first, first + size)), key=lambda rank: _score(loads[rank]))


def _score(load: RankLoad) -> float:
    waiting = load.waiting()
    return load.requests + (waiting * 6.0 * max(0.0, load.usage() - 0.5) if waiting else 0.0)


class WaitingFirst:
    """The rank with the fewest requests, each that waits counted four times; the first of equals.

    As vLLM did before 0.33; how far before, and from when on it began with another rank every time, was not looked up.
    """

    def choose(self, loads: Sequence[RankLoad]) -> int:
        """Return the rank with the lowest score."""
        return min(range(len(loads)), key=lambda rank: loads[rank].requests + 3 * loads[rank].waiting())


class FewestTokens:
    """The rank whose prompts have the fewest tokens, among those with no more than their share of the requests.

    As TensorRT-LLM deals requests (``schedule_attention_dp_requests``), but one at a time: requests fetched in one
    iteration are dealt together there, the longest first.
    """

    def choose(self, loads: Sequence[RankLoad]) -> int:
        """Return the rank with the fewest tokens, then the fewest requests."""
        counts = [load.requests for load in loads]
        share = max(-(-(sum(counts) + 1) // len(loads)), *counts)
        below = [rank for rank, count in enumerate(counts) if count < share]
        return min(below, key=lambda rank: (loads[rank].prompt_tokens, counts[rank]))


#: Every balancer by name: what makes one for an instance, by its number.
BALANCERS: Mapping[str, Callable[[int], Balancer]] = MappingProxyType(
    {
        "round_robin": lambda _instance: Turns(),
        "follow_bootstrap_room": Rooms,
        "total_requests": lambda _instance: FewestRequests(),
        "lowest_score": lambda _instance: LowestScore(),
        "waiting_first": lambda _instance: WaitingFirst(),
        "fewest_tokens": lambda _instance: FewestTokens(),
    }
)
