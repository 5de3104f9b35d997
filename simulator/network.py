"""``[network]``: what joins the instances, and how KV crosses it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hardware.strict import Strict

__all__ = ["KvTransfer", "NetworkTable"]


class KvTransfer(Strict):
    """How KV is handed over.

    Attributes
    ----------
    mode
        ``blocking``: all of it, once the prompt is computed. ``layerwise``: every layer as soon as it is
        computed, without waiting for an answer. ``grouped``: groups of adjacent layers as soon as they are
        computed, each after a hand-shake of its own, one at a time.
    direction
        ``pull``: the decoding instance is asked for room once the prompt is computed, and fetches the KV.
        ``push``: it makes room before the prompt is begun, and the KV is written to it; a prompt waits until
        there is room. Layers that leave while others are computed need the room before: they are pushed.
    decode_chosen
        When the decoding instance is chosen: at ``hand_over`` or at ``arrival``. Default: at hand-over where KV
        is pulled; where it is pushed, at arrival, which is the only choice.
    group_layers
        Layers of a group.
    handshake_us
        Set-up of a transfer before its first byte. Default: the constant of Mooncake's transfers between
        H800 nodes over eight NICs (vLLM disaggregation benchmark, fitted).
    efficiency
        Share of a link's nominal rate that transfers reach together. Default: 171 of 200 GB/s between H20
        nodes (Mooncake's SGLang benchmark); NVLink between two H100 reaches 380 of 450 GB/s.
    timeout_s
        A transfer that takes longer is given up; None for no limit.
    on_timeout
        ``recompute``: the decoding instance computes the prompt itself. ``fail``: the request fails.
    """

    mode: Literal["blocking", "layerwise", "grouped"] = "blocking"
    direction: Literal["pull", "push"] | None = None
    decode_chosen: Literal["hand_over", "arrival"] | None = None
    group_layers: Annotated[int, Field(gt=0, strict=True)] = 1
    handshake_us: Annotated[float, Field(ge=0, le=1e9)] = 380.0
    efficiency: Annotated[float, Field(gt=0, le=1)] = 0.85
    timeout_s: Annotated[float, Field(gt=0, le=1e9, strict=True)] | None = None
    on_timeout: Literal["recompute", "fail"] = "recompute"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.overlaps and self.direction == "pull":
            raise ValueError(
                f"mode = {self.mode!r} sends layers while others are computed, which needs room on the decoding "
                "instance before; expected direction = 'push', or mode = 'blocking'"
            )
        if self.early and self.decode_chosen == "hand_over":
            raise ValueError(
                "decode_chosen is 'hand_over', but KV is pushed to an instance that made room before the prompt was "
                "begun; expected 'arrival', or direction = 'pull'"
            )
        if "group_layers" in self.model_fields_set and self.mode != "grouped":
            raise ValueError(f"group_layers has no meaning for mode = {self.mode!r}, expected mode = 'grouped'")
        return self

    @property
    def overlaps(self) -> bool:
        """Whether KV leaves while the prompt is computed."""
        return self.mode != "blocking"

    @property
    def early(self) -> bool:
        """Whether the decoding instance makes room before the prompt is begun."""
        return self.overlaps or self.direction == "push"


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
