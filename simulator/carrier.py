"""How KV moves from one instance to another: which chips send what to which, over which links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.records import TransferLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hardware.topology import Path, Topology
    from simulator.instance import Clock
    from simulator.transfer import LinkSeries, LinkUse, Network

__all__ = ["Endpoint", "KvCarrier"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an instance is on the network.

    Attributes
    ----------
    chips
        Names of its chips in the topology, by tensor rank.
    kv_bytes_per_token
        KV bytes of one token on all of them, copies of replicated heads included.
    """

    chips: tuple[str, ...]
    kv_bytes_per_token: int


class KvCarrier:
    """Moves KV over a shared network; a :class:`simulator.cluster.Carrier`.

    The wider side has a flow per chip: with the same tensor parallelism rank *i* sends to rank *i*, otherwise
    each chip of the wider side is paired with the chip that holds, or will hold, its heads. What is sent is
    what the receiver stores, so heads replicated there are sent more than once.

    Parameters
    ----------
    env, network
        The clock and the flows.
    topology
        Paths between chips.
    endpoints
        Every instance, by number.
    handshake_ns
        Set-up of a transfer before its first byte.
    """

    def __init__(
        self, env: Clock, network: Network, topology: Topology, endpoints: Sequence[Endpoint], handshake_ns: int
    ) -> None:
        self.env, self.network, self.topology = env, network, topology
        self.endpoints, self.handshake_ns = endpoints, handshake_ns
        self.log = TransferLog()
        self._paths: dict[tuple[int, int], tuple[Path, ...]] = {}

    def carry(self, source: int, target: int, tokens: int, on_done: Callable[[], None]) -> None:
        """Start to move the KV of ``tokens`` tokens; ``on_done`` is called once all of it is there."""
        paths = self._paths_between(source, target)
        size = tokens * self.endpoints[target].kv_bytes_per_token
        env, started = self.env, self.env.now
        missing = len(paths)

        def arrived() -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                self.log.add((started, env.now - started, source, target, size))
                on_done()

        for number, path in enumerate(paths):
            self.network.send(
                path.links,
                # Every byte is sent once: the first flows take what does not divide.
                size // len(paths) + (number < size % len(paths)),
                latency_ns=self.handshake_ns + path.latency_ns,
                on_done=arrived,
            )

    def link_use(self) -> LinkUse:
        """Return what each link has carried so far."""
        return self.network.link_use()

    def link_series(self) -> LinkSeries:
        """Return what each link that was used had carried over time."""
        return self.network.link_series()

    def bytes_under_way(self) -> int:
        """Return the bytes that were sent and have neither arrived nor been given up."""
        network = self.network
        return network.bytes_sent - network.bytes_received - network.bytes_dropped

    def _paths_between(self, source: int, target: int) -> tuple[Path, ...]:
        found = self._paths.get((source, target))
        if found is None:
            senders, receivers = self.endpoints[source].chips, self.endpoints[target].chips
            flows = max(len(senders), len(receivers))
            found = tuple(
                self.topology.path(senders[i * len(senders) // flows], receivers[i * len(receivers) // flows])
                for i in range(flows)
            )
            self._paths[source, target] = found
        return found
