"""Attention ranks of one engine: who gets which request, and how their steps go together."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, gaps_of, linear_prices, times

from simulator.balancers import BALANCERS, RankLoad
from simulator.gathering import GatheringRanks
from simulator.lockstep import LockstepRanks
from simulator.prompt_balance import PromptBalance
from simulator.router import ROUTERS

#: Every step takes a millisecond.
EVEN = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)
#: A step takes a millisecond, and one more for every token.
TOKENS = linear_prices(step_ns=1_000_000, token_ns=1_000_000, context_ns=0.0, pair_ns=0.0)

#: Arrivals on the grid of steps: when, prompt, output.
requests = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 100), st.integers(1, 40)), min_size=1, max_size=30)
POLICIES = ["vllm", "trtllm", "sglang"]


def on_grid(rows) -> tuple[OpenLoop, list[int], list[int]]:
    rows = sorted(rows)
    return OpenLoop([row[0] * 1_000_000 for row in rows]), [row[1] for row in rows], [row[2] for row in rows]


def serve_ms(deployment: Deployment, rows, column: str) -> list[float]:
    """Return a column of times, ms."""
    arrivals = OpenLoop([round(row[0] * 1e6) for row in rows])
    cluster = deployment.serve(arrivals, [row[1] for row in rows], [row[2] for row in rows])
    return [ns / 1e6 for ns in times(cluster)[column]]


# --- steps ---------------------------------------------------------------------------------------------


def test_a_step_lasts_as_long_as_that_of_the_slowest_rank():
    # Rank 0 computes 9 tokens while rank 1 computes 4: both wait 10 ms. Then each decodes one sequence.
    rows = [(0, 9, 3), (0, 4, 3)]
    assert serve_ms(Deployment(ranks=2, prices=TOKENS), rows, "first_token_ns") == [10, 10]
    assert serve_ms(Deployment(ranks=2, prices=TOKENS), rows, "finish_ns") == [14, 14]
    assert serve_ms(Deployment(ranks=2, prices=TOKENS, lockstep=False), rows, "first_token_ns") == [10, 5]


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=20, deadline=None)
@given(rows=requests)
def test_gaps_of_all_ranks_add_up(policy, rows):
    cluster = Deployment(policy=policy, ranks=3).serve(*on_grid(rows))
    gaps, ledger = gaps_of(cluster), cluster.ledger
    assert int(gaps.count.sum()) == sum(row[2] - 1 for row in rows)
    lasted = ledger.column("finish_ns") - ledger.column("first_token_ns")
    assert int((gaps.gap_ns * gaps.count).sum()) == int(lasted.sum())
    assert int(gaps.per_second.sum()) == sum(row[2] for row in rows)


def test_experts_compute_the_tokens_there_are_beside_prompts():
    """Half of the price of a token is of experts that ranks share, of a token of each rank."""
    prices = linear_prices(step_ns=1_000_000, token_ns=1_000_000, context_ns=0.0, pair_ns=0.0)
    prices.shared_ns = [500_000 * tokens for tokens in range(4097)]
    rows = [(0, 9, 3), (0, 4, 3)]
    # The larger prompt is 10 ms, 4.5 of them for experts with nine tokens of each rank; 13 in all are 7 of each.
    assert serve_ms(Deployment(ranks=2, prices=prices), rows, "first_token_ns") == [9, 9]
    # Decode steps are of equal batches.
    assert serve_ms(Deployment(ranks=2, prices=prices), rows, "finish_ns") == [13, 13]


def test_decoding_waits_for_the_prompts_of_other_ranks():
    # The prompt of 20 tokens comes during the step that ends at 12 ms.
    rows = [(0, 9, 3), (11, 20, 1)]
    assert serve_ms(Deployment(ranks=2, prices=TOKENS), rows, "finish_ns") == [33, 33]
    assert serve_ms(Deployment(ranks=2, prices=TOKENS, lockstep=False), rows, "finish_ns") == [14, 32]


def test_a_rank_with_nothing_to_do_begins_with_the_next_step_of_all():
    rows = [(0, 9, 10), (12.5, 4, 1)]
    for lags, first_ms in ((False, 19), (True, 21)):
        engine = Deployment(ranks=2, prices=TOKENS, plans_ahead=True, idle_ranks_lag=lags)
        assert serve_ms(engine, rows, "first_token_ns")[1] == first_ms
    assert serve_ms(Deployment(ranks=2, prices=TOKENS), rows, "first_token_ns")[1] == 19


def test_each_rank_has_blocks_of_its_own():
    both = Deployment(ranks=2, blocks=20, prices=EVEN).serve_at_once([96] * 4, [40] * 4)
    alone = Deployment(ranks=1, blocks=20, prices=EVEN).serve_at_once([96] * 4, [40] * 4)
    assert max(times(both)["admitted_ns"]) < max(times(alone)["admitted_ns"])
    assert len(both.instances) == 1
    assert [core.state.pool.blocks for core in both.instances[0].cores] == [20, 20]


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60, deadline=None)
@given(rows=requests, ranks=st.integers(1, 4), blocks=st.sampled_from([20, 200]))
def test_where_all_steps_are_equal_it_does_not_matter_whether_ranks_wait_for_each_other(policy, rows, ranks, blocks):
    common = {"ranks": ranks, "blocks": blocks, "max_sequences": 4, "max_tokens": 64, "policy": policy, "prices": EVEN}
    found = [Deployment(**common, lockstep=together).serve(*on_grid(rows)) for together in (True, False)]
    assert times(found[0]) == times(found[1])


@pytest.mark.parametrize(("balancer", "router"), [("round_robin", "round_robin"), ("total_requests", "least_loaded")])
@settings(max_examples=60, deadline=None)
@given(rows=requests, policy=st.sampled_from(POLICIES), ahead=st.booleans())
def test_ranks_that_share_nothing_are_replicas_behind_a_router(balancer, router, rows, policy, ahead):
    common = {"blocks": 30, "max_sequences": 4, "max_tokens": 64, "policy": policy, "plans_ahead": ahead}
    common["rules"] = {"overlap": ahead} if policy == "sglang" else {}
    ranks = Deployment(**common, ranks=3, lockstep=False, balancer=balancer).serve(*on_grid(rows))
    chosen = ROUTERS[router](np.random.default_rng(0))
    replicas = Deployment(**common, replicas=3, router=chosen).serve(*on_grid(rows))
    skip = {"instance", "decode_instance"}
    one, other = ({k: v for k, v in times(run).items() if k not in skip} for run in (ranks, replicas))
    assert one == other


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60, deadline=None)
@given(rows=requests, ahead=st.booleans(), blocks=st.sampled_from([20, 200]), waits_ns=st.sampled_from([0, 2_500_000]))
def test_one_rank_is_an_engine(policy, rows, ahead, blocks, waits_ns):
    common = {"blocks": blocks, "max_sequences": 4, "max_tokens": 64, "policy": policy, "plans_ahead": ahead}
    common["rules"] = {"overlap": ahead} if policy == "sglang" else {}
    ranks, common["waits_ns"] = LockstepRanks, 0
    if policy == "trtllm" and waits_ns:
        ranks, common["waits_ns"] = GatheringRanks, waits_ns
    found = [Deployment(**common, make=make).serve(*on_grid(rows)) for make in (None, ranks)]
    assert times(found[0]) == times(found[1])


def test_a_light_load_takes_few_events():
    rng = np.random.default_rng(2)
    size = 2000
    arrivals = OpenLoop(np.cumsum(rng.exponential(20_000_000, size)).astype(int).tolist())
    cluster = Deployment(ranks=4).serve(arrivals, rng.integers(1, 500, size), rng.integers(1, 400, size))
    steps = int(cluster.logs[0].table()["steps"].sum())
    assert cluster.events / size < 8
    assert steps / size > 10


# --- balancers -----------------------------------------------------------------------------------------


def loads(*pairs: tuple[int, int]) -> list[RankLoad]:
    """Return loads of (requests, tokens of their prompts) that all run."""
    found = []
    for count, tokens in pairs:
        load = RankLoad(Deployment().serve_at_once([1], [1]).instances[0])
        load.requests, load.prompt_tokens = count, tokens
        load._core.state.running = dict.fromkeys(range(count))
        found.append(load)
    return found


def test_turns_do_not_look_at_loads():
    balancer = BALANCERS["round_robin"](0)
    assert [balancer.choose(loads((9, 0), (0, 0), (0, 0))) for _ in range(4)] == [0, 1, 2, 0]


def test_the_fewest_requests():
    assert BALANCERS["total_requests"](0).choose(loads((2, 0), (1, 9), (1, 0))) == 1


def test_among_equals_vllm_looks_at_another_rank_first_every_time():
    balancer = BALANCERS["lowest_score"](0)
    assert [balancer.choose(loads((1, 0), (1, 0), (1, 0))) for _ in range(4)] == [0, 1, 2, 0]
    assert balancer.choose(loads((2, 0), (0, 0), (3, 0))) == 1


def test_older_releases_of_vllm_count_those_who_wait_four_times():
    waits, runs = loads((3, 0), (5, 0))
    assert BALANCERS["waiting_first"](0).choose([waits, runs]) == 0
    waits._core.state.running.popitem()
    assert BALANCERS["waiting_first"](0).choose([waits, runs]) == 1


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer_chooses_a_rank_and_repeats_itself(name):
    pairs = [(n * 7 % 5, n * 13 % 11) for n in range(6)]
    one, other = (
        [balancer.choose(loads(*pairs)) for _ in range(8)] for balancer in (BALANCERS[name](0), BALANCERS[name](0))
    )
    assert one == other
    assert set(one) <= set(range(6))


def test_rooms_are_numbered_at_random():
    """Some ranks get more than others, and every instance draws numbers of its own."""
    turns = [BALANCERS["follow_bootstrap_room"](instance) for instance in (0, 1)]
    one, other = ([balancer.choose(loads((0, 0), (0, 0), (0, 0), (0, 0))) for _ in range(400)] for balancer in turns)
    counts = [one.count(rank) for rank in range(4)]
    # Binomial: a mean of 100, a standard deviation below 9.
    assert 60 < min(counts) < max(counts) < 140
    assert len(set(counts)) > 1
    assert one != other


@pytest.mark.parametrize(("free", "chosen"), [(60, 0), (10, 1)])
def test_requests_that_wait_count_more_where_the_cache_is_full(free, chosen):
    waits, runs = loads((3, 0), (4, 0))
    waits._core.state.running.popitem()
    waits._core.state.pool.free = waits._core.state.pool.blocks * free // 100
    assert BALANCERS["lowest_score"](0).choose([waits, runs]) == chosen


def test_the_fewest_tokens_among_those_below_their_share():
    balancer = BALANCERS["fewest_tokens"](0)
    # Nine requests for three ranks: three each, so that the one with the fewest tokens has too many already.
    assert balancer.choose(loads((3, 10), (2, 500), (3, 400))) == 1
    assert balancer.choose(loads((3, 10), (3, 500), (4, 400))) == 0
    assert balancer.choose(loads((1, 20), (0, 20), (2, 0))) == 1


# --- prompts that wait for other ranks -----------------------------------------------------------------


def decided(balance: PromptBalance, *steps) -> list[bool]:
    """Return for steps of (prompts, decodes) of each rank whether prompts are put off."""
    return [balance.holds(*step) for step in steps]


def test_prompts_wait_until_all_ranks_have_some_or_time_is_over():
    some, all_have = ([2, 0], [3, 3]), ([2, 1], [3, 3])
    assert decided(PromptBalance(3, 0, 9), some, some, some, some) == [True, True, False, True]
    assert decided(PromptBalance(9, 0, 9), some, all_have, some) == [True, False, True]
    assert decided(PromptBalance(0, 0, 9), some, some) == [False, False]


def test_nobody_waits_for_a_rank_that_decodes_nothing():
    assert decided(PromptBalance(9, 9, 9), ([2, 0], [0, 3]), ([2, 1], [0, 3])) == [False, False]


def test_a_full_rank_lets_prompts_wait():
    assert decided(PromptBalance(9, 0, 3), ([2, 1], [3, 1]), ([2, 1], [2, 1])) == [True, False]


def test_once_all_have_prompts_they_wait_for_more():
    all_have = ([2, 1], [3, 3])
    assert decided(PromptBalance(9, 2, 9), *[all_have] * 4) == [True, True, False, True]


@given(st.integers(0, 9), st.integers(0, 40), st.integers(0, 30), st.sampled_from([[1, 2], [0, 2]]))
def test_a_run_of_steps_counts_as_its_steps(timeout, before, steps, decodes):
    one, other = PromptBalance(timeout, 2, 9), PromptBalance(timeout, 2, 9)
    decided(one, *[([0, 0], decodes)] * (before + 1 + steps))
    decided(other, *[([0, 0], decodes)] * (before + 1))
    other.repeat(steps)
    assert one.holds([1, 0], decodes) == other.holds([1, 0], decodes)


def test_ranks_compute_prompts_together():
    """While both ranks decode, the prompt for rank 0 waits for one for rank 1."""
    rows = [(0, 10, 40), (0, 10, 40), (4.5, 10, 1), (9.5, 10, 1)]
    found = {}
    for name, balance in (("apart", None), ("together", partial(PromptBalance, 50, 0, 256))):
        engine = Deployment(ranks=2, policy="trtllm", prices=EVEN, prompt_balance=balance)
        found[name] = serve_ms(engine, rows, "first_token_ns")[2:]
    assert found == {"apart": [6, 11], "together": [11, 11]}
