"""``[network]``: what joins the instances, and how KV crosses it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from hardware.strict import Strict, one_of
from simulator.connectors import CONNECTORS, Connector, Message, Rails

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KvMode", "KvTransfer", "NetworkTable"]

KvMode: TypeAlias = Literal["blocking", "chunked", "layerwise", "grouped"]
"""What of a prompt's KV leaves together."""


class KvTransfer(Strict):
    """How KV is handed over.

    Attributes
    ----------
    mode
        ``blocking``: all of it, once the prompt is computed. ``chunked``: each chunk of the prompt, once its step is
        over. ``layerwise``: layers, or groups of them, as soon as
        they are computed, without waiting for an answer. ``grouped``: groups of layers as soon as they are computed,
        each after a hand-shake of its own, one at a time.
    direction
        ``pull``: the decoding instance is asked for room once the prompt is computed, and fetches the KV.
        ``push``: it makes room before the prompt is begun, and the KV is written to it; a prompt waits until
        there is room. Layers that leave while others are computed need the room before: they are pushed.
    decode_chosen
        When the decoding instance is chosen: at ``hand_over`` or at ``arrival``. Default: at hand-over where KV
        is pulled; where it is pushed, at arrival, which is the only choice.
    group_layers
        Adjacent layers that leave together.
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
    timeout_s
        A transfer that takes longer is given up; None for no limit.
    on_timeout
        ``recompute``: the decoding instance computes the prompt itself. ``fail``: the request fails.
    """

    mode: KvMode = "blocking"
    direction: Literal["pull", "push"] | None = None
    decode_chosen: Literal["hand_over", "arrival"] | None = None
    group_layers: Annotated[int, Field(gt=0, strict=True)] = 1
    connector: Annotated[str, one_of(CONNECTORS)] = "typical"
    handshake_us: Annotated[float, Field(ge=0, le=1e9, strict=True)] | None = None
    efficiency: Annotated[float, Field(ge=1e-6, le=1, strict=True)] | None = None
    message: Message | None = None
    messages_per_s: Annotated[float, Field(ge=1, le=1e12, strict=True)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=1e9, strict=True)] | None = None
    on_timeout: Literal["recompute", "fail"] = "recompute"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.overlaps and self.direction == "pull":
            raise ValueError(
                f"mode = {self.mode!r} sends KV while the rest of the prompt is computed, which needs room on the "
                "decoding instance before; expected direction = 'push', or mode = 'blocking'"
            )
        if self.early and self.decode_chosen == "hand_over":
            raise ValueError(
                "decode_chosen is 'hand_over', but KV is pushed to an instance that made room before the prompt was "
                "begun; expected 'arrival', or direction = 'pull'"
            )
        if "on_timeout" in self.model_fields_set and self.timeout_s is None:
            raise ValueError("on_timeout has no meaning without timeout_s; set it, or leave both out")
        if "group_layers" in self.model_fields_set and self.mode in {"blocking", "chunked"}:
            raise ValueError(f"group_layers has no meaning for mode = {self.mode!r}, expected 'layerwise' or 'grouped'")
        return self

    def as_engine_does(self, modes: Sequence[KvMode]) -> KvTransfer:
        """Return the terms of an engine that has some modes, its own first, and computes no prompt where it decodes."""
        ways: dict[str, str] = {"on_timeout": "fail"} if modes else {}
        if modes and self.direction != "pull":
            ways["mode"] = modes[0]
        return self.model_copy(update={key: way for key, way in ways.items() if key not in self.model_fields_set})

    @property
    def overlaps(self) -> bool:
        """Whether KV leaves while the prompt is computed."""
        return self.mode != "blocking"

    @property
    def early(self) -> bool:
        """Whether the decoding instance makes room before the prompt is begun."""
        return self.overlaps or self.direction == "push"

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
    nodes: Annotated[int, Field(gt=0, le=10_000, strict=True)] | None = None
    rails: Rails = "own"
    oversubscription: Annotated[float, Field(ge=1, le=1e6, strict=True)] = 1.0
    kv_transfer: KvTransfer = KvTransfer()
