"""A run of decode steps that nothing interrupts: one event, however many steps it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfdb.step_prices import StepPrices
    from simulator.clock import Clock
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.state import EngineState
    from simulator.wake_up import WakeUp

__all__ = ["DecodeRun"]


class DecodeRun:
    """The run an engine is in, if it is in one.

    Parameters
    ----------
    env, prices, state, wake_up
        Of the engine.

    Attributes
    ----------
    steps
        Steps of the run; 0 while there is none.
    start_ns
        When it began, or the step that computes prompts.
    """

    __slots__ = ("_env", "_last_ns", "_prices", "_state", "_wake_up", "start_ns", "steps")

    def __init__(self, env: Clock, prices: StepPrices, state: EngineState, wake_up: WakeUp) -> None:
        self._env, self._prices, self._state, self._wake_up = env, prices, state, wake_up
        self.steps = self.start_ns = 0
        # When the last step begins, where a cut has told; else -1.
        self._last_ns = -1

    def begin(self, steps: int) -> None:
        """Begin a run now; the engine goes on when it ends."""
        state = self._state
        self.steps, self.start_ns, self._last_ns = steps, self._env.now, -1
        self._wake_up.after(self._prices.decode_ns(state.decodes, state.context_sum // state.decodes, steps))

    def cut(self, more: int = 0) -> None:
        """Let the run end with the step under way, or the one after it where ``more`` is 1."""
        state, elapsed = self._state, self._env.now - self.start_ns
        context = state.context_sum // state.decodes
        steps, duration = self._prices.steps_covering(state.decodes, context, elapsed, self.steps)
        if steps + more < self.steps:
            self.steps, self._last_ns = steps + more, -1
            if more:
                self._last_ns = self.start_ns + duration
                duration = self._prices.decode_ns(state.decodes, context, self.steps)
            self._wake_up.move(duration - elapsed)

    def begun(self) -> int:
        """Return how many of its steps have begun before now."""
        state, elapsed = self._state, self._env.now - self.start_ns
        context = state.context_sum // state.decodes
        return self._prices.steps_covering(state.decodes, context, elapsed, self.steps)[0]

    def take_begun(self, plan: Plan | None) -> int:
        """Take the blocks of those steps that have begun, and return how many steps of the plan decode so far."""
        if not (self.steps and self._env.now > self.start_ns and plan is not None and plan.steps > 1):
            return 1 if plan is not None and plan.decodes else 0
        begun, step = self.begun(), self._state.step
        self._state.pool.take_until(step, step + begun)
        return begun

    def shorten(self, steps: int) -> int:
        """Take so many steps off its beginning, and return when they end."""
        state = self._state
        self.start_ns += self._prices.decode_ns(state.decodes, state.context_sum // state.decodes, steps)
        self.steps -= steps
        return self.start_ns

    def last_step_ns(self, steps: int) -> int:
        """Return when the last of the ``steps`` steps begins."""
        if steps == 1 or self._last_ns >= 0:
            return max(self.start_ns, self._last_ns)
        state = self._state
        return self.start_ns + self._prices.decode_ns(state.decodes, state.context_sum // state.decodes, steps - 1)
