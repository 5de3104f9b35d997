from hypothesis import given
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, times

from simulator.front_end import FrontEnd, FrontEndTime

TIMES = st.builds(FrontEndTime, st.integers(0, 10**8), st.integers(0, 10**7), st.integers(0, 10**4))


def test_requests_that_come_together_queue_and_one_alone_takes_its_own_time():
    front_end = FrontEnd(FrontEndTime(latency_ns=1000, request_ns=10, token_ns=2), 1)
    assert [front_end.delay_ns(at, 5) for at in (0, 0, 5, 500)] == [1020, 1040, 1055, 1020]


def test_as_many_requests_are_taken_in_at_once_as_there_are_servers():
    front_end = FrontEnd(FrontEndTime(request_ns=100), 2)
    assert [front_end.delay_ns(0, 1) for _ in range(4)] == [100, 100, 200, 200]


@given(TIMES, st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 1000)), min_size=1, max_size=30))
def test_nobody_is_faster_than_alone_nor_slower_than_behind_all(time, requests):
    front_end, now, work = FrontEnd(time, 1), 0, 0
    for gap, tokens in requests:
        now, own = now + gap, time.request_ns + time.token_ns * tokens
        work += own
        assert max(1, own + time.latency_ns) <= front_end.delay_ns(now, tokens) <= max(1, work + time.latency_ns)


@given(st.integers(1, 10**8), st.lists(st.integers(0, 10**8), min_size=1, max_size=12))
def test_a_latency_moves_every_time_but_the_arrival(latency, gaps):
    """A law of shifts: what the engine sees is the same traffic, later."""
    arrivals = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    sizes = [100 + 10 * i for i in range(len(gaps))], [5] * len(gaps)
    plain = times(Deployment().serve(OpenLoop(arrivals), *sizes))
    moved = times(Deployment(front_end=FrontEndTime(latency)).serve(OpenLoop(arrivals), *sizes))
    assert moved["arrival_ns"] == plain["arrival_ns"]
    for name in ("admitted_ns", "first_token_ns", "finish_ns"):
        assert moved[name] == [at + latency for at in plain[name]]


@given(TIMES)
def test_macro_steps_change_nothing_behind_a_front_end(time):
    arrivals, sizes = [0, 0, 3 * 10**7, 3 * 10**7 + 1], ([200, 30, 500, 8], [40, 60, 20, 33])
    found = [
        times(Deployment(front_end=time).serve(OpenLoop(arrivals), *sizes, macro_steps=macro))
        for macro in (True, False)
    ]
    assert found[0] == found[1]
