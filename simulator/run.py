"""Run a scenario from start to end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from simulator.build import build_pools, build_requests, build_router
from simulator.cluster import Cluster
from simulator.finished import Finished
from simulator.laws import check_laws
from simulator.metrics import Bounds, request_times
from simulator.records import Ledger
from simulator.request_table import request_table
from simulator.summary import summarise
from simulator.token_gaps import token_gaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from simulator.build import BuiltPool, Requests
    from simulator.scenario import Scenario

__all__ = ["Result", "run_scenario"]


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
    cluster = _cluster(scenario, requests, pools, macro_steps=macro_steps, on_progress=on_progress)
    cluster.run()
    check_laws(cluster)
    run = _finish(scenario, requests, pools, cluster)
    return Result(summarise(run) | {"cpu_s": time.process_time() - started}, run)


def _cluster(
    scenario: Scenario,
    requests: Requests,
    pools: Sequence[BuiltPool],
    *,
    macro_steps: bool,
    on_progress: Callable[[int, int], None] | None,
) -> Cluster:
    total = len(requests.prompt_tokens)
    return Cluster(
        [pool.parts for pool in pools],
        build_router(scenario),
        requests,
        Ledger(requests.prompt_tokens, requests.output_tokens),
        macro_steps=macro_steps,
        on_progress=None if on_progress is None else lambda done: on_progress(done, total),
    )


def _finish(scenario: Scenario, requests: Requests, pools: tuple[BuiltPool, ...], cluster: Cluster) -> Finished:
    slo, warmup_ns = scenario.slo, round(scenario.workload.warmup_s * 1e9)
    times = request_times(cluster.ledger, Bounds(slo.ttft_ms, slo.tpot_ms, slo.e2e_ms), warmup_ns)
    prices = [instance.prices for instance in cluster.instances]
    gaps = token_gaps(cluster.logs, prices, cluster.ledger, after_ns=warmup_ns)
    return Finished(scenario, requests, pools, cluster, times, gaps)
