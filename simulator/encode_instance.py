"""An instance that encodes images, videos and sounds, and nothing else."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol

from hardware.errors import LawError
from simulator.chip_share import SharedWakeUp
from simulator.records import EncodeLog

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from perfdb.communication import Communication
    from perfdb.encoder_prices import EncoderCosts
    from simulator.chip_share import ChipShare
    from simulator.engine_core import EngineCore
    from simulator.request import Request
    from simulator.request_media import Encodable
    from simulator.surroundings import Surroundings

__all__ = ["EncodeInstance", "EncodeParts", "EncodeWatcher", "Errand"]

_NO_LIMIT: Final = 1 << 62


class Errand(NamedTuple):
    """An item to be encoded, and the request that was the first to ask for it."""

    request: Request
    item: Encodable


class EncodeWatcher(Protocol):
    """Whoever an encoding instance tells what it does."""

    def encoding(self, errands: Sequence[Errand]) -> None:
        """Take note that a run over some items has begun."""
        ...

    def encoded(self, instance: EncodeInstance, errands: Sequence[Errand]) -> None:
        """Take note that it is over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeParts:
    """What the instances of a pool share that encodes alone; see :class:`simulator.engine_parts.EngineParts`.

    Attributes
    ----------
    costs
        Prices of runs.
    replicas
        Instances.
    most_tokens, most_items
        Tokens and items of one run; an item of more tokens runs alone.
    blocks
        Tokens whose features there is room for on an instance.
    kept_tokens
        Tokens whose features are kept for equal inputs once nobody waits for them.
    """

    encodes: ClassVar[bool] = True
    prefills: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    max_tokens: ClassVar[int] = _NO_LIMIT
    max_prompt: ClassVar[int] = _NO_LIMIT
    front_end: ClassVar[None] = None
    ranks: ClassVar[int] = 1

    costs: EncoderCosts
    replicas: int
    most_tokens: int
    most_items: int
    blocks: int = _NO_LIMIT
    kept_tokens: int = 0


class EncodeInstance:
    """A queue of items, and the runs of the encoder over them: first come, first served.

    Whoever sends items away again without overlapping that with the next run says so by :meth:`hold`.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`; what it does for decoding does not concern it.

    Attributes
    ----------
    log
        Its runs.
    """

    decodes_here = False
    cores: Sequence[EngineCore] = ()

    def __init__(self, around: Surroundings, parts: EncodeParts) -> None:
        self.env, self.number, self.parts = around.env, around.number, parts
        self.watcher: EncodeWatcher = around.watcher
        self.log = EncodeLog()
        self.started_ns, self.ended_ns = self.env.now, -1
        self._queue: deque[Errand] = deque()
        self._running: list[Errand] = []
        self._holds = 0
        self._exchange: Communication | None = None
        self._wake_up = SharedWakeUp(self.env, "compute")
        self._wake_up.drive(self.serve())

    def share_chips(self, share: ChipShare, exchange: Communication | None) -> None:
        """Run on chips that others use too; ``exchange`` says how much of a run communicates, if any does."""
        self._wake_up.share, self._exchange = share, exchange

    @property
    def step_logs(self) -> Sequence[EncodeLog]:
        """The log that says how long its runs were."""
        return (self.log,)

    @property
    def waiting(self) -> int:
        """Items that wait or are being encoded."""
        return len(self._queue) + len(self._running)

    def encode(self, errand: Errand) -> None:
        """Queue an item now."""
        self._queue.append(errand)
        self._go_on()

    def drop(self, content: int) -> None:
        """Take an item out of the queue that nobody needs any more, unless it is being encoded."""
        self._queue = deque(errand for errand in self._queue if errand.item.content != content)

    def hold(self) -> None:
        """Begin no run until :meth:`resume` was called as often."""
        self._holds += 1

    def resume(self) -> None:
        """Begin runs again, unless somebody else holds it still."""
        self._holds -= 1
        self._go_on()

    def stop(self) -> list[Request]:
        """End the instance now; nobody was on it but items, which others encode."""
        self._wake_up.silence()
        self.ended_ns = self.env.now
        self._running, self._queue = [], deque()
        return []

    def serve(self) -> Generator[None, Any, None]:
        """Run the encoder for ever."""
        while True:
            if self._queue and not self._holds:
                self._running = self._next_run()
                self.watcher.encoding(self._running)
                costs, started_ns = self.parts.costs, self.env.now
                work = costs.slowest([errand.item.seen for errand in self._running])
                duration_ns = costs.work_ns(work)
                if self._exchange is not None:
                    self._wake_up.will("compute", self._exchange.share(duration_ns, work.patches, work.tokens))
                self._wake_up.after(duration_ns)
                yield
                self.log.add((started_ns, self.env.now - started_ns, 1, *work))
                done, self._running = self._running, []
                self.watcher.encoded(self, done)
            else:
                self._wake_up.when_rung()
                yield

    def _next_run(self) -> list[Errand]:
        """Take the items of the next run from the head of the queue: one, and as many more as may run with it."""
        parts, queue = self.parts, self._queue
        found = [queue.popleft()]
        left = parts.most_tokens - found[0].item.tokens
        while queue and len(found) < parts.most_items and queue[0].item.tokens <= left:
            left -= queue[0].item.tokens
            found.append(queue.popleft())
        return found

    def _go_on(self) -> None:
        if self._wake_up.asleep and self._queue and not self._holds and self.ended_ns < 0:
            self._wake_up.move(0)

    def rank_of(self, request: Request) -> int:  # noqa: ARG002 - of a server that has several
        """Return 0: it has one rank."""
        return 0

    def submit(self, request: Request) -> None:
        """Refuse what is no item: a bug of the caller."""
        raise LawError(f"instance {self.number} encodes, and was given request {request.index} to serve")

    deliver = cancel = recompute = submit

    def release(self, request: Request, *, sent: bool = False) -> None:
        """Refuse what is no item: a bug of the caller."""
        del sent
        self.submit(request)
