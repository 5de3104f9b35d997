"""The agenda of ends leads to every stream that has flows."""

from __future__ import annotations

from simulator.flows import Agenda, Key, Stream


def test_a_stream_that_was_idle_when_the_agenda_was_tidied_is_found_again() -> None:
    agenda = Agenda()
    idle, busy = (Stream(Key((), cap), (), 0) for cap in (1e9, 2e9))
    idle.ends_ns = 1000
    agenda.book(idle)
    busy.flows = 1
    for ends_ns in range(100_000, 0, -1):
        busy.ends_ns = ends_ns
        agenda.book(busy)
    agenda.tidy()
    idle.flows, idle.ends_ns = 1, 2000
    agenda.book(idle)
    busy.flows, busy.ends_ns = 0, 10**12
    assert agenda.first() is idle
