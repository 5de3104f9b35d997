"""Run a scenario from start to end."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hardware.errors import ScenarioError
from simulator.build import build_decode_router, build_pools, build_router
from simulator.cluster import Cluster
from simulator.equipment import arriving_features, encode_stage, equipment, sends_features
from simulator.fabric import build_fabric
from simulator.finished import Finished
from simulator.laws import check_laws
from simulator.metrics import request_times
from simulator.operations import Operations
from simulator.records import Ledger
from simulator.request_table import request_table
from simulator.requests import build_requests
from simulator.summary import summarise
from simulator.timeline import timeline_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd

    from simulator.built_pool import AnyPool
    from simulator.clock import Clock
    from simulator.fabric import Fabric
    from simulator.passage import Carrier
    from simulator.requests import Requests
    from simulator.scenario import Scenario

__all__ = ["Result", "fabric_of", "run_built", "run_scenario", "simulated"]


@dataclass(frozen=True)
class Result:
    """What a run gives back.

    Attributes
    ----------
    summary
        The numbers of ``summary.json``.
    run
        The finished run behind them.
    """

    summary: dict[str, Any]
    run: Finished

    @property
    def scenario(self) -> Scenario:
        """The scenario that was run."""
        return self.run.scenario

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request, the columns of ``requests.parquet``."""
        return request_table(self.run)

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """One row per window of time, the columns of ``timeline.parquet``."""
        return timeline_table(self.run)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let the garbage collector rest: a run leaves hardly anything in cycles, and looking for it is 5 % of its time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@_uncollected()
