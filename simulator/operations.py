"""A deployment while it serves: instances die, come back and change pools, links lose capacity."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from simulator.clock import soon
from simulator.incidents import InstanceDown, LinkChange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulator.cluster import Cluster
    from simulator.incidents import Incident, OperationsTable, Switching
    from simulator.server import Server

__all__ = ["Operations"]


class Operations:
    """Lets incidents happen to a cluster at their times.

    Parameters
    ----------
    cluster
        Before it runs.
    table
        What will happen.
    pools
        Number of each pool by name.
    set_capacity
        Gives the links that a pattern names a share of their capacity.

    Attributes
    ----------
    happened
        (time in ns, what) for everything that has happened.
    instances_lost, switches
        Counts.
    """

    def __init__(
        self,
        cluster: Cluster,
        table: OperationsTable,
        pools: Mapping[str, int],
        set_capacity: Callable[[str, float], None],
    ) -> None:
        self.cluster, self._pools, self._set_capacity = cluster, pools, set_capacity
        self._names = list(pools)
        self.happened: list[tuple[int, str]] = []
        self.instances_lost = self.switches = 0
        self._slots: list[list[int | None]] = [[] for _ in pools]
        for instance in cluster.instances:
            self._slots[cluster.owners[instance.number]].append(instance.number)
        for incident in table.incident:
            soon(cluster.env, max(1, round(incident.at_s * 1e9)), partial(self._happen, incident))
        if table.switching is not None:
            self._look_later(table.switching)

    def _happen(self, incident: Incident) -> None:
        if isinstance(incident, InstanceDown):
            self._lose(incident)
        elif isinstance(incident, LinkChange):
            self._note(f"link {incident.link} at {incident.capacity:.0%}")
            self._set_capacity(incident.link, incident.capacity)
        else:
            self._switch(self._pools[incident.pool], self._pools[incident.to], incident.delay_s)

    def _note(self, what: str) -> None:
        self.happened.append((self.cluster.env.now, what))

    def _lose(self, incident: InstanceDown) -> None:
        cluster, pool = self.cluster, self._pools[incident.pool]
        slots = self._slots[pool]
        number = slots[incident.instance] if incident.instance < len(slots) else None
        if number is None:
            self._note(f"{incident.pool} {incident.instance} was not there to die")
            return
        slots[incident.instance] = None
        self._note(f"{incident.pool} {incident.instance} down")
        self.instances_lost += 1
        if incident.restart_after_s is not None:
            cluster.awaited += 1
            again = partial(self._restart, pool, incident.instance, number)
            soon(cluster.env, max(1, round(incident.restart_after_s * 1e9)), again)
        cluster.stop_instance(cluster.instances[number])

    def _restart(self, pool: int, place: int, like: int) -> None:
        cluster = self.cluster
        self._slots[pool][place] = cluster.start_instance(pool, like).number
        self._joined()
        self._note(f"{self._names[pool]} {place} up")

    # --- roles ---------------------------------------------------------------------------------------

    def _switch(self, pool: int, to: int, delay_s: float) -> None:
        """Let the least loaded instance of a pool change to another, but for the last one."""
        live = self._live(pool)
        if len(live) < 2:
            return
        cluster, loads = self.cluster, self.cluster.loads
        leaving = min(reversed(live), key=lambda instance: loads[instance.number])
        slots = self._slots[pool]
        slots[slots.index(leaving.number)] = None
        cluster.awaited += 1
        self.switches += 1
        self._note(f"{self._names[pool]} to {self._names[to]}")
        delay_ns = max(1, round(delay_s * 1e9))
        then = partial(self._change, leaving, to)
        cluster.drain(leaving, lambda: soon(cluster.env, delay_ns, then))

    def _change(self, leaving: Server, to: int) -> None:
        cluster = self.cluster
        cluster.stop_instance(leaving)
        self._slots[to].append(cluster.start_instance(to, leaving.number).number)
        self._joined()

    def _joined(self) -> None:
        """Await an instance less; who waits for one of the other stage may wait in vain now."""
        self.cluster.awaited -= 1
        self.cluster.give_up_if_hopeless()

    def _look_later(self, switching: Switching) -> None:
        soon(self.cluster.env, max(1, round(switching.every_s * 1e9)), partial(self._look, switching))

    def _look(self, switching: Switching) -> None:
        """Switch an instance if one pool has far more requests per instance than the other."""
        one, other = (self._pools[name] for name in switching.between)
        mine, theirs = self._load(one), self._load(other)
        if not self.cluster.awaited:
            if mine >= max(switching.least_load, switching.ratio * theirs):
                self._switch(other, one, switching.delay_s)
            elif theirs >= max(switching.least_load, switching.ratio * mine):
                self._switch(one, other, switching.delay_s)
        # Where nothing is left to happen, looking on would hide that the run is stuck.
        if not self.cluster.env.is_over():
            self._look_later(switching)

    def _live(self, pool: int) -> list[Server]:
        return [self.cluster.instances[number] for number in self._slots[pool] if number is not None]

    def _load(self, pool: int) -> float:
        """Return the requests per instance of a pool."""
        live = self._live(pool)
        return sum(self.cluster.loads[instance.number] for instance in live) / max(len(live), 1)
