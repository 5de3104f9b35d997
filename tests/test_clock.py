"""The clock: the order of what is due, how far a run goes, and SimPy's own processes on it."""

from __future__ import annotations

import pytest
from simpy.events import NORMAL, URGENT

from simulator.clock import FIRST, Clock, Urgent, call_off, soon


def test_what_is_due_comes_by_time_then_priority_then_order_of_being_asked_for():
    env, seen = Clock(), []
    for name, delay_ns, priority in [("d", 5, NORMAL), ("c", 5, URGENT), ("b", 5, FIRST), ("e", 5, NORMAL)]:
        env.call(delay_ns, lambda _, name=name: seen.append((name, env.now)), priority)
    soon(env, 4, lambda: seen.append(("a", env.now)))
    env.run()
    assert seen == [("a", 4), ("b", 5), ("c", 5), ("d", 5), ("e", 5)]


def test_what_was_to_be_done_can_be_taken_back_until_its_time():
    env, seen = Clock(), []
    call = env.call(3, seen.append)
    call_off(call)
    env.run()
    assert (seen, env.now) == ([], 3)


def test_a_run_ends_at_the_beginning_of_a_nanosecond_and_goes_on_from_there():
    env, seen = Clock(), []
    for time_ns in (1, 2, 3):
        env.call(time_ns, lambda _: seen.append(env.now), URGENT)
        env.call(time_ns, lambda _: seen.append(env.now))
    env.run(until=2)
    # What was asked for before the run, and is as urgent as its end, has happened.
    assert (seen, env.now) == ([1, 1, 2], 2)
    env.run()
    assert seen == [1, 1, 2, 2, 3, 3]


def test_a_run_ends_with_an_event_or_complains_that_it_will_never_come():
    env = Clock()
    env.call(7, lambda _: None)
    env.run(until=Urgent(env, 5))
    assert env.now == 5
    with pytest.raises(RuntimeError, match="nothing is left"):
        env.run(until=env.event())


def test_processes_of_simpy_run_on_it_and_what_they_raise_is_raised():
    env, seen = Clock(), []

    def process():
        yield env.timeout(4)
        seen.append(env.now)
        yield Urgent(env, 2)
        raise ValueError(env.now)

    env.process(process())
    with pytest.raises(ValueError, match="6"):
        env.run()
    assert seen == [4]
