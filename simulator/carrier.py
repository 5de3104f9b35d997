"""How KV moves from one instance to another: what is sent when, between which chips, over which links."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from simulator.records import TransferLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulator.clock import Clock
    from simulator.flows import Flow
    from simulator.lanes import Lanes, Route
    from simulator.link_history import LinkSeries
    from simulator.link_use import LinkUse
    from simulator.network import KvTransfer
    from simulator.transfer import Network

__all__ = ["KvCarrier", "Shipment"]


class KvCarrier:
    """Moves KV over a shared network; a :class:`simulator.passage.Carrier`.

    What is sent is what the receiver stores, over the lanes of :mod:`simulator.lanes`.

    Parameters
    ----------
    env, network
        The clock, and the flows over the channels of the lanes.
    lanes
        Every endpoint, and the lanes between them.
    places
        Number of the endpoint of an instance of a pool on the chips of an instance of the beginning; those of its
        other ranks follow.
    transfer
        How KV is handed over.
    layers
        Layers of the model: KV comes layer by layer while a prompt is computed.
    """

    def __init__(  # noqa: PLR0913 - the parts of a network, all named
        self,
        env: Clock,
        network: Network,
        lanes: Lanes,
        *,
        transfer: KvTransfer,
        layers: int = 1,
        places: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        self.env, self.network, self.lanes = env, network, lanes
        self.transfer, self.layers = transfer, layers
        self.handshake_ns = round(transfer.terms.handshake_us * 1e3)
        self.log, self.feature_log = TransferLog(), TransferLog()
        self._places = places or {}
        # Of every instance there ever was: its endpoint, and the instance of the beginning whose chips it has.
        self._at = list(self._places.values()) or list(range(len(lanes.endpoints)))
        self._slots = list(range(len(self._at)))

    def open(self, source: int, target: int, on_done: Callable[[], None], ranks: tuple[int, int] = (0, 0)) -> Shipment:
        """Return a transfer that has not begun; ``on_done`` is called once it is closed and all of it is there.

        Parameters
        ----------
        source, target, on_done
            Numbers of the instances it goes from and to, and what to call.
        ranks
            The attention ranks there that have the KV, and get it.
        """
        ends = self._at[source] + ranks[0], self._at[target] + ranks[1]
        size = self.lanes.endpoints[ends[1]].kv_bytes_per_token
        return Shipment(self, (source, target), self.lanes.between(*ends), size, on_done, self.log)

    def open_features(self, source: int, target: int, token_bytes: int, on_done: Callable[[], None]) -> Shipment:
        """Return a transfer of features of so many bytes for each token; see :meth:`open`."""
        route = self.lanes.between(self._at[source], self._at[target])
        return Shipment(self, (source, target), route, token_bytes, on_done, self.feature_log)

    def place(self, instance: int, like: int, pool: int) -> None:
        """Put a new instance of a pool on the chips of an earlier one."""
        del self._at[instance:], self._slots[instance:]
        self._slots.append(self._slots[like])
        self._at.append(self._places[self._slots[like], pool])

    def set_capacity(self, link: int, share: float) -> None:
        """Let a link that was kept apart give KV a share of its usual rate from now on; 0 stalls what is on it."""
        channel = self.lanes.own_channel(link)
        if channel >= 0:
            self.network.set_capacity(channel, float(self.lanes.capacity_bytes_per_s[link]) * share)

    def link_use(self) -> LinkUse:
        """Return what each link has carried so far."""
        return self.network.link_use().of_links(self.lanes.channels)

    def link_series(self) -> LinkSeries:
        """Return what each link that was used had carried over time."""
        return self.network.link_series().of_links(self.lanes.channels)

    def bytes_under_way(self) -> int:
        """Return the bytes that were sent and have neither arrived nor been given up."""
        network = self.network
        return network.bytes_sent - network.bytes_received - network.bytes_dropped


class _Load(NamedTuple):
    """Bytes that become available evenly from one time to another, and the set-up before they go.

    Others follow a load that ``streams`` at once, so that the way itself is paid by the last of them alone.
    """

    start_ns: int
    end_ns: int
    tokens: int
    size: int
    handshake_ns: int
    streams: bool = False


class Shipment:
    """The KV of one request on its way: loads of bytes, one after another, each over the lanes of all ranks.

    Parameters
    ----------
    carrier
        The network.
    ends
        Numbers of the instances it goes from and to.
    route
        The lanes from one to the other.
    token_bytes
        Bytes of a token, all lanes together.
    on_done
        Called once all of it is there.
    log
        Where it is noted then.
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
        "log",
        "on_done",
        "route",
        "token_bytes",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - what a transfer is
        self,
        carrier: KvCarrier,
        ends: tuple[int, int],
        route: Route,
        token_bytes: int,
        on_done: Callable[[], None],
        log: TransferLog,
    ) -> None:
        self.carrier, self.ends, self.route, self.log = carrier, ends, route, log
        self.token_bytes, self.on_done = token_bytes, on_done
        self._closed = self._dropped = False
        self._missing = self._size = 0
        self._started = -1
        self._flows: list[Flow] = []
        self._loads: deque[_Load] = deque()

    def send(self, tokens: int) -> None:
        """Send the KV of ``tokens`` tokens now and nothing after it."""
        self._closed = True
        carrier, size = self.carrier, tokens * self.token_bytes
        self._started, self._size = carrier.env.now, size
        self._send_parcels(tokens, size, carrier.handshake_ns)

    def compute(self, tokens: int, duration_ns: int, *, last: bool) -> None:
        """Send the KV of ``tokens`` tokens as a step that begins now computes it, layer by layer.

        Layer-wise: the layers, or groups of them, leave one after the other without waiting for an answer, so that
        bytes flow no faster than they are computed, from the end of the first on; after the last of the last
        chunk one hand-shake tells the receiver. Grouped: the layers of a group leave together, each group after a
        hand-shake of its own and one at a time. Chunked: all of it leaves when the step is over, after a hand-shake.

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
        start_ns = self.carrier.env.now
        end_ns = start_ns + duration_ns
        mode = self.carrier.transfer.mode
        if mode == "chunked":
            self._queue([_Load(end_ns, end_ns, tokens, tokens * self.token_bytes, self.carrier.handshake_ns)])
        elif mode == "grouped":
            self._queue(self._groups(tokens, start_ns, end_ns))
        else:
            self._queue(self._layers(tokens, start_ns, end_ns, last=last))

    def computed(self) -> None:
        """Take note that the prompt is complete: what is still on its way may flow as fast as links allow."""
        for flow in self._flows:
            self.carrier.network.uncap(flow)

    def drop(self) -> None:
        """Give the transfer up; ``on_done`` will not be called."""
        self._dropped = True
        for flow in self._flows:
            self.carrier.network.drop(flow)

    def _layers(self, tokens: int, start_ns: int, end_ns: int, *, last: bool) -> list[_Load]:
        """Return a chunk as a stream of its groups of layers, and the last group of the last chunk for itself."""
        layers, size = self.carrier.layers, tokens * self.token_bytes
        group = min(self.carrier.transfer.group_layers, layers)
        first_ns = (end_ns - start_ns) * group // layers
        if not last:
            return [_Load(start_ns + first_ns, end_ns + first_ns, tokens, size, 0, streams=True)]
        rest = size * ((layers - 1) % group + 1) // layers
        final = _Load(end_ns, end_ns, tokens, rest, self.carrier.handshake_ns)
        if group == layers:
            return [final]
        return [_Load(start_ns + first_ns, end_ns, tokens, size - rest, 0, streams=True), final]

    def _groups(self, tokens: int, start_ns: int, end_ns: int) -> list[_Load]:
        """Return a chunk as groups of layers."""
        layers, size, sent = self.carrier.layers, tokens * self.token_bytes, 0
        found: list[_Load] = []
        group = self.carrier.transfer.group_layers
        for through in (*range(group, layers, group), layers):
            ready_ns = start_ns + (end_ns - start_ns) * through // layers
            part = size * through // layers - sent
            found.append(_Load(ready_ns, ready_ns, tokens, part, self.carrier.handshake_ns))
            sent += part
        return found

    def _queue(self, loads: Sequence[_Load]) -> None:
        self._loads += loads
        if not self._missing:
            self._send_next()

    def _send_next(self) -> None:
        """Send the next load, no faster than it becomes available, over all lanes."""
        carrier, load = self.carrier, self._loads.popleft()
        now = carrier.env.now
        begins = max(now, load.start_ns)
        if self._started < 0:
            self._started = begins if carrier.transfer.mode == "chunked" else now
        delay_ns, per_s = begins - now + load.handshake_ns, 0.0
        if load.end_ns > begins and load.size:
            per_s = 1e9 / (load.end_ns - begins)
        self._size += load.size
        self._send_parcels(load.tokens, load.size, delay_ns, per_s, streams=load.streams)

    def _send_parcels(
        self, tokens: int, size: int, delay_ns: int, per_s: float = 0.0, *, streams: bool = False
    ) -> None:
        """Send bytes over all lanes after a delay, at most the ``per_s``-th part of them a second."""
        send = self.carrier.network.send
        parcels = self.route.parcels(tokens, size)
        self._missing = len(parcels)
        self._flows = [
            send(
                lane.links,
                part,
                latency_ns=delay_ns + (0 if streams else lane.latency_ns),
                cap_bytes_per_s=part / lane.width * occupancy * per_s or inf,
                occupancy=occupancy,
                stripes=lane.width,
                on_done=self._arrived,
            )
            for lane, part, occupancy in parcels
        ]

    def _arrived(self) -> None:
        self._missing -= 1
        if self._missing or self._dropped:
            return
        if self._loads:
            self._send_next()
        elif self._closed:
            carrier, started = self.carrier, self._started
            # They know this shipment: together they would stay until the collector of cycles comes.
            self._flows = []
            self.log.add((started, carrier.env.now - started, *self.ends, self._size))
            self.on_done()
