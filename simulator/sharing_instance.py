"""An engine whose chips another one uses at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.chip_share import SharedWakeUp
from simulator.decode_run import DecodeRun
from simulator.engine_core import EngineCore
from simulator.fused_encoder import EncodingInstance

if TYPE_CHECKING:
    from perfdb.communication import Communication
    from simulator.chip_share import ChipShare, Work
    from simulator.engine_parts import EngineParts
    from simulator.schedulers.plan import Plan
    from simulator.surroundings import Surroundings

__all__ = ["SharingInstance"]


class SharingInstance(EncodingInstance):
    """One engine, each of whose steps is an event: a run of steps would not know when its neighbour begins or ends one.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`; ``around.macro_steps`` makes no difference.
    """

    def __init__(self, around: Surroundings, parts: EngineParts) -> None:
        EngineCore.__init__(self, around.by_single_steps(), parts)
        self._shared = SharedWakeUp(self.env, "compute")
        self._exchange: Communication | None = None
        self._wake_up, self._run = self._shared, DecodeRun(self.env, self.prices, self._shared)
        self._wake_up.drive(self.serve())

    def share_chips(self, share: ChipShare, exchange: Communication | None) -> None:
        """Run on chips that others use too; ``exchange`` says how much of a step communicates, if any does."""
        self._shared.share, self._exchange = share, exchange

    def _will(self, work: Work, duration_ns: int, rows: int) -> None:
        exchange = self._exchange
        self._shared.will(work, 0.0 if exchange is None else exchange.share(duration_ns, rows))

    def price_chunks(self, plan: Plan) -> int:
        """Return how long a step that computes prompts would last alone."""
        duration_ns = super().price_chunks(plan)
        self._will("compute", duration_ns, self.row[3] + self.row[5])
        return duration_ns

    def apply_chunks(self, plan: Plan) -> None:
        """Let the step be over that computes prompts, however long it was."""
        longer_ns = self.env.now - self.row[0] - self.row[1]
        if longer_ns:
            self.row[1] += longer_ns
            self.log.note_longer(longer_ns)
        super().apply_chunks(plan)

    def steps_unchanged(self, plan: Plan) -> int:
        """Return the steps of the run of decoding that begins now: one."""
        decodes, context = self.state.decodes, self.state.context_sum // self.state.decodes
        self._will("memory", self.prices.decode_ns(decodes, context) if self._exchange else 0, decodes)
        return super().steps_unchanged(plan)

    def apply_decodes(self, plan: Plan, steps: int) -> None:
        """Let a step of decoding be over, however long it was."""
        run = self._run
        longer_ns = self.env.now - run.start_ns - self.prices.decode_ns(run.decodes, run.context)
        if longer_ns:
            self.log.note_longer(longer_ns)
        super().apply_decodes(plan, steps)
