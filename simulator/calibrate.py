"""Fit the constants of a calibration to measured runs of a server.

At most eight constants, each with the value that is usual for the engine as a prior, so that what the runs do not tell
stays as it is. Gauss-Newton steps on the relative errors of mean latencies, with derivatives by simulation
(``docs/decisions/022-calibration.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from hardware.catalogue import load_chip
from simulator.calibration import Calibration, Fitted
from simulator.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from simulator.pool_table import Pool
    from simulator.scenario import Scenario

__all__ = ["CONSTANTS", "Constant", "Fit", "Measured", "fit"]


class Measured(Protocol):
    """What a fit is held against."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        ...

    @property
    def scenario(self) -> Scenario:
        """The server."""
        ...

    @property
    def figures(self) -> Mapping[str, float]:
        """Latencies as measured, all above 0."""
        ...

    def predicted(self, calibration: Calibration) -> Mapping[str, float]:
        """Return the same latencies as simulated."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant that may be fitted.

    Attributes
    ----------
    table, name
        Where it stands in a calibration.
    spread
        How far it usually lies from what is usual, one standard deviation: ns, or the logarithm of a factor.
    """

    table: str
    name: str
    spread: float

    @property
    def is_factor(self) -> bool:
        """Whether it multiplies."""
        return self.table == "kernels"

    def moved(self, usual: float, steps: float) -> float:
        """Return its value so many standard deviations from the usual one."""
        if self.is_factor:
            return round(float(np.clip(usual * np.exp(self.spread * steps), 0.05, 20.0)), 6)
        return max(0, round(usual + self.spread * steps))

    def uncertain(self, value: float, deviation: float) -> float:
        """Return the standard deviation of a value, in its unit, from that of the steps."""
        return round(value * self.spread * deviation, 6) if self.is_factor else float(round(self.spread * deviation))


#: What can be fitted. Spreads: host and front end, what published runs of one engine differ by (decision 005, and 10 ms
#: of HTTP and tokenisation); kernels, what the tables miss measured steps by.
CONSTANTS: Final = (
    Constant("host", "step_ns", 500_000),
    Constant("host", "sequence_ns", 15_000),
    Constant("front_end", "latency_ns", 10_000_000),
    Constant("front_end", "request_ns", 1_000_000),
    Constant("kernels", "per_token", 0.2),
    Constant("kernels", "context_attention", 0.2),
    Constant("kernels", "generation_attention", 0.2),
    Constant("kernels", "collectives", 0.2),
)

