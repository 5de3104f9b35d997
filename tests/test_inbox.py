"""When an engine receives requests that looks for them only now and then."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, linear_prices, times

PRICES = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)


def engine(*, every: int, overlap: bool, **more) -> Deployment:
    """Return a deployment whose every step takes a millisecond."""
    rules = {"overlap": overlap}
    return Deployment(
        policy="sglang", prices=PRICES, block_tokens=1, rules=rules, plans_ahead=overlap, polls_every=every, **more
    )


def first_tokens_ms(deployment: Deployment, arrivals_ms: list[float], outputs: list[int]) -> list[float]:
    cluster = deployment.serve(OpenLoop([round(ms * 1e6) for ms in arrivals_ms]), [10] * len(outputs), outputs)
    return [ns / 1e6 for ns in times(cluster)["first_token_ns"]]


def test_a_request_waits_for_the_next_look():
    # The prompt takes the first step; looks are at 1 ms, and every five steps after that.
    assert first_tokens_ms(engine(every=5, overlap=False), [0, 2.5, 6.5], [40, 1, 1]) == [1, 7, 8]
    assert first_tokens_ms(engine(every=5, overlap=False), [0, 2.5, 9], [40, 1, 1]) == [1, 7, 13]
    assert first_tokens_ms(engine(every=1, overlap=False), [0, 2.5, 9], [40, 1, 1]) == [1, 4, 10]


def test_a_plan_made_ahead_adds_a_step():
    assert first_tokens_ms(engine(every=5, overlap=True), [0, 2.5], [40, 1]) == [1, 7]
    assert first_tokens_ms(engine(every=5, overlap=True), [0, 4.999], [40, 1]) == [1, 7]
    # The look that plans the step after the fifth is over when the fifth begins.
    assert first_tokens_ms(engine(every=5, overlap=True), [0, 5.5], [40, 1]) == [1, 12]


def test_requests_that_come_together_are_received_together():
    assert first_tokens_ms(engine(every=10, overlap=False), [0, 2.5, 7.5, 10.5], [40, 1, 1, 1]) == [1, 12, 12, 12]


def test_an_idle_engine_receives_at_once():
    for overlap in (False, True):
        assert first_tokens_ms(engine(every=1000, overlap=overlap), [0, 50, 90.5], [3, 3, 3]) == [1, 51, 91.5]
        # One that gets idle while a request has not been received does so then.
        assert first_tokens_ms(engine(every=1000, overlap=overlap), [0, 2.5], [6, 1]) == [1, 7]


def test_looking_seldom_costs_no_more_events():
    arrivals, outputs = [float(ms) for ms in range(0, 400, 4)], [50] * 100
    rows = OpenLoop([round(ms * 1e6) for ms in arrivals]), [10] * 100, outputs
    assert engine(every=20, overlap=True).serve(*rows).events <= engine(every=1, overlap=True).serve(*rows).events


requests = st.lists(st.tuples(st.integers(0, 120), st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=25)


@settings(max_examples=300, deadline=None)
@given(
    requests,
    st.sampled_from([2, 3, 7, 30]),
    st.booleans(),
    st.sampled_from([120, 200, 2000]),
    st.sampled_from([250_000, 333_333, 1_000_000]),
    st.fixed_dictionaries(
        {
            "mixed": st.booleans(),
            "interval": st.sampled_from([0, 3]),
            "conservativeness": st.sampled_from([0.0, 1.0]),
            "ranked": st.booleans(),
            "preempts": st.booleans(),
        }
    ),
    st.sampled_from([0, 30]),
)
def test_runs_of_steps_equal_single_steps(rows, every, overlap, blocks, grid_ns, rules, declared):
    """On a grid of quarters of a step, on steps themselves, and off both."""
    rows = sorted(rows)
    rows_of = OpenLoop([row[0] * grid_ns for row in rows]), [row[1] for row in rows], [row[2] for row in rows]
    runs = []
    for macro_steps in (True, False):
        deployment = engine(every=every, overlap=overlap, blocks=blocks, max_sequences=8, declared_tokens=declared)
        deployment.rules |= rules
        runs.append(deployment.serve(*rows_of, macro_steps=macro_steps))
    assert times(runs[0]) == times(runs[1])
