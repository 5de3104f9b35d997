"""A request on its way from its arrival, past encoders, to where its prompt is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.encode_instance import EncodeInstance
    from simulator.passage import Shipment
    from simulator.request import Request
    from simulator.request_media import Encodable
    from simulator.server import Server

__all__ = ["Visit"]


class Visit:
    """One request on its way.

    Parameters
    ----------
    request
        Who.
    items
        What is encoded for it, or was.
    tokens
        Tokens of its images, whoever encodes them.

    Attributes
    ----------
    key
        Names it: a request that starts over comes anew.
    items
        One for each content, by content.
    sources
        The instance that encoded each content, or is about to; None where it was in the store.
    held, pinned
        Instances that hold features for it, by content, and contents that the store keeps for it.
    encoded, sent, there
        Contents that are encoded, under way to the target, and there.
    shipments
        What is under way over the network, by content.
    goes_on, target
        It goes on to where its prompt will be computed, and that, once it is chosen.
    preparing, prepared, queued
        The target prepares it, has done so, and has it in its queue.
    gone
        It is nobody's any more.
    """

    __slots__ = (
        "encoded",
        "goes_on",
        "gone",
        "held",
        "items",
        "key",
        "pinned",
        "prepared",
        "preparing",
        "queued",
        "request",
        "sent",
        "shipments",
        "sources",
        "target",
        "there",
        "tokens",
    )

    def __init__(self, request: Request, items: Sequence[Encodable], tokens: int) -> None:
        self.request, self.key, self.tokens = request, (request.index, request.epoch), tokens
        self.items = {item.content: item for item in items}
        self.sources: dict[int, EncodeInstance | None] = {}
        self.held: dict[int, EncodeInstance] = {}
        self.pinned: set[int] = set()
        self.encoded: set[int] = set()
        self.sent: set[int] = set()
        self.there: set[int] = set()
        self.shipments: dict[int, tuple[Shipment, EncodeInstance | None]] = {}
        self.target: Server | None = None
        self.goes_on = self.prepared = self.preparing = self.queued = self.gone = False

    @property
    def complete(self) -> bool:
        """Whether all of it is encoded."""
        return len(self.encoded) == len(self.items)

    def drop_shipment(self, content: int) -> None:
        """Give up what is under way; the instance that waited for that goes on."""
        shipment, waits = self.shipments.pop(content, (None, None))
        self.sent.discard(content)
        if shipment is not None:
            shipment.drop()
        if waits is not None and waits.ended_ns < 0:
            waits.resume()

    def forget_target(self) -> None:
        """Give up what is under way to an instance that is gone."""
        for content in list(self.shipments):
            self.drop_shipment(content)
        self.sent, self.there = set(), set()
        self.target = None
        self.goes_on = self.prepared = self.preparing = self.queued = False
