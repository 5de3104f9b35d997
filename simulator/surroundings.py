"""Where an instance stands: its clock and number, where it writes, and whom it tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simulator.records import StepLog

if TYPE_CHECKING:
    from simulator.clock import Clock
    from simulator.records import Ledger

__all__ = ["Surroundings"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an instance is given besides the parts of its pool.

    Attributes
    ----------
    env
        The simulation; its clock counts integer nanoseconds.
    number
        Position among all instances, written to the ledger.
    ledger, log
        Where times are written.
    watcher
        Told what happens: :class:`simulator.watcher.Watcher` of an engine, or
        :class:`simulator.encode_instance.EncodeWatcher` of an instance that encodes alone.
    tells_chunks
        The watcher is told of every chunk of a prompt when its step begins.
    macro_steps
        Advance unchanged decode steps in one event. Off, every step is an event; results are the same.
    """

    env: Clock
    number: int
    ledger: Ledger
    log: StepLog
    watcher: Any
    tells_chunks: bool = False
    macro_steps: bool = True

    def inside(self, owner: object) -> Surroundings:
        """Return those of one of several engines that an instance is made of: a log of its own, and whom it tells."""
        return replace(self, log=StepLog(), watcher=owner)

    def by_single_steps(self) -> Surroundings:
        """Return those of an instance whose every step is an event."""
        return replace(self, macro_steps=False)
