"""TensorRT-LLM's wait for more requests before each step (``batch_wait_timeout_ms``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from serving import Deployment, OpenLoop, gaps_of, linear_prices, times

from hardware.errors import ScenarioError
from perfdb.waiting import WaitingPrices
from simulator.build import build_pools
from simulator.run import run_scenario
from simulator.scenario import resolve_scenario

#: Every step takes a millisecond.
EVEN = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)


def engine(*, wait_ms: float, ahead: bool, ranks: int = 1, **more) -> Deployment:
    wait_ns = round(wait_ms * 1e6)
    return Deployment(policy="trtllm", prices=EVEN, plans_ahead=ahead, waits_ns=wait_ns, ranks=ranks, **more)


def column_ms(deployment: Deployment, rows, column: str = "first_token_ns") -> list[float]:
    """Return a column for requests of ten tokens, given when they come and how many tokens they get."""
    cluster = deployment.serve(OpenLoop([round(at * 1e6) for at, _ in rows]), [10] * len(rows), [n for _, n in rows])
    return [ns / 1e6 for ns in times(cluster)[column]]


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_idle_engine_waits_from_the_first_request_on(ranks):
    # Where the next plan is made beside the step, so is its wait, and tokens are looked at after that.
    for ahead, told_ms in ((False, 4.5), (True, 6.5)):
        rows = [(0.5, 1), (3, 1)]
        assert column_ms(engine(wait_ms=3, ahead=ahead, ranks=ranks), rows) == [told_ms, told_ms]
        assert column_ms(engine(wait_ms=0, ahead=ahead, ranks=ranks), rows) == [1.5, 4]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_wait_between_steps_makes_each_of_them_longer(ranks):
    slow = engine(wait_ms=3, ahead=False, ranks=ranks)
    # Waits for 3 ms and computes for 1, four times.
    assert column_ms(slow, [(0, 4)], "finish_ns") == [16]
    # Who comes while the engine waits is in the next step, who comes while it computes in the one after it.
    assert column_ms(slow, [(0, 9), (6.9, 1)]) == [4, 8]
    assert column_ms(slow, [(0, 9), (7.1, 1)]) == [4, 12]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_wait_beside_steps_is_hidden_by_longer_ones(ranks):
    assert column_ms(engine(wait_ms=3, ahead=True, ranks=ranks), [(0, 4)], "finish_ns") == [3 + 4 * 3]
    assert column_ms(engine(wait_ms=0.5, ahead=True, ranks=ranks), [(0, 4)], "finish_ns") == [0.5 + 4]
    # The plan of the step from 2.5 ms on knows who came half a millisecond after the one before began.
    late = engine(wait_ms=0.5, ahead=True, ranks=ranks)
    assert column_ms(late, [(0, 9), (1.9, 1)]) == [1.5, 3.5]
    assert column_ms(late, [(0, 9), (2.1, 1)]) == [1.5, 4.5]
    assert column_ms(engine(wait_ms=0, ahead=True, ranks=ranks), [(0, 9), (1.9, 1)])[1] == 4


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("ahead", [False, True])
def test_as_many_requests_as_a_step_holds_end_the_wait(ahead, ranks):
    busy = engine(wait_ms=50, ahead=ahead, ranks=ranks, max_sequences=2)
    assert column_ms(busy, [(0, 1), (7, 1)], "admitted_ns") == [7, 7]
    assert column_ms(busy, [(0, 1)], "admitted_ns") == [50]


def test_a_step_under_way_ends_with_its_wait():
    # The wait beside the first step ends when two more have come, at 15 ms; the step itself was over at 11.
    rows = [(0, 2), (12, 1), (15, 1)]
    assert column_ms(engine(wait_ms=10, ahead=True, max_sequences=2), rows)[0] == 15
    assert column_ms(engine(wait_ms=10, ahead=True, max_sequences=2), [*rows[:1], (10.1, 1), (10.2, 1)])[0] == 11


def test_who_comes_after_a_wait_that_ended_early_is_fetched_in_the_next_one():
    # Beside the step from 0.9 to 1.9 ms the engine would wait until 1.8; two that come by 1.1 end that.
    rows = [(0, 9), (1.0, 1), (1.1, 1), (1.5, 1)]
    assert column_ms(engine(wait_ms=0.9, ahead=True, ranks=2, max_sequences=2), rows) == [1.9, 2.9, 2.9, 3.9]
    assert column_ms(engine(wait_ms=0.9, ahead=True, ranks=2, max_sequences=3), rows) == [1.9, 2.9, 2.9, 2.9]


@pytest.mark.parametrize("ahead", [False, True])
def test_gaps_between_tokens_contain_the_wait(ahead):
    gaps = gaps_of(engine(wait_ms=3, ahead=ahead).serve_at_once([10] * 3, [20] * 3))
    assert np.repeat(gaps.gap_ns, gaps.count).tolist() == [(3 if ahead else 4) * 1_000_000] * 57


def test_a_run_of_steps_that_wait_is_one_event():
    waits = engine(wait_ms=3, ahead=True).serve_at_once([10] * 3, [500] * 3)
    assert waits.events < 20


def test_the_shortest_step_is_exact_from_the_context_on_from_which_steps_are_longer():
    plain = linear_prices(context_ns=5.0)
    waiting = WaitingPrices(plain, 1_060_000)
    for context in range(0, 3000, 7):
        assert abs(waiting.decode_ns(8, context) - max(plain.decode_ns(8, context), 1_060_000)) <= 1
    assert waiting.decode_ns(8, 0, 3000) == sum(waiting.decode_ns(8, context) for context in range(3000))


# --- as a scenario asks for it -------------------------------------------------------------------------


def scenario(**pool):
    work = {
        "requests": 30,
        "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
        "prompt_tokens": {"kind": "fixed", "value": 300},
        "output_tokens": {"kind": "fixed", "value": 20},
    }
    pools = [{"chip": "h100_sxm", "engine": "trtllm", **pool}]
    if pool.get("stages") == ["prefill"]:
        pools.append({"chip": "h100_sxm", "engine": "trtllm", "stages": ["decode"]})
    table = {"model": {"name": "Qwen/Qwen3-8B"}, "workload": {"synthetic": work}, "pool": pools}
    return resolve_scenario(table, Path("here.toml"), "here.toml")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("disabled", [False, True])
def test_a_scenario_waits(ranks, disabled):
    found = []
    for wait_ms in (0, 30.0):
        options = {"batch_wait_timeout_ms": wait_ms, "disable_overlap_scheduler": disabled}
        found.append(run_scenario(scenario(data_parallel=ranks, engine_options=options)).summary)
    assert found[1]["completed"] == 30
    assert found[1]["mean_tpot_ms"] == pytest.approx(30 + disabled * found[0]["mean_tpot_ms"], rel=0.15)
    assert found[1]["pools"]["pool0"]["utilisation"] <= 1


@pytest.mark.parametrize(
    ("pool", "sentence"),
    [
        ({"stages": ["prefill"]}, "expected stages = ..prefill., .decode.."),
        ({"speculation": {"draft_tokens": 3, "acceptance": 0.7}}, "not simulated together; leave one out"),
    ],
)
def test_where_waiting_is_not_simulated_it_is_refused(pool, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        build_pools(scenario(**pool, engine_options={"batch_wait_timeout_ms": 5}))
