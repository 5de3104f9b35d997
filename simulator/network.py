"""``[network]``: what joins the instances, and how KV crosses it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from hardware.strict import Strict, one_of
from simulator.connectors import CONNECTORS, Connector, Message, Rails

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FeatureTransfer", "KvMode", "KvTransfer", "NetworkTable"]

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


_Millis: TypeAlias = Annotated[float, Field(ge=0, le=1e6, strict=True)]


class FeatureTransfer(Strict):
    """How what an encoder made goes to the instance that computes the prompt.

    Attributes
    ----------
    mode
        ``direct``: from chip to chip over the network, after the hand-shake of ``kv_transfer``. ``store``: through a
        store that all instances share, keyed by content, so that nothing in it is encoded again.
    prefetch
        What is encoded goes while the instance that gets it prepares the request, and the encoder goes on meanwhile;
        else one comes after the other, and the encoder waits until it is gone.
    streaming
        Each image goes as soon as it is encoded; else none before all images of the request are.
    prompt_starts
        ``complete``: a prompt is queued once all its images are there, as vLLM, SGLang and TensorRT-LLM do (vLLM's
        proxy waits for every encoder before it forwards a request). ``ready``: once some of it can be computed, which
        is up to the first image that is missing, and goes on as images come, as RServe (arXiv 2509.24381) and gLLM do.
    shard_images
        The images of one request are dealt to all encoders; else one encodes them all.
    store_latency_ms, store_gb_per_s
        Time of the store's software to put features and get them: a fixed one and a rate. By default of EPD-Serve's
        (arXiv 2601.11590, Table 3, least squares up to 1080p).
    store_capacity_gb
        What the store holds; None for no limit.
    encoder_memory_tokens
        Tokens whose features an encoder holds, those that are needed and those that are kept; None for as many as its
        chips have room for.
    encoder_kept_tokens
        Tokens whose features it keeps for equal images once nobody needs them; None for what the engine keeps.
    scheduling_ms, scheduling_us_per_token
        Between a request's coming to the instance that computes its prompt and its place in the queue there, and how
        much longer that is for each token of its images: the *scheduling latency* of EPD-Serve. It passes for every
        request, whoever encodes.
    """

    mode: Literal["direct", "store"] = "direct"
    prefetch: Annotated[bool, Field(strict=True)] = True
    streaming: Annotated[bool, Field(strict=True)] = False
    prompt_starts: Literal["complete", "ready"] = "complete"
    shard_images: Annotated[bool, Field(strict=True)] = False
    store_latency_ms: _Millis = 4.1
    store_gb_per_s: Annotated[float, Field(gt=0, le=1e6, strict=True)] = 0.252
    store_capacity_gb: Annotated[float, Field(gt=0, le=1e9, strict=True)] | None = None
    encoder_memory_tokens: Annotated[int, Field(gt=0, strict=True)] | None = None
    encoder_kept_tokens: Annotated[int, Field(ge=0, strict=True)] | None = None
    scheduling_ms: _Millis = 0.0
    scheduling_us_per_token: _Millis = 0.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        of_store = {"store_latency_ms", "store_gb_per_s", "store_capacity_gb"} & self.model_fields_set
        if self.mode != "store" and of_store:
            raise ValueError(f"{min(of_store)} has no meaning for mode = 'direct'; expected mode = 'store'")
        if self.prompt_starts == "ready" and not self.streaming:
            raise ValueError(
                "prompt_starts is 'ready', but no image leaves before all are encoded; expected streaming = true"
            )
        return self

    @property
    def delays_all(self) -> bool:
        """Whether some time passes before any request is queued."""
        return self.scheduling_ms > 0 or self.scheduling_us_per_token > 0

    def scheduling_ns(self, tokens: int) -> int:
        """Return the scheduling latency of a request with so many tokens of images."""
        return round(self.scheduling_ms * 1e6 + self.scheduling_us_per_token * 1e3 * tokens)

    def store_ns(self, size_bytes: int) -> int:
        """Return the time from one instance through the store to another."""
        return round(self.store_latency_ms * 1e6 + size_bytes / self.store_gb_per_s)


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
    feature_transfer
        How features go from encoders to where prompts are computed.
    """

    topology: str | None = None
    nodes: Annotated[int, Field(gt=0, le=10_000, strict=True)] | None = None
    rails: Rails = "own"
    oversubscription: Annotated[float, Field(ge=1, le=1e6, strict=True)] = 1.0
    kv_transfer: KvTransfer = KvTransfer()
    feature_transfer: FeatureTransfer = FeatureTransfer()
