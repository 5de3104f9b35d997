"""Runs in which requests have nowhere to go end, and say so."""

from __future__ import annotations

from typing import Any

import pytest

from simulator import load_scenario, simulate

DOWN: dict[str, object] = {"kind": "instance_down", "instance": 0}
SMALL: dict[str, object] = {
    "workload.synthetic.requests": 60,
    "workload.synthetic.arrivals": {"kind": "poisson", "rate_per_s": 10},
    "pool.prefill.replicas": 1,
    "pool.prefill.tensor_parallel": 2,
}


def outcome(*incidents: dict[str, object], **keys: object) -> dict[str, Any]:
    changes = {**SMALL, **{key.replace("__", "."): value for key, value in keys.items()}}
    summary = simulate(load_scenario("prefill-decode", {**changes, "operations.incident": list(incidents)})).summary
    assert summary["completed"] + summary["failed"] == 60
    return summary


def test_who_waits_for_a_stage_fails_once_the_instance_that_was_awaited_joins_another() -> None:
    summary = outcome(
        {**DOWN, "at_s": 1.0, "pool": "decode"},
        {**DOWN, "at_s": 0.9, "pool": "prefill", "restart_after_s": 60.0},
        pool__prefill__replicas=2,
    )
    assert summary["failed"] > 50


def test_an_instance_that_can_only_leave_once_it_has_joined_does_not_stop_the_run() -> None:
    # Its requests wait for an instance that decodes, which it would become once they have left.
    summary = outcome(
        {**DOWN, "at_s": 1.0, "pool": "decode"},
        {"kind": "switch", "at_s": 1.0, "pool": "prefill", "to": "decode"},
        pool__prefill__replicas=2,
    )
    assert summary["operations"]["role_switches"] == 1
    assert summary["completed"] + summary["failed"] == 60


def test_who_waits_for_an_instance_that_changes_roles_is_served() -> None:
    summary = outcome(
        {**DOWN, "at_s": 1.0, "pool": "prefill"},
        {"kind": "switch", "at_s": 0.9, "pool": "decode", "to": "prefill", "delay_s": 1.0},
        pool__decode__replicas=2,
    )
    assert summary["completed"] == 60


def test_kv_that_nobody_needs_is_not_given_up() -> None:
    one_token = {"kind": "fixed", "value": 1}
    summary = outcome(network__kv_transfer={"mode": "layerwise"}, workload__synthetic__output_tokens=one_token)
    assert summary["operations"]["transfers_given_up"] == summary["transfers"]["count"] == 0


def test_an_instance_may_change_roles_more_than_once() -> None:
    pool = {"chip": "h200_sxm", "tensor_parallel": 2}
    pools = [
        {**pool, "name": "prefill", "stages": ["prefill"], "replicas": 3},
        {**pool, "name": "decode", "stages": ["decode"]},
        {**pool, "name": "other", "stages": ["decode"]},
    ]
    switches = [
        {"kind": "switch", "at_s": 1.0, "pool": "prefill", "to": "decode"},
        {"kind": "switch", "at_s": 1.0, "pool": "prefill", "to": "decode"},
        {**DOWN, "at_s": 2.0, "pool": "decode"},
        {"kind": "switch", "at_s": 3.0, "pool": "decode", "to": "other"},
    ]
    changes: dict[str, object] = {"pool": pools, "network": {}, "operations.incident": switches}
    changes |= {key: value for key, value in SMALL.items() if not key.startswith("pool")}
    summary = simulate(load_scenario("prefill-decode", changes)).summary
    assert summary["operations"]["role_switches"] == 3
    assert summary["completed"] == 60


@pytest.mark.parametrize("lost", ["fail", "recompute"])
def test_a_run_ends_when_its_last_request_fails(lost: str) -> None:
    summary = outcome({**DOWN, "at_s": 1.0, "pool": "decode"}, operations__lost_requests=lost)
    assert summary["failed"] > 0
    assert all(0 <= link["utilisation"] <= 1 for link in summary["links"].values())
    assert all(0 <= pool["utilisation"] <= 1 for pool in summary["pools"].values())


def test_links_are_busy_for_part_of_a_run_in_which_no_request_finishes() -> None:
    summary = outcome(
        network__kv_transfer={"timeout_s": 0.001, "on_timeout": "fail", "efficiency": 0.001},
        workload__synthetic__output_tokens={"kind": "fixed", "value": 9},
    )
    assert summary["failed"] == 60
    assert summary["links"]
    assert all(0 < link["utilisation"] <= 1 for link in summary["links"].values())
    assert summary["energy_wh"] > 0.01
