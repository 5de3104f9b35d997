"""Turns that wait for the answer before them; urgency; and what clients declare."""

from __future__ import annotations

import numpy as np
import pytest
from serving import Deployment

from hardware.errors import ScenarioError
from simulator import load_scenario, simulate
from simulator.requests import build_requests

WAITING = {
    "workload.synthetic.requests": 400,
    "workload.synthetic.sessions": {
        "turns": {"kind": "uniform", "low": 1, "high": 6},
        "think_time_s": {"kind": "exponential", "mean": 2},
        "wait_for_answer": True,
    },
}


def test_a_turn_comes_its_think_time_after_the_answer():
    scenario = load_scenario("quickstart", WAITING | {"pool.0.router": "session"})
    requests = build_requests(scenario)
    table = simulate(scenario).requests
    later = requests.later
    first = np.setdiff1d(np.arange(len(later)), later[later >= 0])
    arrival, end = table["arrival_s"].to_numpy(), (table["arrival_s"] + table["e2e_ms"] / 1e3).to_numpy()
    assert 50 < len(first) < 250
    np.testing.assert_allclose(arrival[first], requests.times_ns[first] / 1e9)
    turns = np.flatnonzero(later >= 0)
    np.testing.assert_allclose(arrival[later[turns]], end[turns] + requests.think_ns[later[turns]] / 1e9)
    # What was said before is in the cache: the prompt, the answer but for its last token, in whole blocks.
    said = table["prompt_tokens"].to_numpy() + table["output_tokens"].to_numpy()
    assert (table["cached_tokens"].to_numpy()[later[turns]] == (said[turns] - 1) // 16 * 16).all()


def test_without_waiting_the_same_conversations_are_an_open_loop():
    waiting = build_requests(load_scenario("quickstart", WAITING))
    sessions = WAITING["workload.synthetic.sessions"] | {"wait_for_answer": False}
    opened = build_requests(load_scenario("quickstart", WAITING | {"workload.synthetic.sessions": sessions}))
    assert opened.later is None
    assert opened.prompt_tokens.tolist() == waiting.prompt_tokens.tolist()
    assert opened.times_ns.tolist() == waiting.times_ns.tolist()


def test_what_goes_on_from_an_answer_fails_with_it():
    scenario = load_scenario("quickstart", WAITING | {"pool.0.engine_options.max_model_len": 6000})
    requests, result = build_requests(scenario), simulate(scenario)
    too_long = requests.prompt_tokens + requests.output_tokens > 6000
    failed = np.isnan(result.requests["e2e_ms"].to_numpy())
    assert too_long.any()
    assert not too_long.all()
    for row in np.flatnonzero(requests.later >= 0):
        assert failed[requests.later[row]] == (failed[row] or too_long[requests.later[row]])
    assert result.summary["failed"] == failed.sum()


def test_a_limit_cuts_conversations_without_waiting_for_turns_that_never_come():
    scenario = load_scenario("quickstart", WAITING | {"workload.limit": 150})
    requests = build_requests(scenario)
    assert len(requests.later) == 150
    assert requests.later.max() < 150
    assert simulate(scenario).summary["completed"] == 150


def test_classes_are_drawn_by_their_shares_and_the_urgent_ones_wait_less():
    changes = {
        "workload.synthetic.requests": 600,
        "workload.synthetic.arrivals.rate_per_s": 60.0,
        "workload.priority_shares": [1, 3],
        "pool.0.engine_options.scheduling_policy": "priority",
        "pool.0.engine_options.max_num_seqs": 32,
    }
    scenario = load_scenario("quickstart", changes)
    known = build_requests(scenario).identities
    urgent = np.array(known._priority) == 0
    assert 0.18 < urgent.mean() < 0.32
    table = simulate(scenario).requests
    assert table["ttft_ms"][urgent].mean() < 0.2 * table["ttft_ms"][~urgent].mean()
    served_alike = simulate(load_scenario("quickstart", changes | {"workload.priority_shares": []})).requests
    assert served_alike["ttft_ms"][urgent].mean() > 0.5 * served_alike["ttft_ms"][~urgent].mean()


@pytest.mark.parametrize(("declared", "longest"), [(0, [15, 108]), (50, [60, 108])])
def test_clients_declare_what_they_get_or_more(declared, longest):
    seen = []

    class Spy:
        def identify(self, request):
            seen.append(request.longest)

    deployment = Deployment(identities=Spy(), declared_tokens=declared)
    deployment.serve_at_once([10, 8], [5, 100])
    assert seen == longest


@pytest.mark.parametrize("shares", [[0, 1], [-1], ["a"], 0.5])
def test_shares_are_positive_numbers(shares):
    with pytest.raises(ScenarioError, match="priority_shares"):
        load_scenario("quickstart", {"workload.priority_shares": shares})
