"""A run of decode steps that nothing interrupts: one event, however many steps it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfdb.step_prices import DecodeCurve

if TYPE_CHECKING:
    from perfdb.step_prices import StepPrices
    from simulator.clock import Clock
    from simulator.wake_up import WakeUp

__all__ = ["DecodeRun"]


class DecodeRun:
    """The run an engine is in, if it is in one.

    Parameters
    ----------
    env, prices, wake_up
        Of the engine.

    Attributes
    ----------
    steps
        Steps of the run; 0 while there is none.
    start_ns
        When it began, or the step that computes prompts.
    decodes, context
        The batch it lasts as long as: sequences, and the floor of their mean context before the first step.
    """

    __slots__ = ("_curve", "_env", "_last_ns", "_prices", "_wake_up", "context", "decodes", "start_ns", "steps")

    def __init__(self, env: Clock, prices: StepPrices, wake_up: WakeUp) -> None:
        self._env, self._prices, self._wake_up = env, prices, wake_up
        self.steps = self.start_ns = self.decodes = self.context = 0
        # Of a step of the batch.
        self._curve = DecodeCurve([0], [0], [0], [0])
        # When the last step begins, where a cut has told; else -1.
        self._last_ns = -1

    def begin(self, steps: int, decodes: int, context: int) -> None:
        """Begin a run now; the engine goes on when it ends."""
        self.steps, self.decodes, self.context = steps, decodes, context
        self.start_ns, self._last_ns = self._env.now, -1
        self._curve = self._prices.step_curve(decodes)
        self._wake_up.after(self._curve.between(context, context + steps))

    def begin_one(self, duration_ns: int) -> None:
        """Begin a step now whose duration is known; the engine goes on when it ends."""
        self.steps, self.start_ns, self._last_ns = 1, self._env.now, -1
        self._wake_up.after(duration_ns)

    def cut(self, more: int = 0) -> None:
        """Let the run end with the step under way, or ``more`` steps after it."""
        elapsed = self._env.now - self.start_ns
        steps, duration = self._curve.covering(self.context, elapsed, self.steps)
        if steps + more < self.steps:
            self.steps = steps + more
            self._last_ns = self.start_ns + duration if more == 1 else -1
            if more:
                duration = self.lasting_ns(self.steps)
            self._wake_up.move(duration - elapsed)

    def lasting_ns(self, steps: int) -> int:
        """Return how long so many of its steps last."""
        return self._curve.between(self.context, self.context + steps)

    def begun(self) -> int:
        """Return how many of its steps have begun before now."""
        if self.steps == 1:
            return 1
        return self._curve.covering(self.context, self._env.now - self.start_ns, self.steps)[0]

    def known_ns(self) -> int:
        """Return when the step before the one under way began: plans made ahead know of what came by then; or -1."""
        before = self.begun() - 2
        return self.start_ns + self.lasting_ns(before) if before >= 0 else -1

    def shorten(self, steps: int) -> int:
        """Take so many steps off its beginning, and return when they end."""
        self.start_ns += self.lasting_ns(steps)
        self.steps -= steps
        self.context += steps
        return self.start_ns

    def last_step_ns(self, steps: int) -> int:
        """Return when the last of the ``steps`` steps begins."""
        if steps == 1 or self._last_ns >= 0:
            return max(self.start_ns, self._last_ns)
        return self.start_ns + self.lasting_ns(steps - 1)
