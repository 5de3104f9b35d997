"""A request on its way from one instance to another, and what brings its KV there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.link_history import LinkSeries
    from simulator.link_use import LinkUse
    from simulator.records import TransferLog
    from simulator.request import Request
    from simulator.server import Server

__all__ = ["Carrier", "Passage", "Shipment"]


class Shipment(Protocol):
    """The KV of one request on its way."""

    def send(self, tokens: int) -> None:
        """Send the KV of ``tokens`` tokens now, and nothing after it."""
        ...

    def compute(self, tokens: int, duration_ns: int, *, last: bool) -> None:
        """Send the KV of a chunk while a step of ``duration_ns`` computes it; nothing after the last chunk."""
        ...

    def computed(self) -> None:
        """Take note that the prompt is complete."""
        ...

    def drop(self) -> None:
        """Give up what is under way."""
        ...


class Carrier(Protocol):
    """What brings KV from one instance to another.

    Attributes
    ----------
    log, feature_log
        Every transfer of KV that is over, and every one of features.
    """

    log: TransferLog
    feature_log: TransferLog

    def open(self, source: int, target: int, on_done: Callable[[], None], ranks: tuple[int, int] = (0, 0)) -> Shipment:
        """Return a transfer between ranks that has not begun; ``on_done`` is called once all of it is there."""
        ...

    def open_features(self, source: int, target: int, token_bytes: int, on_done: Callable[[], None]) -> Shipment:
        """Return a transfer of features that has not begun; ``on_done`` is called once all of it is there."""
        ...

    def place(self, instance: int, like: int, pool: int) -> None:
        """Put a new instance of a pool on the chips of an earlier one."""
        ...

    def set_capacity(self, link: int, share: float) -> None:
        """Give a link a share of the capacity it had at the beginning."""
        ...

    def link_use(self) -> LinkUse:
        """Return what each link has carried so far."""
        ...

    def link_series(self) -> LinkSeries:
        """Return what each link that was used had carried over time."""
        ...

    def bytes_under_way(self) -> int:
        """Return the bytes that were sent and have neither arrived nor been given up."""
        ...


class Passage:
    """One request on its way.

    Attributes
    ----------
    prompt
        The request as the prefill side knows it.
    entered
        It went to the prefill side, or need not wait for room to do so.
    source
        Where its prompt was computed, once it is.
    target
        Where it will decode, once that is chosen.
    wanted
        The request as the target knows it, once it queues there.
    reserved
        The target has blocks for it.
    sender, shipment
        Its KV and the instance it comes from, once some of it was sent.
    sent_tokens
        Tokens that the target had already, or whose KV was sent while they were computed.
    token_ns
        When its last token appeared; -1 before.
    early
        Its KV was there when its last step, which took longer than it had said, was not over.
    """

    __slots__ = (
        "early",
        "entered",
        "prompt",
        "reserved",
        "sender",
        "sent_tokens",
        "shipment",
        "source",
        "target",
        "token_ns",
        "wanted",
    )

    def __init__(self, prompt: Request) -> None:
        self.prompt = prompt
        self.source: Server | None = None
        self.target: Server | None = None
        self.wanted: Request | None = None
        self.entered = self.reserved = self.early = False
        self.sender: Server | None = None
        self.shipment: Shipment | None = None
        self.sent_tokens = 0
        self.token_ns = -1
