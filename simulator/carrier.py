"""How KV moves from one instance to another: what is sent when, between which chips, over which links."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

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


class _Load(NamedTuple):
    """Bytes that become available evenly from one time to another, and the set-up before they go.

    Others follow a load that ``streams`` at once, so that the way itself is paid by the last of them alone.
    """

    start_ns: int
    end_ns: int
    size: int
    handshake_ns: int
    streams: bool = False


class Shipment:
    """The KV of one request on its way: loads of bytes, one after another, each over the paths of all ranks.

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
        "_closed",
        "_dropped",
        "_flows",
        "_loads",
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
        self._loads: deque[_Load] = deque()

    def send(self, tokens: int) -> None:
        """Send the KV of ``tokens`` tokens now and nothing after it."""
        self._closed = True
        now = self.carrier.env.now
        self._queue([_Load(now, now, tokens * self.token_bytes, self.carrier.handshake_ns)])

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
        self._closed = last
        size, start = tokens * self.token_bytes, self.carrier.env.now
        layers = self._groups if self.carrier.terms.mode == "grouped" else self._layers
        self._queue(layers(size, start, start + duration_ns, last=last))

    def computed(self) -> None:
        """Take note that the prompt is complete: what is still on its way may flow as fast as links allow."""
        for flow in self._flows:
            self.carrier.network.uncap(flow)

    def drop(self) -> None:
        """Give the transfer up; ``on_done`` will not be called."""
        self._dropped = True
        for flow in self._flows:
            self.carrier.network.drop(flow)

    def _layers(self, size: int, start_ns: int, end_ns: int, *, last: bool) -> list[_Load]:
        """Return a chunk as a stream of its layers, and the last layer of the last chunk for itself."""
        layers = self.carrier.layers
        layer_ns = (end_ns - start_ns) // layers
        if not last:
            return [_Load(start_ns + layer_ns, end_ns + layer_ns, size, 0, streams=True)]
        rest = size // layers
        final = _Load(end_ns, end_ns, rest, self.carrier.handshake_ns)
        if layers == 1:
            return [final]
        return [_Load(start_ns + layer_ns, end_ns, size - rest, 0, streams=True), final]

    def _groups(self, size: int, start_ns: int, end_ns: int, *, last: bool) -> list[_Load]:  # noqa: ARG002
        """Return a chunk as groups of layers."""
        layers, found, sent = self.carrier.layers, [], 0
        group = self.carrier.terms.group_layers
        for through in (*range(group, layers, group), layers):
            ready_ns = start_ns + (end_ns - start_ns) * through // layers
            found.append(_Load(ready_ns, ready_ns, size * through // layers - sent, self.carrier.handshake_ns))
            sent += found[-1].size
        return found

    def _queue(self, loads: Sequence[_Load]) -> None:
        self._loads += loads
        if not self._missing:
            self._send_next()

    def _send_next(self) -> None:
        """Send the next load, no faster than it becomes available, over all paths."""
        carrier, paths, load = self.carrier, self.paths, self._loads.popleft()
        now = carrier.env.now
        if self._started < 0:
            self._started = now
        begins = max(now, load.start_ns)
        rate = load.size * 1e9 / (load.end_ns - begins) / len(paths) if load.end_ns > begins and load.size else inf
        self._size += load.size
        self._missing = len(paths)
        self._flows = [
            carrier.network.send(
                path.links,
                # Every byte is sent once: the first flows take what does not divide.
                load.size // len(paths) + (number < load.size % len(paths)),
                latency_ns=begins - now + load.handshake_ns + (0 if load.streams else path.latency_ns),
                cap_bytes_per_s=rate,
                on_done=self._arrived,
            )
            for number, path in enumerate(paths)
        ]

    def _arrived(self) -> None:
        self._missing -= 1
        if self._missing or self._dropped:
            return
        if self._loads:
            self._send_next()
        elif self._closed:
            carrier, started = self.carrier, self._started
            carrier.log.add((started, carrier.env.now - started, *self.ends, self._size))
            self.on_done()
