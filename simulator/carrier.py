"""How KV moves from one instance to another: which chips send what to which, over which links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.lanes import Endpoint
from simulator.records import TransferLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.instance import Clock
    from simulator.lanes import Lanes
    from simulator.link_use import LinkUse
    from simulator.transfer import Network

__all__ = ["Endpoint", "KvCarrier"]


class KvCarrier:
    """Moves KV over a shared network; a :class:`simulator.cluster.Carrier`.

    What is sent is what the receiver stores, over the lanes of :mod:`simulator.lanes`.

    Parameters
    ----------
    env, network
        The clock, and the flows over the channels of the lanes.
    lanes
        Every instance, and the lanes between them.
    handshake_ns
        Set-up of a transfer before its first byte.
    """

    def __init__(self, env: Clock, network: Network, lanes: Lanes, handshake_ns: int) -> None:
        self.env, self.network, self.lanes = env, network, lanes
        self.handshake_ns = handshake_ns
        self.log = TransferLog()

    def carry(self, source: int, target: int, tokens: int, on_done: Callable[[], None]) -> None:
        """Start to move the KV of ``tokens`` tokens; ``on_done`` is called once all of it is there."""
        route = self.lanes.between(source, target)
        size = tokens * self.lanes.endpoints[target].kv_bytes_per_token
        env, started = self.env, self.env.now
        missing = len(route.lanes)

        def arrived() -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                self.log.add((started, env.now - started, source, target, size))
                on_done()

        for lane, part, occupancy in route.parcels(tokens, size):
            self.network.send(
                lane.links,
                part,
                latency_ns=self.handshake_ns + lane.latency_ns,
                occupancy=occupancy,
                stripes=lane.width,
                on_done=arrived,
            )

    def set_link_share(self, link: int, share: float) -> None:
        """Let a link that was kept apart give KV a share of its usual rate from now on; 0 stalls what is on it."""
        channel = self.lanes.own_channel(link)
        if channel >= 0:
            self.network.set_capacity(channel, float(self.lanes.capacity_bytes_per_s[link]) * share)

    def link_use(self) -> LinkUse:
        """Return what each link has carried so far."""
        return self.network.link_use().of_links(self.lanes.channels)

    def bytes_under_way(self) -> int:
        """Return the bytes that were sent and have neither arrived nor been given up."""
        network = self.network
        return network.bytes_sent - network.bytes_received - network.bytes_dropped
