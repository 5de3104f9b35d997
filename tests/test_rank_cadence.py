"""What attention ranks that step together count in common: looks at who has come, and steps that compute prompts."""

from __future__ import annotations

import pytest
from serving import Deployment, OpenLoop, linear_prices, times

#: Every step takes a millisecond.
EVEN = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)


def first_tokens_ms(deployment: Deployment, arrivals_ms: list[float], outputs: list[int]) -> list[float]:
    """Return when requests of ten tokens, dealt to ranks in turn, have their first tokens."""
    cluster = deployment.serve(OpenLoop([round(ms * 1e6) for ms in arrivals_ms]), [10] * len(outputs), outputs)
    return [ns / 1e6 for ns in times(cluster)["first_token_ns"]]


# --- SGLang: scheduler_recv_interval -------------------------------------------------------------------


def sglang(*, every: int = 5, overlap: bool = False, ranks: int = 2) -> Deployment:
    rules = {"overlap": overlap}
    return Deployment(policy="sglang", prices=EVEN, rules=rules, plans_ahead=overlap, polls_every=every, ranks=ranks)


def test_an_idle_rank_looks_when_all_do():
    # The prompt takes the first step; looks are at 1 ms, and every five steps after that, though rank 1 does nothing.
    assert first_tokens_ms(sglang(), [0, 2.5], [40, 1]) == [1, 7]
    assert first_tokens_ms(sglang(every=1), [0, 2.5], [40, 1]) == [1, 4]


def test_a_prompt_of_any_rank_lets_all_look():
    # Rank 1 computes its prompt from 6 to 7 ms: rank 0 looks right behind it.
    assert first_tokens_ms(sglang(), [0, 2.5, 6.5], [40, 1, 1]) == [1, 7, 8]
    assert first_tokens_ms(sglang(), [0, 2.5, 9], [40, 1, 1]) == [1, 7, 13]


def test_a_look_that_plans_ahead_is_over_when_its_step_begins():
    assert first_tokens_ms(sglang(overlap=True), [0, 4.999], [40, 1]) == [1, 7]
    assert first_tokens_ms(sglang(overlap=True), [0, 5.5], [40, 1]) == [1, 12]


@pytest.mark.parametrize("overlap", [False, True])
def test_ranks_that_are_all_idle_receive_at_once(overlap):
    engine = sglang(every=1000, overlap=overlap)
    assert first_tokens_ms(engine, [0, 50, 90.5], [3, 3, 3]) == [1, 51, 91.5]
    # Where all get idle while a request has not been received, they receive it then.
    assert first_tokens_ms(engine, [0, 2.5], [6, 1]) == [1, 7]


def test_looking_seldom_costs_no_more_events():
    arrivals, outputs = [4_000_000 * row for row in range(100)], [50] * 100
    events = [sglang(every=every).serve(OpenLoop(arrivals), [10] * 100, outputs).events for every in (1, 20)]
    assert events[1] <= events[0]


# --- vLLM: prefill_schedule_interval -------------------------------------------------------------------


def vllm(*, every: int = 4, ranks: int = 2, **more) -> Deployment:
    return Deployment(policy="vllm", prices=EVEN, rules={"interval": every}, ranks=ranks, **more)


def test_ranks_compute_prompts_in_the_same_steps():
    # Rank 1 decodes nothing at 2 ms and computes its prompt at once. The next steps of all with prompts are the fifth,
    # from 4 ms on, and the ninth; rank 1 by itself would wait until 6 ms.
    arrivals, outputs = [0, 1.5, 3.5, 3.6, 4.5], [40, 40, 1, 1, 1]
    assert first_tokens_ms(vllm(), arrivals, outputs) == [1, 3, 5, 5, 9]
    assert first_tokens_ms(vllm(every=1), arrivals, outputs) == [1, 3, 5, 5, 6]
    # Ranks of a dense model are engines of their own.
    assert first_tokens_ms(vllm(lockstep=False), arrivals, outputs)[3] == pytest.approx(6.5)


def test_the_count_begins_anew_when_all_ranks_were_idle():
    # Three steps, rest; from 10 ms on the first, fifth, ... step. Had the count gone on, the last would come at 16 ms.
    assert first_tokens_ms(vllm(), [0, 10, 10.5, 12.5], [3, 40, 1, 1]) == [1, 11, 12, 15]


def test_a_step_of_a_rank_counts_for_a_rank_that_is_idle():
    # Rank 0 has made six steps when rank 1 begins; rank 1 gets its second prompt in the ninth step of all.
    assert first_tokens_ms(vllm(), [0, 5.5, 6.2, 6.5], [40, 40, 1, 1]) == [1, 7, 9, 9]
