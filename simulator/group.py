"""The instances that serve one stage, and the router before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.lookout import Lookout
from simulator.router import ObservingRouter, RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.request import Request
    from simulator.router import Router
    from simulator.server import Server

__all__ = ["Group"]


class Group:
    """Instances that share the requests of one stage; they may come and go.

    Instances of a pool that serves both stages *help* where pools of one stage exist: they are offered to the
    router only while every other instance has more than ``helps_above`` requests.

    Parameters
    ----------
    router
        Chooses among the instances offered.
    loads
        Requests on each instance of the deployment, by number; shared by all groups, so that what an
        instance does for one stage counts in the other.
    helps_above
        Requests on every instance of the stage's own pools above which helpers are used.

    Attributes
    ----------
    members, helpers
        Instance numbers, in the order they joined.
    waiting
        What to do once an instance joins a group that has none, and what if none ever will.
    """

    def __init__(self, router: Router, loads: list[int], helps_above: int = 0) -> None:
        self.router, self.helps_above = router, helps_above
        self.members: list[int] = []
        self.helpers: list[int] = []
        self.waiting: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._loads, self._takes_turns = loads, isinstance(router, RoundRobin)
        self._instances: dict[int, Server] = {}

    def __len__(self) -> int:
        return len(self._instances)

    def join(self, instance: Server, *, helps: bool = False) -> None:
        """Add an instance."""
        self._instances[instance.number] = instance
        (self.helpers if helps else self.members).append(instance.number)
        if isinstance(self.router, ObservingRouter):
            self.router.observe(instance.number, Lookout(instance))

    def leave(self, number: int) -> None:
        """Take an instance out, if it is in."""
        if self._instances.pop(number, None) is not None:
            (self.members if number in self.members else self.helpers).remove(number)

    def choose(self, request: Request) -> Server | None:
        """Return the instance to use and count the request on it; None where there is no instance."""
        if not self._instances:
            return None
        loads, offered = self._loads, self.members
        if self.helpers and all(loads[number] > self.helps_above for number in offered):
            offered = offered + self.helpers
        # Who takes turns is shown no loads.
        seen = offered if self._takes_turns else [loads[number] for number in offered]
        chosen = offered[self.router.choose(seen, offered, request)]
        loads[chosen] += 1
        return self._instances[chosen]
