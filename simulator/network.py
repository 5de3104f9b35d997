"""``[network]``: what joins the instances, and how KV crosses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hardware.errors import suggest
from hardware.strict import Strict
from simulator.connectors import CONNECTORS, Connector, Message
from simulator.lanes import Rails

__all__ = ["KvTransfer", "NetworkTable"]


def _known_connector(name: str) -> str:
    if name not in CONNECTORS:
        raise ValueError(f"unknown name; {suggest(name, CONNECTORS)}")
    return name


class KvTransfer(Strict):
    """How KV is handed over.

    Attributes
    ----------
    mode
        ``blocking``: all of it, once the prompt is computed and the decoding instance has made room.
    connector
        Preset of :data:`simulator.connectors.CONNECTORS`; the keys below override it.
    handshake_us
        Set-up of a transfer before its first byte.
    efficiency
        Share of a link's nominal rate that transfers reach together, on every kind of link.
    message
        What is sent at once: a ``block`` of a layer, or the ``run`` of all blocks of a layer.
    messages_per_s
        Most messages one NIC handles.
    """

    mode: Literal["blocking"] = "blocking"
    connector: Annotated[str, AfterValidator(_known_connector)] = "typical"
    handshake_us: Annotated[float, Field(ge=0, le=1e9)] | None = None
    efficiency: Annotated[float, Field(gt=0, le=1)] | None = None
    message: Message | None = None
    messages_per_s: Annotated[float, Field(gt=0, le=1e12)] | None = None

    @property
    def terms(self) -> Connector:
        """The connector, with what the scenario overrides."""
        preset = CONNECTORS[self.connector]
        return replace(
            preset,
            handshake_us=preset.handshake_us if self.handshake_us is None else self.handshake_us,
            network_efficiency=self.efficiency or preset.network_efficiency,
            local_efficiency=self.efficiency or preset.local_efficiency,
            message=self.message or preset.message,
            messages_per_s=self.messages_per_s or preset.messages_per_s,
        )


class NetworkTable(Strict):
    """Nodes and the fabric between them.

    Attributes
    ----------
    topology
        Node description of the catalogue, or a path; None takes the node each chip usually comes in.
    nodes
        Nodes there are; None takes as many as the pools need.
    rails
        ``own``: a chip sends over the NIC nearest to it; ``all``: over all NICs of its node at once.
    oversubscription
        How many times the leaf switches take in more than they pass on to the spines.
    kv_transfer
        How KV is handed over.
    """

    topology: str | None = None
    nodes: Annotated[int, Field(gt=0, strict=True)] | None = None
    rails: Rails = "own"
    oversubscription: Annotated[float, Field(ge=1)] = 1.0
    kv_transfer: KvTransfer = KvTransfer()
