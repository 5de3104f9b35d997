"""Our vLLM policy beside the scheduler of an installed vLLM: one workload, one clock, the same prices."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hardware.errors import ScenarioError
from simulator.build import build_pools
from simulator.built_pool import BuiltPool
from simulator.decisions import DecisionLog, EnoughStepsError, compare_decisions
from simulator.engine_options import VllmOptions
from simulator.installed_vllm import installed_version
from simulator.instance import Instance
from simulator.live import live_instances
from simulator.live_options import core_options
from simulator.recording import RecordingScheduler
from simulator.requests import build_requests
from simulator.run import run_built

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.decisions import Difference
    from simulator.engine_parts import EngineParts
    from simulator.requests import Requests
    from simulator.scenario import Scenario
    from simulator.surroundings import Surroundings

__all__ = ["Conformance", "Side", "build_comparable", "conform", "record_live", "record_ours"]

#: What may differ between two runs of the same decisions at the same times.
_OWN: Final = frozenset({"cpu_s", "events"})


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the two did.

    Attributes
    ----------
    log
        Its decisions.
    summary
        The numbers of ``summary.json``; None for a run that was cut short.
    cpu_s
        Processor time of the run.
    """

    log: DecisionLog
    summary: dict[str, Any] | None
    cpu_s: float

    @property
    def requests(self) -> int:
        """Requests that were admitted."""
        return len({index for found in self.log.by_instance.values() for d in found for index, _ in d.admitted})

    @property
    def preemptions(self) -> int:
        """Requests put back into the queue."""
        return sum(len(d.preempted) for found in self.log.by_instance.values() for d in found)

    @property
    def cached_tokens(self) -> int:
        """Tokens found in the cache, at every admission."""
        return sum(tokens for found in self.log.by_instance.values() for d in found for _, tokens in d.admitted)


@dataclass(frozen=True, slots=True)
class Conformance:
    """How two sides compare.

    Attributes
    ----------
    version
        That of the installed vLLM.
    ours, theirs
        The two.
    differing
        Steps that differ.
    firsts
        The first of each instance that has one.
    results
        Keys of the summary that differ, where the decisions do not.
    """

    version: str
    ours: Side
    theirs: Side
    differing: int
    firsts: list[Difference]
    results: list[str]

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return not self.firsts and not self.results


def conform(scenario: Scenario, steps: int | None = None) -> Conformance:
    """Run a scenario with our policy and with the installed vLLM, and compare what they decide.

    Parameters
    ----------
    scenario
        What to run.
    steps
        Steps of all instances after which to stop; None for all.

    Raises
    ------
    ScenarioError
        If a pool is not one of vLLM that computes prompts and decodes, or no vLLM is installed.
    """
    version = installed_version()
    requests, pools = build_comparable(scenario)
    ours = record_ours(scenario, requests, pools, steps)
    theirs = record_live(scenario, requests, pools, steps)
    differing, firsts = compare_decisions(ours.log, theirs.log)
    return Conformance(version, ours, theirs, differing, firsts, [] if firsts else _unlike(ours, theirs))


def build_comparable(scenario: Scenario) -> tuple[Requests, tuple[BuiltPool, ...]]:
    """Return the workload and the pools of a scenario that both can serve."""
    for number, pool in enumerate(scenario.pool):
        if not isinstance(pool.engine_options, VllmOptions) or not pool.serves_both:
            raise ScenarioError(
                f"pool.{scenario.pool_name(number)}: engine {pool.engine!r} with stages {list(pool.stages)} has "
                "nothing to be compared with; expected engine 'vllm' and the stages ['prefill', 'decode']"
            )
    pools = tuple(pool for pool in build_pools(scenario) if isinstance(pool, BuiltPool))
    return build_requests(scenario), pools


def record_ours(scenario: Scenario, requests: Requests, pools: tuple[BuiltPool, ...], steps: int | None = None) -> Side:
    """Run built pools with our policy and write down what it decides."""

    def maker(_pool: BuiltPool, log: DecisionLog) -> Callable[..., Instance]:
        def make(around: Surroundings, parts: EngineParts) -> Instance:
            recording = RecordingScheduler(parts.scheduler, partial(log.note, around.number))
            return Instance(around, replace(parts, scheduler=recording, make=None))

        return make

    return _record(scenario, requests, pools, maker, steps)


def record_live(scenario: Scenario, requests: Requests, pools: tuple[BuiltPool, ...], steps: int | None = None) -> Side:
    """Run built pools with the installed vLLM and write down what it decides."""

    def maker(pool: BuiltPool, log: DecisionLog) -> Callable[..., Instance]:
        if not isinstance(pool.options, VllmOptions):
            raise TypeError(f"pool {pool.name} has options of another engine: {pool.options!r}")
        return live_instances(core_options(pool.options, pool.parts.blocks), log.note)

    return _record(scenario, requests, pools, maker, steps)


def _record(
    scenario: Scenario,
    requests: Requests,
    pools: tuple[BuiltPool, ...],
    maker: Callable[[BuiltPool, DecisionLog], Callable[..., Instance]],
    steps: int | None,
) -> Side:
    log, started = DecisionLog(steps), time.process_time()
    own = tuple(replace(pool, parts=replace(pool.parts, make=maker(pool, log))) for pool in pools)
    try:
        summary = run_built(scenario, requests, own, macro_steps=False).summary
    except EnoughStepsError:
        summary = None
    return Side(log, summary, time.process_time() - started)


def _unlike(ours: Side, theirs: Side) -> list[str]:
    """Return the keys of two summaries that differ; none where a run was cut short."""
    if ours.summary is None or theirs.summary is None:
        return []
    return [key for key, value in ours.summary.items() if key not in _OWN and theirs.summary[key] != value]