def run_scenario(
    scenario: Scenario,
    *,
    macro_steps: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Simulate a scenario.

    Parameters
    ----------
    scenario
        What to run.
    macro_steps
        Advance unchanged decode steps in one event; off, the result is the same and slower.
    on_progress
        Called now and then with (requests done, requests).

    Raises
    ------
    UserError
        If the scenario asks for something impossible.
    LawError
        If a law of the simulation is broken, which is a bug.
    """
    started = time.process_time()
    requests, pools = build_requests(scenario), build_pools(scenario)
    result = run_built(scenario, requests, pools, macro_steps=macro_steps, on_progress=on_progress)
    result.summary["cpu_s"] = time.process_time() - started
    return result


@_uncollected()
def run_built(
    scenario: Scenario,
    requests: Requests,
    pools: tuple[AnyPool, ...],
    *,
    macro_steps: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Simulate a scenario whose workload and pools are built.

    Parameters
    ----------
    scenario
        What to run.
    requests, pools
        What was built of it.
    macro_steps, on_progress
        As for :func:`run_scenario`.

    Raises
    ------
    UserError
        If the scenario asks for something impossible.
    LawError
        If a law of the simulation is broken, which is a bug.
    """
    started = time.process_time()
    fabric = fabric_of(scenario, pools)
    run = simulated(scenario, requests, pools, fabric, macro_steps=macro_steps, on_progress=on_progress)
    return Result(summarise(run) | {"cpu_s": time.process_time() - started}, run)


@_uncollected()
def simulated(  # noqa: PLR0913 - the parts of a run, and who looks on
    scenario: Scenario,
    requests: Requests,
    pools: tuple[AnyPool, ...],
    fabric: Fabric | None,
    *,
    macro_steps: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    hopeless: Callable[[Cluster], bool] | None = None,
) -> Finished:
    """Simulate a scenario all of which is built, and compute nothing from it.

    Parameters
    ----------
    scenario, requests, pools
        As for :func:`run_built`.
    fabric
        The network between the pools, from :func:`fabric_of`; runs of the same pools may share one.
    macro_steps, on_progress
        As for :func:`run_scenario`.
    hopeless
        Asked now and then whether the run can be given up. If so it ends there, and its laws are not checked.

    Raises
    ------
    UserError
        If the scenario asks for something impossible.
    LawError
        If a law of the simulation is broken, which is a bug.
    """
    carrier = None if fabric is None else fabric.carrier
    cluster = _cluster(scenario, requests, pools, carrier, macro_steps=macro_steps, on_progress=on_progress)
    operations = _operations(scenario, pools, fabric, cluster)
    if hopeless is not None:
        cluster.on_progress = _giving_up(cluster, hopeless)
    try:
        cluster.run()
    except _GivenUpError:
        return _finish(scenario, requests, pools, fabric, cluster, operations=operations, given_up=True)
    check_laws(cluster)
    return _finish(scenario, requests, pools, fabric, cluster, operations=operations)


class _GivenUpError(Exception):
    """Ends a run that is hopeless."""


def _giving_up(cluster: Cluster, hopeless: Callable[[Cluster], bool]) -> Callable[[int], None]:
    """Return what ends a run once it is hopeless; it is asked whenever a further 3 % of the requests are done."""
    stride, asked = max(1, len(cluster.ledger) // 32), 0

    def ask(done: int) -> None:
        nonlocal asked
        if done - asked >= stride:
            asked = done
            if hopeless(cluster):
                raise _GivenUpError

    return ask


def _cluster(  # noqa: PLR0913 - the parts of a run, all named
    scenario: Scenario,
    requests: Requests,
    pools: Sequence[AnyPool],
    carrier: Callable[[Clock], Carrier] | None,
    *,
    macro_steps: bool,
    on_progress: Callable[[int, int], None] | None,
) -> Cluster:
    total, arriving = len(requests.prompt_tokens), arriving_features(scenario, requests)
    return Cluster(
        [pool.parts for pool in pools],
        build_router(scenario),
        requests,
        Ledger(requests.prompt_tokens, requests.output_tokens),
        decode_router=build_decode_router(scenario),
        terms=scenario.links.kv_transfer,
        carrier=carrier,
        encoding=encode_stage(scenario, requests, arriving),
        equip=equipment(requests, pools, arriving),
        helps_above=scenario.helps_above,
        identities=requests.identities,
        declared_tokens=scenario.workload.max_output_tokens or 0,
        fails_with_instance=scenario.operations.lost_requests == "fail",
        macro_steps=macro_steps,
        on_progress=None if on_progress is None else lambda done: on_progress(done, total),
    )


def fabric_of(scenario: Scenario, pools: Sequence[AnyPool]) -> Fabric | None:
    """Return the network between the pools of a scenario; None where nothing is handed over.

    Raises
    ------
    UserError
        As :func:`simulator.fabric.build_fabric`.
    """
    if not (scenario.hands_over or sends_features(scenario)):
        return None
    table = scenario.operations
    return build_fabric(scenario.links, pools, switching=table.switches(), changing=table.link_patterns())


def _operations(scenario: Scenario, pools: Sequence[AnyPool], fabric: Fabric | None, cluster: Cluster) -> Operations:
    """Return what lets the incidents of a scenario happen to its cluster."""
    carrier = cluster.carrier

    def set_capacity(pattern: str, share: float) -> None:
        if fabric is not None and carrier is not None:
            for link in fabric.changing[pattern]:
                carrier.set_capacity(link, share)

    numbers = {pool.name: number for number, pool in enumerate(pools)}
    return Operations(cluster, scenario.operations, numbers, set_capacity)


def _finish(  # noqa: PLR0913 - the parts of a run
    scenario: Scenario,
    requests: Requests,
    pools: tuple[AnyPool, ...],
    fabric: Fabric | None,
    cluster: Cluster,
    *,
    operations: Operations,
    given_up: bool = False,
) -> Finished:
    times = request_times(cluster.ledger, scenario.slo.bounds, scenario.workload.warmup_ns)
    if not times.measured.any():
        raise ScenarioError(
            f"workload.warmup_s is {scenario.workload.warmup_s:g}, but every request arrived before that, so that none "
            "would be measured; lower it, or send more requests"
        )
    happened = tuple(operations.happened)
    return Finished(scenario, requests, pools, fabric, cluster, operations, times, happened, given_up)
