"""Arrival processes: when each request of a synthetic workload is sent.

Every process keeps its own first gap, as ``vllm bench serve`` does: at a constant rate the first request
arrives after ``1 / rate`` and the last of N at ``N / rate``.
"""

from __future__ import annotations

import math
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from hardware.errors import ScenarioError
from hardware.strict import Strict
from workloads.limits import LAST_ARRIVAL_NS, NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.random import Generator
    from numpy.typing import NDArray

    from workloads.shapes import Floats
    from workloads.table import IntColumn

__all__ = [
    "ARRIVAL_PROCESSES",
    "ArrivalProcess",
    "Burst",
    "Constant",
    "Gamma",
    "Listed",
    "MarkovModulated",
    "MarkovState",
    "Poisson",
    "Ramp",
    "Weibull",
]

Rate: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]

_SEGMENTS_AT_ONCE: Final = 4096
_FEWEST_PER_STAY: Final = 1e-3


def _to_ns(times_s: Floats) -> IntColumn:
    """Round seconds to whole nanoseconds; order is kept."""
    if times_s[-1] * NS_PER_S > LAST_ARRIVAL_NS:
        raise ScenarioError(
            f"workload arrivals: the last request would arrive after {times_s[-1]:.3g} s (over 146 years),"
            " expected a higher rate or fewer requests"
        )
    return np.rint(times_s * NS_PER_S).astype(np.int64)


class Burst(Strict):
    """Everything arrives at time zero (``--request-rate inf`` of ``vllm bench serve``)."""

    kind: Literal["burst"] = "burst"

    def times_ns(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] zeros; the generator is not touched."""
        del rng
        return np.zeros(size, dtype=np.int64)


class Constant(Strict):
    """One request every ``1 / rate_per_s`` seconds."""

    kind: Literal["constant"] = "constant"
    rate_per_s: Rate

    def times_ns(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] arrival times; the generator is not touched."""
        del rng
        return _to_ns(np.arange(1, size + 1) / self.rate_per_s)


class Poisson(Strict):
    """Independent exponential gaps of mean ``1 / rate_per_s``, never rescaled."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: Rate

    def times_ns(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] arrival times."""
        return _to_ns(np.cumsum(rng.exponential(1 / self.rate_per_s, size)))


class Gamma(Strict):
    """Gamma gaps with the burstiness of ``vllm bench serve``.

    Gaps are gamma of shape ``burstiness`` and scale ``1 / (rate_per_s * burstiness)``, so their coefficient
    of variation is ``1 / sqrt(burstiness)``: below 1 is burstier than Poisson, 1 is Poisson, above is
    smoother. Source: ``get_request`` of vLLM's ``benchmarks/serve.py``.

    Attributes
    ----------
    rescale
        Stretch all times so that the last of N lands exactly at ``N / rate_per_s``, as vLLM does.
    """

    kind: Literal["gamma"] = "gamma"
    rate_per_s: Rate
    burstiness: float = Field(default=1.0, ge=1e-4, le=1e6)
    rescale: bool = True

    def times_ns(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] arrival times."""
        times_s = np.cumsum(rng.gamma(self.burstiness, 1 / (self.rate_per_s * self.burstiness), size))
        # A very bursty, very short sample can have no gap at all: there is then nothing to stretch.
        if self.rescale and times_s[-1] > 0:
            times_s *= size / self.rate_per_s / times_s[-1]
        return _to_ns(times_s)


class Weibull(Strict):
    """Weibull gaps of mean ``1 / rate_per_s``: ``shape`` below 1 is burstier than Poisson, 1 is Poisson."""

    kind: Literal["weibull"] = "weibull"
    rate_per_s: Rate
    shape: float = Field(ge=0.1, le=1e3)

    def times_ns(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] arrival times."""
        # The mean of a Weibull variable of scale 1 is gamma(1 + 1 / shape).
        scale_s = 1 / (self.rate_per_s * math.gamma(1 + 1 / self.shape))
        return _to_ns(np.cumsum(scale_s * rng.weibull(self.shape, size)))


class Listed(Strict):
    """Given times, stretched so that the last of N requests lands at ``N / rate_per_s``: the seed changes nothing.

    One pattern of arrivals at any rate, as a benchmark sends it that draws its gaps once.

    Attributes
    ----------
    times
        Of each request in any unit, never falling; of more than are needed, the first count.
    """

    kind: Literal["listed"] = "listed"
    rate_per_s: Rate
    times: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        late = next((i for i, (a, b) in enumerate(pairwise(self.times), 1) if b < a), None)
        if late is not None:
            raise ValueError(f"times fall from {self.times[late - 1]:g} to {self.times[late]:g}, expected them to rise")
        return self

    def times_ns(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] arrival times; the generator is not touched.

        Raises
        ------
        ScenarioError
            If there are fewer times than requests, or no time passes.
        """
        del rng
        if size > len(self.times) or not self.times[size - 1]:
            raise ScenarioError(
                f"workload arrivals: found {len(self.times)} listed times for {size} requests, expected one for each, "
                "and a last one above 0"
            )
        times_s = np.array(self.times[:size])
        return _to_ns(times_s * (size / self.rate_per_s / times_s[-1]))


class Ramp(Strict):
    """Exponential gaps whose rate moves from ``start_per_s`` to ``end_per_s`` by request index.

    Request ``i`` of N has progress ``i / (N - 1)``; a linear ramp adds in proportion, an exponential one
    multiplies. Not rescaled. Source: ``--ramp-up-strategy`` in vLLM's ``benchmarks/serve.py``.
    """

    kind: Literal["ramp"] = "ramp"
    start_per_s: Rate
    end_per_s: Rate
    strategy: Literal["linear", "exponential"] = "linear"

    def rates_per_s(self, size: int) -> Floats:
        """Return float64[size], the rate in force before each request."""
        progress = np.arange(size) / max(size - 1, 1)
        if self.strategy == "exponential":
            return self.start_per_s * (self.end_per_s / self.start_per_s) ** progress
        return self.start_per_s + (self.end_per_s - self.start_per_s) * progress

    def times_ns(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] arrival times."""
        return _to_ns(np.cumsum(rng.standard_exponential(size) / self.rates_per_s(size)))


