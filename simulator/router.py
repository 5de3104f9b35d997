"""Which instance serves an arriving request."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.random import Generator

    from simulator.request import Request

__all__ = ["ROUTERS", "LeastLoaded", "PowerOfTwo", "Random", "RoundRobin", "Router"]


class Router(Protocol):
    """Chooses an instance from what a load balancer can see."""

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:
        """Return the position of the instance to use among those offered.

        Parameters
        ----------
        loads
            Requests running and waiting on each of them, in pool order; at least one instance.
        members
            Their numbers in the deployment. Instances may come and go.
        request
            What is to be served.
        """
        ...


class RoundRobin:
    """Instances in turn, whatever their load."""

    def __init__(self, _rng: Generator) -> None:
        self._next = 0

    def choose(self, loads: Sequence[int], _members: Sequence[int], _request: Request) -> int:
        """Return the next instance in turn."""
        chosen = self._next % len(loads)
        self._next = chosen + 1
        return chosen


class Random:
    """Any instance with equal probability."""

    def __init__(self, rng: Generator) -> None:
        self._rng = rng

    def choose(self, loads: Sequence[int], _members: Sequence[int], _request: Request) -> int:
        """Return a random instance."""
        return int(self._rng.integers(len(loads)))


class LeastLoaded:
    """The instance with the fewest requests, running and waiting both; the first of equals."""

    def __init__(self, _rng: Generator) -> None:
        pass

    def choose(self, loads: Sequence[int], _members: Sequence[int], _request: Request) -> int:
        """Return the first instance with the smallest load."""
        return loads.index(min(loads))


class PowerOfTwo:
    """The less loaded of two instances drawn at random (the first drawn of equals)."""

    def __init__(self, rng: Generator) -> None:
        self._rng = rng

    def choose(self, loads: Sequence[int], _members: Sequence[int], _request: Request) -> int:
        """Return the better of two draws."""
        first, second = (int(i) for i in self._rng.integers(len(loads), size=2))
        return second if loads[second] < loads[first] else first


#: Every router by name: its own random stream -> router.
ROUTERS: Mapping[str, Callable[[Generator], Router]] = MappingProxyType(
    {
        "round_robin": RoundRobin,
        "random": Random,
        "least_loaded": LeastLoaded,
        "power_of_two": PowerOfTwo,
    }
)
