"""How KV moves from one instance to another: what is sent when, between which chips, over which links."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from simulator.records import TransferLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hardware.topology import Path, Topology
    from simulator.instance import Clock
    from simulator.network import KvTransfer
    from simulator.transfer import Flow, LinkUse, Network

__all__ = ["Endpoint", "KvCarrier", "Shipment"]


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
    """Moves KV over a shared network; a :class:`simulator.hand_over.Carrier`.

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
    terms
        How KV is handed over.
    layers
        Layers of the model: KV comes layer by layer while a prompt is computed.
    """

    def __init__(  # noqa: PLR0913 - the parts of a network, all named
        self,
        env: Clock,
        network: Network,
        topology: Topology,
        endpoints: Sequence[Endpoint],
        *,
        terms: KvTransfer,
        layers: int,
    ) -> None:
        self.env, self.network, self.topology = env, network, topology
        self.endpoints, self.terms, self.layers = list(endpoints), terms, layers
        self.handshake_ns = round(terms.handshake_us * 1e3)
        self.log = TransferLog()
        self._paths: dict[tuple[int, int], tuple[Path, ...]] = {}

    def open(self, source: int, target: int, on_done: Callable[[], None]) -> Shipment:
        """Return a transfer that has not begun; ``on_done`` is called once it is closed and all of it is there."""
        size = self.endpoints[target].kv_bytes_per_token
        return Shipment(self, (source, target), self._paths_between(source, target), size, on_done)

    def place(self, instance: int, like: int, kv_bytes_per_token: int) -> None:
        """Put a new instance on the chips of an earlier one; its number is the next."""
        if instance == len(self.endpoints):
            self.endpoints.append(Endpoint(self.endpoints[like].chips, kv_bytes_per_token))

    def set_capacity(self, link: int, share: float) -> None:
        """Give a link a share of the capacity it had at the beginning."""
        capacity = self.topology.capacity_bytes_per_s[link] * self.terms.efficiency
        self.network.set_capacity(link, float(capacity * share))

    def link_use(self) -> LinkUse:
        """Return what each link has carried so far."""
        return self.network.link_use()

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


class Shipment:
    """The KV of one request on its way: one or several loads of bytes, side by side over the paths of the ranks.

    Parameters
    ----------
    carrier
        The network.
    ends
        Numbers of the instances it goes from and to.
    paths
        A path per flow of a load.
    token_bytes
        Bytes of a token, all paths together.
    on_done
        Called once all of it is there.
    """

    __slots__ = (
        "_bulk",
        "_closed",
        "_dropped",
        "_flows",
        "_groups",
        "_missing",
        "_size",
        "_started",
        "carrier",
        "ends",
        "on_done",
        "paths",
        "token_bytes",
    )

    def __init__(
        self,
        carrier: KvCarrier,
        ends: tuple[int, int],
        paths: tuple[Path, ...],
        token_bytes: int,
        on_done: Callable[[], None],
    ) -> None:
        self.carrier, self.ends, self.paths = carrier, ends, paths
        self.token_bytes, self.on_done = token_bytes, on_done
        self._closed = self._dropped = False
        self._missing = self._size = 0
        self._started = -1
        self._flows: list[Flow] = []
        self._bulk: list[Flow] = []
        self._groups: deque[tuple[int, int]] = deque()

    def send(self, tokens: int) -> None:
        """Send the KV of ``tokens`` tokens now and nothing after it."""
        self._closed = True
        self._load(tokens * self.token_bytes, self.carrier.handshake_ns)

    def compute(self, tokens: int, duration_ns: int, *, last: bool) -> None:
        """Send the KV of ``tokens`` tokens as a step that begins now computes it, layer by layer.

        Layer-wise: the layers leave one after the other without waiting for an answer, so that bytes flow no
        faster than they are computed, from the end of the first layer on; after the last layer of the last
        chunk one hand-shake tells the receiver. Grouped: the layers of a group leave together, each group after a
        hand-shake of its own and one at a time.

        Parameters
        ----------
        tokens
            Tokens of the chunk.
        duration_ns
            Duration of the step; all layers take the same share of it.
        last
            The chunk completes the prompt.
        """
        carrier, layers = self.carrier, self.carrier.layers
        size, layer_ns = tokens * self.token_bytes, duration_ns // layers
        self._closed = last
        if carrier.terms.mode == "grouped":
            self._queue_groups(size, layer_ns, duration_ns)
            return
        rest = size // layers if last else 0
        if size > rest:
            self._bulk = self._load(size - rest, layer_ns, size * 1e9 / duration_ns)
        if last:
            self._load(rest, duration_ns + carrier.handshake_ns)

    def computed(self) -> None:
        """Take note that the prompt is complete: what is still on its way may flow as fast as links allow."""
        for flow in self._bulk:
            self.carrier.network.uncap(flow)

    def drop(self) -> None:
        """Give the transfer up; ``on_done`` will not be called."""
        self._dropped = True
        for flow in self._flows:
            self.carrier.network.drop(flow)

    def _queue_groups(self, size: int, layer_ns: int, duration_ns: int) -> None:
        layers, group = self.carrier.layers, self.carrier.terms.group_layers
        now, idle, sent = self.carrier.env.now, not self._missing, 0
        for end in range(group, layers + group, group):
            through = min(end, layers)
            ready = now + (through * layer_ns if through < layers else duration_ns)
            self._groups.append((ready, size * through // layers - sent))
            sent = size * through // layers
        if idle:
            self._next_group()

    def _next_group(self) -> None:
        ready, size = self._groups.popleft()
        self._load(size, max(0, ready - self.carrier.env.now) + self.carrier.handshake_ns)

    def _load(self, size: int, delay_ns: int, rate_bytes_per_s: float = inf) -> list[Flow]:
        """Send bytes after a delay, spread over the paths, no faster than a rate in all."""
        carrier, paths = self.carrier, self.paths
        if self._started < 0:
            self._started = carrier.env.now
        self._size += size
        self._missing += len(paths)
        flows = [
            carrier.network.send(
                path.links,
                # Every byte is sent once: the first flows take what does not divide.
                size // len(paths) + (number < size % len(paths)),
                latency_ns=delay_ns + path.latency_ns,
                cap_bytes_per_s=rate_bytes_per_s / len(paths),
                on_done=self._arrived,
            )
            for number, path in enumerate(paths)
        ]
        self._flows += flows
        return flows

    def _arrived(self) -> None:
        self._missing -= 1
        if self._missing or self._dropped:
            return
        if self._groups:
            self._next_group()
        elif self._closed:
            carrier, started = self.carrier, self._started
            carrier.log.add((started, carrier.env.now - started, *self.ends, self._size))
            self.on_done()