#: Relative error of a mean latency that is expected of the best constants.
_NOISE: Final = 0.02
#: Scheduling makes latencies jump with small changes of a constant, so that derivatives are taken over a whole spread.
_DELTA: Final = 1.0
_MOST_STEPS: Final = 12
_CONVERGED: Final = 1e-3
_DAMPINGS: Final = (0.0, 0.03, 0.3, 3.0, 30.0)


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of a fit.

    Attributes
    ----------
    calibration
        The constants, with what they rest on.
    constants, usual, values, deviations
        What was fitted, from where, to what, and the standard deviation of each, in its own unit.
    told
        Share of what is known of each constant that the runs told, 0 to 1; the rest is the prior.
    before, after
        Figures of each run over what was measured, by run and figure.
    """

    calibration: Calibration
    constants: tuple[Constant, ...]
    usual: tuple[float, ...]
    values: tuple[float, ...]
    deviations: tuple[float, ...]
    told: tuple[float, ...]
    before: tuple[Mapping[str, float], ...]
    after: tuple[Mapping[str, float], ...]


def fit(runs: Sequence[Measured], on_step: Callable[[float], None] | None = None) -> Fit:
    """Fit a calibration to measured runs of one engine on one kind of chip.

    Parameters
    ----------
    runs
        What was measured.
    on_step
        Told the error after each step.

    Raises
    ------
    UserError
        If a run cannot be simulated.
    """
    first = runs[0].scenario.pool[0]
    constants = tuple(c for c in CONSTANTS if c.name != "collectives" or _several_chips(runs))
    problem = _Problem(runs, constants, _usual(first, constants))
    steps, ratios = np.zeros(len(constants)), problem.errors(np.zeros(len(constants)))
    before = ratios
    for _ in range(_MOST_STEPS):
        slopes = problem.slopes(steps, ratios)
        found = problem.improved(steps, ratios, slopes)
        if found is None:
            break
        gain = problem.cost(steps, ratios) - problem.cost(*found)
        steps, ratios = found
        if on_step is not None:
            on_step(_rms(ratios))
        if gain < _CONVERGED * problem.cost(steps, ratios):
            break
    return problem.result(steps, before, ratios)


def _several_chips(runs: Sequence[Measured]) -> bool:
    return any(pool.tensor_parallel > 1 for run in runs for pool in run.scenario.pool)


def _usual(pool: Pool, constants: Sequence[Constant]) -> tuple[float, ...]:
    """Return what a pool has of each constant without a calibration."""
    engine = ENGINES[pool.engine]
    chip = load_chip(pool.chip)
    plan = engine.filled(pool.engine_options, chip, 1, "pool").plan(prefills=pool.prefills)
    host = engine.host_on(chip, pool.tensor_parallel, ahead=plan.plans_ahead, answer_ns=plan.answer_ns)
    known = {"host": host, "front_end": engine.front_end, "kernels": Calibration().kernels}
    return tuple(float(getattr(known[constant.table], constant.name)) for constant in constants)


def _rms(errors: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(errors**2)))


class _Problem:
    """The least squares: errors of all figures, and distances of the constants from what is usual."""

    def __init__(self, runs: Sequence[Measured], constants: tuple[Constant, ...], usual: tuple[float, ...]) -> None:
        self.runs, self.constants, self.usual = runs, constants, usual
        pairs = zip(constants, usual, strict=True)
        self.lowest = np.array(
            [-np.inf if constant.is_factor else -value / constant.spread for constant, value in pairs]
        )

    def values(self, steps: NDArray[np.float64]) -> tuple[float, ...]:
        moved = zip(self.constants, self.usual, steps, strict=True)
        return tuple(constant.moved(usual, float(step)) for constant, usual, step in moved)

    def calibration(self, steps: NDArray[np.float64]) -> Calibration:
        tables: dict[str, dict[str, float]] = {}
        for constant, value in zip(self.constants, self.values(steps), strict=True):
            tables.setdefault(constant.table, {})[constant.name] = value
        return Calibration.model_validate(tables)

    def errors(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logarithm of simulated over measured, for every figure of every run."""
        calibration = self.calibration(steps)
        pairs = [(run.predicted(calibration), run.figures) for run in self.runs]
        return np.log([found[name] / figures[name] for found, figures in pairs for name in figures])

    def slopes(self, steps: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
        moves = np.eye(len(steps)) * _DELTA
        return np.column_stack([(self.errors(steps + move) - errors) / _DELTA for move in moves])

    def cost(self, steps: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
        return float(errors @ errors / _NOISE**2 + steps @ steps)

    def improved(
        self, steps: NDArray[np.float64], errors: NDArray[np.float64], slopes: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return better steps and their errors, None if no damping of Gauss and Newton's finds any."""
        normal = slopes.T @ slopes / _NOISE**2 + np.eye(len(steps))
        downhill = -(slopes.T @ errors / _NOISE**2 + steps)
        for damping in _DAMPINGS:
            way = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), downhill)
            tried = np.maximum(steps + way, self.lowest)
            found = self.errors(tried)
            if self.cost(tried, found) < self.cost(steps, errors):
                return tried, found
        return None

    def result(self, steps: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]) -> Fit:
        slopes, values = self.slopes(steps, after), self.values(steps)
        noise = max(_NOISE, _rms(after))
        spread = np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes / noise**2 + np.eye(len(steps)))))
        pairs = zip(self.constants, values, spread, strict=True)
        deviations = tuple(constant.uncertain(value, float(one)) for constant, value, one in pairs)
        record = Fitted(
            runs=tuple(run.name for run in self.runs),
            error_before=round(_rms(before), 4),
            error_after=round(_rms(after), 4),
            uncertainty={constant.name: one for constant, one in zip(self.constants, deviations, strict=True)},
        )
        return Fit(
            self.calibration(steps).model_copy(update={"fit": record}),
            self.constants,
            self.usual,
            values,
            deviations,
            tuple(float(1 - one**2) for one in spread),
            self._by_run(before),
            self._by_run(after),
        )

    def _by_run(self, errors: NDArray[np.float64]) -> tuple[Mapping[str, float], ...]:
        ratios = iter(np.exp(errors).tolist())
        return tuple({name: next(ratios) for name in run.figures} for run in self.runs)
