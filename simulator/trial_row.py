"""What a trial keeps of a run: plain numbers, and which bounds were missed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.giving_up import Hopeless
from simulator.metrics import request_latencies, request_rates
from simulator.run import simulated
from simulator.summary import cost_per_hour, priced_shares

if TYPE_CHECKING:
    from simulator.built_pool import AnyPool
    from simulator.fabric import Fabric
    from simulator.finished import Finished
    from simulator.metrics import RequestTimes
    from simulator.requests import Requests
    from simulator.scenario import Scenario

__all__ = ["trial_row"]

_RATES = ("completed", "duration", "request_throughput", "request_goodput", "output_throughput", "slo_attainment")
_LATENCIES = (
    *("mean_ttft_ms", "p50_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p50_tpot_ms", "p99_tpot_ms", "p99_e2el_ms"),
)
_SHARES = ("extrapolated_share", "roofline_share")


def trial_row(
    scenario: Scenario, requests: Requests, pools: tuple[AnyPool, ...], fabric: Fabric | None
) -> dict[str, Any]:
    """Run a scenario until it is over or certain to miss its SLO, and return what is kept of it.

    A run that was given up has its time, s, under ``given_up_s``, None where it was not. What it says of missed bounds
    is of the requests for which they had fallen due (:meth:`simulator.giving_up.Hopeless.so_far`), all else of those
    that were over by then; nothing is said of the origins of its prices.

    Parameters
    ----------
    scenario, requests, pools, fabric
        As for :func:`simulator.run.simulated`.

    Raises
    ------
    UserError
        If the scenario asks for something impossible.
    """
    hopeless = Hopeless(scenario.slo.bounds, scenario.slo.attainment, scenario.workload.warmup_ns)
    # An instance that is lost, or changes roles, may let a request start over: nothing is certain then.
    steady = not (scenario.operations.incident or scenario.operations.switching)
    run = simulated(scenario, requests, pools, fabric, hopeless=hopeless if steady else None)
    if not run.given_up:
        return _row(run, run.times)
    over = run.times.completed | (run.cluster.ledger.column("failed") > 0)
    row = _row(run, replace(run.times, measured=run.times.measured & over))
    return row | hopeless.so_far(run.cluster)


def _row(run: Finished, times: RequestTimes) -> dict[str, Any]:
    ledger, slo, measured = run.cluster.ledger, run.scenario.slo, times.measured
    rates, latencies = request_rates(ledger, times, run.warmup_ns), request_latencies(times)
    shares = {} if run.given_up else priced_shares(run)
    outputs = ledger.column("output_tokens")
    good = float(outputs[measured & times.met_slo].sum())
    return {
        **{name: rates[name] for name in _RATES},
        **{name: latencies[name] for name in _LATENCIES},
        "failed": int(ledger.column("failed")[measured].sum()),
        "chips": sum(pool.chips for pool in run.pools),
        "cost_per_hour": cost_per_hour(run),
        "preemptions": int(ledger.column("preemptions").sum()),
        "events": run.cluster.events,
        **{name: shares.get(name) for name in _SHARES},
        "missed_ttft": _missed(times, times.ttft_ms, slo.ttft_ms),
        "missed_tpot": _missed(times, np.nan_to_num(times.tpot_ms), slo.tpot_ms),
        "missed_e2e": _missed(times, times.e2e_ms, slo.e2e_ms),
        "good_output_tokens_share": good / max(float(outputs[measured].sum()), 1.0),
        "mean_output_tokens": float(outputs[measured].sum() / max(int(measured.sum()), 1)),
        "given_up_s": run.cluster.env.now / 1e9 if run.given_up else None,
    }


def _missed(times: RequestTimes, values_ms: Any, bound_ms: float | None) -> float:  # noqa: ANN401 - a column
    """Return the share of measured requests that failed or missed a bound."""
    if bound_ms is None:
        return 0.0
    met = times.completed & (values_ms <= bound_ms)
    measured = int(times.measured.sum())
    return 1.0 - float(met[times.measured].sum()) / measured if measured else 0.0
