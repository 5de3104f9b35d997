import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, Users, times

from simulator.front_end import FrontEnd, FrontEndTime, Outlet
from simulator.records import Ledger

TIMES = st.builds(
    FrontEndTime, st.integers(0, 10**8), st.integers(0, 10**7), st.integers(0, 10**4), st.integers(0, 10**6)
)


def test_requests_that_come_together_queue_and_one_alone_takes_its_own_time():
    front_end = FrontEnd(FrontEndTime(latency_ns=1000, request_ns=10, token_ns=2))
    assert [front_end.take_in(at, 5) for at in (0, 0, 5, 500)] == [1020, 1040, 1055, 1020]


def test_tokens_that_come_faster_than_they_can_be_sent_wait_and_requests_behind_them():
    front_end = FrontEnd(FrontEndTime(request_ns=10, output_ns=5))
    assert [front_end.send_out(at, tokens) for at, tokens in ((100, 10), (200, 30), (300, 40))] == [0, 50, 150]
    assert front_end.take_in(400, 1) == 60
    assert (front_end.left_ns(420), front_end.left_ns(1000)) == (40, 0)


def test_what_waits_is_sent_once():
    ledger = Ledger(np.ones(3, np.int64), np.ones(3, np.int64))
    outlet = Outlet(ledger)
    outlet.first(0, 150)
    outlet.front_end = FrontEnd(FrontEndTime(output_ns=7))
    outlet.waiting = 100
    outlet.first(1, 200)
    outlet.last(1, 200)
    outlet.last(0, 650)
    assert (ledger.told_ns.tolist(), ledger.finish_ns.tolist()) == ([150, 700, -1], [700, 700, -1])


@given(TIMES, st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 1000)), min_size=1, max_size=30))
def test_nobody_is_faster_than_alone_nor_slower_than_behind_all(time, requests):
    front_end, now, work = FrontEnd(time), 0, 0
    for gap, tokens in requests:
        now, own = now + gap, time.request_ns + time.token_ns * tokens
        work += own
        assert max(1, own + time.latency_ns) <= front_end.take_in(now, tokens) <= max(1, work + time.latency_ns)


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


@given(st.integers(1, 10**6), st.integers(1, 3))
def test_what_leaves_late_leaves_in_order(output_ns, ranks):
    """Nothing is told before it is there, and no end before its begin; ranks share what stands before them."""
    sizes = [300, 20, 700, 64] * 5, [40, 60, 20, 33] * 5
    arrivals = [i * 10**6 + 1 for i in range(20)]
    kind = {"ranks": ranks, "balancer": "round_robin"}
    late = times(Deployment(**kind, front_end=FrontEndTime(output_ns=output_ns)).serve(OpenLoop(arrivals), *sizes))
    assert all(first <= last for first, last in zip(late["told_ns"], late["finish_ns"], strict=True))
    assert all(there >= produced for there, produced in zip(late["told_ns"], late["first_token_ns"], strict=True))
    plain = times(Deployment(**kind).serve(OpenLoop([at + 1 for at in arrivals]), *sizes))
    # A front end that is busy sending lets requests in later, and others may end earlier for it.
    if late["admitted_ns"] == plain["admitted_ns"]:
        assert all(there >= ended for there, ended in zip(late["finish_ns"], plain["finish_ns"], strict=True))


def test_no_more_tokens_leave_than_a_front_end_can_send():
    """A closed loop settles at the rate of the slower of engine and front end."""
    work = [200] * 300, [100] * 300
    cluster = Deployment(front_end=FrontEndTime(output_ns=500_000)).serve(Users(30, [0] * 270), *work)
    assert 0.95 < 300 * 100 * 500_000 / cluster.ended_ns <= 1.0


@given(TIMES)
def test_macro_steps_change_nothing_behind_a_front_end(time):
    arrivals, sizes = [0, 0, 3 * 10**7, 3 * 10**7 + 1], ([200, 30, 500, 8], [40, 60, 20, 33])
    found = [
        times(Deployment(front_end=time).serve(OpenLoop(arrivals), *sizes, macro_steps=macro))
        for macro in (True, False)
    ]
    assert found[0] == found[1]
