"""``[network]``: what joins the instances, and how KV crosses it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hardware.strict import Strict

__all__ = ["KvTransfer", "NetworkTable"]


class KvTransfer(Strict):
    """How KV is handed over.

    Attributes
    ----------
    mode
        ``blocking``: all of it, once the prompt is computed and the decoding instance has made room.
    handshake_us
        Set-up of a transfer before its first byte. Default: the constant of Mooncake's transfers between
        H800 nodes over eight NICs (vLLM disaggregation benchmark, fitted).
    efficiency
        Share of a link's nominal rate that transfers reach together. Default: 171 of 200 GB/s between H20
        nodes (Mooncake's SGLang benchmark); NVLink between two H100 reaches 380 of 450 GB/s.
    """

    mode: Literal["blocking"] = "blocking"
    handshake_us: Annotated[float, Field(ge=0, le=1e9)] = 380.0
    efficiency: Annotated[float, Field(gt=0, le=1)] = 0.85


class NetworkTable(Strict):
    """Nodes and the fabric between them.

    Attributes
    ----------
    topology
        Node description of the catalogue, or a path; None takes the node each chip usually comes in.
    nodes
        Nodes there are; None takes as many as the pools need.
    oversubscription
        How many times the leaf switches take in more than they pass on to the spines.
    kv_transfer
        How KV is handed over.
    """

    topology: str | None = None
    nodes: Annotated[int, Field(gt=0, strict=True)] | None = None
    oversubscription: Annotated[float, Field(ge=1)] = 1.0
    kv_transfer: KvTransfer = KvTransfer()
