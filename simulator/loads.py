"""The loads of a sweep: a grid of rates or of concurrencies, and the scenario at each."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from hardware.errors import ScenarioError, UserError
from simulator.requests import build_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulator.scenario import Scenario

__all__ = [
    "LOAD_UNITS",
    "LoadKind",
    "capacity_per_chip",
    "check_loads",
    "load_kind",
    "loader",
    "parse_grid",
    "workload_kind",
]

LoadKind: TypeAlias = Literal["rate", "concurrency"]
"""Requests per second of an open loop, or users of a closed one."""

LOAD_UNITS: Final[Mapping[LoadKind, str]] = {"rate": "requests/s", "concurrency": "users"}
"""What a load is counted in."""

_MOST_LOADS: Final = 1000


def capacity_per_chip(found: Mapping[str, Any]) -> float | None:
    """Return what a chip carries of a deployment whose sweep found so much; None where no load keeps the SLO."""
    return None if found["capacity"] is None else float(found["capacity"] / found["chips"])


def parse_grid(text: str, kind: LoadKind) -> tuple[Decimal, ...]:
    """Return the loads that ``LOW:HIGH:STEP`` stands for, the highest included where a step leads to it.

    Decimal, so that ``0.1:0.3:0.1`` is what it looks like.

    Examples
    --------
    >>> [float(rate) for rate in parse_grid("0.1:0.35:0.1", "rate")]
    [0.1, 0.2, 0.3]

    Raises
    ------
    UserError
        If the text is not three positive numbers (whole ones for a concurrency), ``HIGH`` is below ``LOW``, or
        there are over a thousand loads.
    """
    option = f"--{kind} {text}"
    parts = text.split(":")
    if len(parts) != 3:
        raise UserError(f"{option}: found {len(parts)} numbers, expected LOW:HIGH:STEP, for example 1:20:1")
    low, high, step = (_number(part, option, kind) for part in parts)
    if high < low:
        raise UserError(f"{option}: HIGH {high} is below LOW {low}, expected LOW:HIGH:STEP, for example 1:20:1")
    if (high - low) / step >= _MOST_LOADS:
        raise UserError(f"{option}: over {_MOST_LOADS} loads, expected a larger STEP")
    return tuple(low + number * step for number in range(int((high - low) / step) + 1))


def _number(text: str, option: str, kind: LoadKind) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise UserError(f"{option}: {text!r} is no number, expected LOW:HIGH:STEP, for example 1:20:1") from None
    if not (found.is_finite() and 0 < found <= 10**9):
        raise UserError(f"{option}: found {text}, expected a positive number of at most a billion")
    if kind == "concurrency" and found != int(found):
        raise UserError(f"{option}: found {text}, expected a whole number of users")
    return found


def load_kind(scenario: Scenario) -> LoadKind:
    """Return what the load of a scenario's workload is."""
    return "rate" if scenario.workload.closed_loop is None else "concurrency"


def workload_kind(scenario: Scenario) -> Literal["trace", "synthetic", "closed_loop"]:
    """Return which kind of workload a scenario has."""
    workload = scenario.workload
    if workload.trace is not None:
        return "trace"
    return "synthetic" if workload.synthetic is not None else "closed_loop"


def check_loads(scenario: Scenario, kind: LoadKind, highest: Decimal) -> None:
    """Check that a scenario can be put under a kind of load.

    Raises
    ------
    ScenarioError
        If its workload is of the other kind, or has fewer requests than users.
    """
    loop = scenario.workload.closed_loop
    if kind != load_kind(scenario):
        is_loop, needs = ("a closed loop", "concurrency") if loop is not None else ("an open loop", "rate")
        raise ScenarioError(
            f"scenario {scenario.name!r}: workload is {is_loop}, expected --{needs} LOW:HIGH:STEP in place of --{kind}"
        )
    if loop is not None and highest > loop.requests:
        raise ScenarioError(
            f"--concurrency goes up to {highest}, but workload.closed_loop.requests is {loop.requests}; expected a "
            "request of every user, and better ten"
        )


def loader(scenario: Scenario) -> Callable[[Decimal], Scenario]:
    """Return what puts a scenario under a load, of the kind its workload has.

    Arrivals with a ``rate_per_s`` of their own get that rate. All others (a trace, sessions, a ramp, an ``mmpp``) are
    stretched by ``workload.rate_scale``: their mean rate, requests after the first over the time from the first
    to the last, becomes the one asked for under every seed.

    Raises
    ------
    ScenarioError
        If all requests arrive at once, which is no rate.
    TraceError
        If a trace cannot be read.
    """
    if scenario.workload.closed_loop is not None:
        return lambda load: _with_concurrency(scenario, int(load))
    synthetic = scenario.workload.synthetic
    if synthetic is not None and synthetic.sessions is None and "rate_per_s" in type(synthetic.arrivals).model_fields:
        return lambda load: _with_rate(scenario, float(load))
    mean_rate_per_s = _mean_rate_per_s(scenario)
    return lambda load: _with_workload(scenario, rate_scale=float(load) / mean_rate_per_s)


def _with_concurrency(scenario: Scenario, concurrency: int) -> Scenario:
    loop = scenario.workload.closed_loop
    return _with_workload(scenario, closed_loop=loop and loop.model_copy(update={"concurrency": concurrency}))


def _with_rate(scenario: Scenario, rate_per_s: float) -> Scenario:
    synthetic = scenario.workload.synthetic
    arrivals = synthetic and synthetic.arrivals.model_copy(update={"rate_per_s": rate_per_s})
    changed = synthetic and synthetic.model_copy(update={"arrivals": arrivals})
    return _with_workload(scenario, synthetic=changed, rate_scale=1.0)


def _with_workload(scenario: Scenario, **changes: object) -> Scenario:
    return scenario.model_copy(update={"workload": scenario.workload.model_copy(update=changes)})


def _mean_rate_per_s(scenario: Scenario) -> float:
    """Return the mean rate of a workload as it is, before any ``rate_scale`` or ``share``."""
    # The warm-up is checked again at the rate that is run.
    times_ns = build_requests(_with_workload(scenario, rate_scale=1.0, warmup_s=0.0, share=1.0)).times_ns
    span_ns = int(times_ns[-1] - times_ns[0])
    if not span_ns:
        raise ScenarioError(
            f"scenario {scenario.name!r}: all {len(times_ns)} requests arrive at once, so that there is no rate to "
            "change; expected arrivals over some time"
        )
    return (len(times_ns) - 1) * 1e9 / span_ns