class MarkovState(Strict):
    """One state of a Markov-modulated process: its Poisson rate (0 is silence) and its mean stay."""

    rate_per_s: float = Field(ge=0, le=1e9)
    mean_s: float = Field(gt=0, le=1e9)


class MarkovModulated(Strict):
    """A Poisson process whose rate jumps between states, each held for an exponential time.

    The first state is drawn in proportion to the time spent in each, so the process is stationary and its
    mean rate is ``sum(rate * mean) / sum(mean)``.

    Attributes
    ----------
    states
        Two or more.
    switching
        ``cyclic`` visits them in order; ``random`` jumps to any other state, all equally likely.
    """

    kind: Literal["mmpp"] = "mmpp"
    states: tuple[MarkovState, ...] = Field(min_length=2)
    switching: Literal["cyclic", "random"] = "cyclic"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        arrivals_per_stay = sum(s.rate_per_s * s.mean_s for s in self.states) / len(self.states)
        if arrivals_per_stay < _FEWEST_PER_STAY:
            raise ValueError(
                f"states bring {arrivals_per_stay:.3g} arrivals per stay on average,"
                f" expected at least {_FEWEST_PER_STAY} (raise rate_per_s or mean_s)"
            )
        return self

    @property
    def mean_rate_per_s(self) -> float:
        """The long-run arrival rate."""
        return sum(s.rate_per_s * s.mean_s for s in self.states) / sum(s.mean_s for s in self.states)

    def times_ns(self, rng: Generator, size: int) -> IntColumn:
        """Return int64[size] arrival times.

        A unit-rate Poisson stream is mapped through the inverse of the cumulative rate, which is a broken
        line with one piece per stay in a state.
        """
        unit = np.cumsum(rng.standard_exponential(size))
        times_s = np.empty(size)
        done = 0
        for expected, corners_s in self._cumulative_rate(rng):
            upto = int(np.searchsorted(unit, expected[-1], side="right"))
            times_s[done:upto] = np.interp(unit[done:upto], expected, corners_s)
            done = upto
            if done == size:
                break
        return _to_ns(times_s)

    def _cumulative_rate(self, rng: Generator) -> Iterator[tuple[Floats, Floats]]:
        """Yield, block by block and without end, the corners (expected arrivals, seconds) of the line."""
        rates = np.array([s.rate_per_s for s in self.states])
        means_s = np.array([s.mean_s for s in self.states])
        state = int(rng.choice(len(self.states), p=means_s / means_s.sum()))
        expected, time_s = np.zeros(1), np.zeros(1)
        while True:
            visited = self._visits(rng, state)
            stays_s = rng.exponential(means_s[visited])
            expected = np.cumsum(np.append(expected[-1], rates[visited] * stays_s))
            time_s = np.cumsum(np.append(time_s[-1], stays_s))
            yield expected, time_s
            state = int(visited[-1] + self._jumps(rng, 1)[0]) % len(self.states)

    def _visits(self, rng: Generator, state: int) -> NDArray[np.int64]:
        """Return the next states in the order they are visited, ``state`` first."""
        jumps = np.concatenate(([state], self._jumps(rng, _SEGMENTS_AT_ONCE - 1)))
        return np.cumsum(jumps) % len(self.states)

    def _jumps(self, rng: Generator, count: int) -> NDArray[np.int64]:
        if self.switching == "cyclic":
            return np.ones(count, dtype=np.int64)
        return rng.integers(1, len(self.states), count)


ArrivalProcess: TypeAlias = Annotated[
    Burst | Constant | Poisson | Gamma | Weibull | Listed | MarkovModulated | Ramp,
    Field(discriminator="kind"),
]
"""The type of a scenario key that takes any arrival process."""

ARRIVAL_PROCESSES: Final[Mapping[str, type[ArrivalProcess]]] = MappingProxyType(
    {
        "burst": Burst,
        "constant": Constant,
        "gamma": Gamma,
        "listed": Listed,
        "mmpp": MarkovModulated,
        "poisson": Poisson,
        "ramp": Ramp,
        "weibull": Weibull,
    }
)
"""Every ``kind`` of arrival process."""
