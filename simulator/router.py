"""Which instance serves an arriving request."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from simulator.affinity import KvAware, PrefixAffinity, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.random import Generator

    from simulator.affinity import Holder
    from simulator.request import Request

__all__ = [
    "PREFIX_ROUTERS",
    "ROUTERS",
    "SESSION_ROUTERS",
    "LeastLoaded",
    "ObservingRouter",
    "PowerOfTwo",
    "Random",
    "RoundRobin",
    "Router",
]


class Router(Protocol):
    """Chooses an instance from what a load balancer can see."""

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:
        """Return the position, in ``loads`` and ``members``, of the instance to use.

        Parameters
        ----------
        loads
            Requests running and waiting on each instance; at least one instance.
        members
            Numbers of these instances. They may differ from call to call: instances fail, come back and
            change roles.
        request
            What is to be served. Its session and prefix are there to see, its true output length is not.
        """
        ...


@runtime_checkable
class ObservingRouter(Router, Protocol):
    """A router that looks into the instances it chooses from."""

    def observe(self, member: int, holder: Holder) -> None:
        """Look into an instance from now on; called before it is among the members, and again if it is another."""
        ...


class RoundRobin:
    """Instances in turn, whatever their load."""

    def __init__(self, _rng: Generator) -> None:
        self._next = 0

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:  # noqa: ARG002 - see Router
        """Return the next instance in turn."""
        chosen = self._next % len(members)
        self._next = chosen + 1
        return chosen


class Random:
    """Any instance with equal probability."""

    def __init__(self, rng: Generator) -> None:
        self._rng = rng

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:  # noqa: ARG002 - see Router
        """Return a random instance."""
        return int(self._rng.integers(len(loads)))


class LeastLoaded:
    """The instance with the fewest requests, running and waiting both; the first of equals."""

    def __init__(self, _rng: Generator) -> None:
        pass

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:  # noqa: ARG002 - see Router
        """Return the first instance with the smallest load."""
        return loads.index(min(loads))


class PowerOfTwo:
    """The less loaded of two instances drawn at random (the first drawn of equals)."""

    def __init__(self, rng: Generator) -> None:
        self._rng = rng

    def choose(self, loads: Sequence[int], members: Sequence[int], request: Request) -> int:  # noqa: ARG002 - see Router
        """Return the better of two draws."""
        first, second = (int(i) for i in self._rng.integers(len(loads), size=2))
        return second if loads[second] < loads[first] else first


#: Routers that look at the prefixes of requests, and those that look at their sessions.
PREFIX_ROUTERS, SESSION_ROUTERS = frozenset({"prefix_affinity", "kv_aware"}), frozenset({"session"})

#: Every router by name: its own random stream -> router.
ROUTERS: Mapping[str, Callable[[Generator], Router]] = MappingProxyType(
    {
        "round_robin": RoundRobin,
        "random": Random,
        "least_loaded": LeastLoaded,
        "power_of_two": PowerOfTwo,
        "prefix_affinity": PrefixAffinity,
        "kv_aware": KvAware,
        "session": Session,
    }
)
