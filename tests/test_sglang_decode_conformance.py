"""Every recorded decision of SGLang's own instance that only decodes is ours, and the record notices a missing rule.

Recorded by ``python -m benchmarks.conformance_sglang --decode --small --cases 60 --also 65 118 127 342 455 712 1240
1443 --write tests/golden/sglang-decode.json.xz`` with SGLang 0.5.23.
"""

from __future__ import annotations

import pytest
from sglang_record import differs, keep_last_tokens, read_record

from benchmarks.conformance_sglang import first_difference
from benchmarks.sglang_stage_ours import decode_decisions
from simulator.schedulers import sglang, sglang_retraction
from simulator.schedulers.sglang_memory import Memory
from simulator.schedulers.sglang_reception import Crowd, Reception, ReceptionLine

RECORD = read_record("sglang-decode.json.xz")


def notices() -> bool:
    """Tell whether a decision differs in a recorded case, or none can be made at all."""
    return differs(RECORD, decode_decisions)


def test_every_recorded_decision_is_ours():
    steps = 0
    for number, pair in enumerate(RECORD):
        assert first_difference(decode_decisions(pair["case"]), pair["log"]) is None, f"case {number}"
        steps += len(pair["log"])
    assert steps > 5000


class _Free:
    """Rules without reserved tokens."""

    def __init__(self, rules, **changes) -> None:
        self.__dict__.update({name: getattr(rules, name) for name in ("max_sequences", "extra_rows", "ranked")})
        self.reserved_tokens = rules.reserved_tokens
        self.__dict__.update(changes)


def _with(**changes):
    def begin(self, rules, memory, old=Reception.__init__):
        old(self, _Free(rules, **changes), memory)

    return begin


def _sort_at_once(self, request, append=ReceptionLine.append):
    append(self, request)
    self.reorder(sorted(self, key=lambda other: (other.remote, other.priority if other.remote and self._ranked else 0)))


def _hold_up_nobody(self, state, plan, crowd, look=Reception.look):
    resumed = look(self, state, plan, crowd)
    self.held_up = False
    return resumed


#: Every rule by name: what takes it away.
RULES = {
    "tokens are reserved for every request": (Reception, "__init__", _with(reserved_tokens=0)),
    "the longest has room in the end": (
        Reception,
        "crowd",
        lambda self, state, ended, old=Reception.crowd: Crowd(*old(self, state, ended)[:2], 0),
    ),
    "what runs can be retracted": (
        Reception,
        "crowd",
        lambda self, state, ended, old=Reception.crowd: old(self, state, ended)._replace(tokens=0),
    ),
    "there are only so many requests besides": (Reception, "__init__", _with(extra_rows=1000)),
    "places for what comes besides KV are few": (Reception, "_rows_left", lambda *_: 1000),
    "retracted requests come back first": (
        ReceptionLine,
        "append",
        lambda self, request: (self._memory.enter(request), self.insert(len(self), request)),
    ),
    "nobody joins while a retracted request waits": (Reception, "look", _hold_up_nobody),
    "the most urgent are first in line": (ReceptionLine, "reorder", lambda *_: None),
    "the line is sorted when it is looked at": (ReceptionLine, "append", _sort_at_once),
    "a last token under way is lost": (sglang_retraction, "put_back", keep_last_tokens),
    "rows that ended keep their place for a pass": (
        Reception,
        "join",
        lambda self, state, plan, _places, old=Reception.join: old(
            self, state, plan, self._rules.max_sequences - state.decodes
        ),
    ),
    "who joins has no token under way": (Memory, "lag", lambda self, _request: int(self.last_kind != "")),
    "rows that end unknown decode once more": (Memory, "spare_rows", lambda *_: []),
    "rows that end at their limit are left out": (Memory, "spare_rows", lambda _, state: list(state.ending.values())),
    "those with the fewest tokens are retracted first": (Memory, "left", lambda *_: 0),
    "who does not fit is retracted": (sglang, "room_to_decode", lambda *_: True),
    "retracted requests have to fit": (Reception, "_comes_back", lambda *_: True),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_record_notices_a_missing_rule(rule, monkeypatch):
    owner, name, replacement = RULES[rule]
    monkeypatch.setattr(owner, name, replacement)
    assert notices()
