"""A run is given up once it cannot keep its SLO any more: then, and never before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import load_scenario, simulate
from simulator.build import build_pools
from simulator.giving_up import Hopeless
from simulator.metrics import Bounds
from simulator.requests import build_requests
from simulator.run import fabric_of, simulated
from simulator.trial_row import trial_row

SMALL: dict[str, object] = {
    "model.name": "Qwen/Qwen3-8B",
    "workload.synthetic.requests": 120,
    "workload.synthetic.prompt_tokens": {"kind": "uniform", "low": 50, "high": 900},
    "workload.synthetic.output_tokens": {"kind": "uniform", "low": 1, "high": 40},
    "workload.warmup_s": 0.1,
}
POOLS = {
    "quickstart": {"pool.0.cost_sources": ["roofline"], "pool.0.replicas": 1},
    "prefill-decode": {"pool.0.cost_sources": ["roofline"], "pool.1.cost_sources": ["roofline"]},
}


def scenario_of(name: str, rate_per_s: float, slo: dict[str, float], **more: object):
    rate = {"workload.synthetic.arrivals": {"kind": "poisson", "rate_per_s": rate_per_s}}
    return load_scenario(name, SMALL | POOLS[name] | rate | {"slo": slo} | more)


def row_of(scenario):
    pools = build_pools(scenario)
    return trial_row(scenario, build_requests(scenario), pools, fabric_of(scenario, pools))


BOUND = st.one_of(st.none(), st.floats(0.5, 400.0))


@given(
    st.sampled_from(sorted(POOLS)),
    st.floats(5.0, 300.0),
    st.tuples(BOUND, st.one_of(st.none(), st.floats(1.0, 30.0)), st.one_of(st.none(), st.floats(5.0, 900.0))),
    st.floats(0.3, 1.0),
)
def test_whether_a_run_keeps_its_slo_is_the_same_if_it_may_be_given_up(name, rate_per_s, bounds, attainment):
    slo = {key: value for key, value in zip(("ttft_ms", "tpot_ms", "e2e_ms"), bounds, strict=True) if value is not None}
    scenario = scenario_of(name, rate_per_s, slo | {"attainment": attainment})
    whole, row = simulate(scenario).summary, row_of(scenario)
    assert (row["slo_attainment"] >= attainment) == (whole["slo_attainment"] >= attainment)
    if row["given_up_s"] is None:
        assert {key: row[key] for key in row if key in whole} == pytest.approx(
            {key: whole[key] for key in row if key in whole}, rel=1e-9
        )
    else:
        assert row["slo_attainment"] < attainment
        assert row["events"] < whole["events"]


def test_a_run_far_beyond_what_is_borne_ends_early_and_says_which_bound_was_missed():
    scenario = scenario_of("quickstart", 2000.0, {"ttft_ms": 20.0, "tpot_ms": 1000.0}, **{"workload.warmup_s": 0.0})
    row, whole = row_of(scenario), simulate(scenario).summary
    assert row["given_up_s"] < 0.6 * whole["duration"]
    assert row["missed_ttft"] > 0.1 > row["missed_tpot"]
    assert row["completed"] < 120
    assert row["failed"] == 0
    assert row["extrapolated_share"] is None


def test_a_run_that_may_still_keep_its_slo_goes_on():
    # One request of ten may miss it: eleven of 120 do not end it, thirteen would.
    scenario = scenario_of("quickstart", 30.0, {"ttft_ms": 30.0}, **{"workload.warmup_s": 0.0})
    pools, requests = build_pools(scenario), build_requests(scenario)
    run = simulated(scenario, requests, pools, None)
    late_ms = sorted(run.times.ttft_ms, reverse=True)
    for misses, gives_up in ((11, False), (12, False), (13, True)):
        bounds = Bounds(ttft_ms=(late_ms[misses - 1] + late_ms[misses]) / 2)
        found = simulated(scenario, requests, pools, None, hopeless=Hopeless(bounds, 0.9, 0))
        assert found.given_up == gives_up


def test_a_run_in_which_an_instance_dies_is_never_given_up():
    scenario = scenario_of("quickstart", 200.0, {"ttft_ms": 1.0}, **{"pool.0.replicas": 2})
    down = {"kind": "instance_down", "at_s": 1.0, "pool": scenario.pool_name(0), "instance": 0}
    incident = scenario_of(
        "quickstart", 200.0, {"ttft_ms": 1.0}, **{"pool.0.replicas": 2, "operations.incident": [down]}
    )
    assert row_of(scenario)["given_up_s"] is not None
    assert row_of(incident)["given_up_s"] is None
