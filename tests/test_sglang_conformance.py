"""Every decision of SGLang's own scheduler, as recorded, is ours; and the record notices when a rule is missing.

Recorded by ``python -m benchmarks.conformance_sglang --small --cases 140 --also 508 673 --write
tests/golden/sglang-steps.json.xz`` with SGLang 0.5.23, and
``sglang-polls.json.xz`` by the same with ``--polling --cases 40``.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from sglang_record import differs, keep_last_tokens, read_record

from benchmarks.conformance_sglang import first_difference
from benchmarks.sglang_ours import decisions
from simulator.inbox import Inbox
from simulator.radix_cache import RadixCache
from simulator.schedulers import sglang, sglang_order, sglang_retraction
from simulator.schedulers.reserve import NewTokenRatio
from simulator.schedulers.sglang import SglangScheduler
from simulator.schedulers.sglang_admission import Admission
from simulator.schedulers.sglang_memory import Memory

RECORD, POLLS = (read_record(name) for name in ("sglang-steps.json.xz", "sglang-polls.json.xz"))


def notices(record=RECORD) -> bool:
    """Tell whether a decision differs in a recorded case, or none can be made at all."""
    return differs(record, decisions)


def test_every_recorded_decision_is_ours():
    steps = 0
    for number, pair in enumerate(RECORD):
        assert first_difference(decisions(pair["case"]), pair["log"]) is None, f"case {number}"
        steps += len(pair["log"])
    assert steps > 10_000


def test_the_record_has_retractions_evictions_and_full_batches():
    kept = retracted = 0
    for pair in RECORD:
        log = pair["log"]
        kept += any(row["idle"] for row in log)
        retracted += any(later["ratio"] > row["ratio"] for row, later in pairwise(log) if later["rows"])
    assert kept > 50
    assert retracted > 5


def _come_back_late(self, state, memory, plan, prefill=SglangScheduler._prefill):
    before = memory.processed
    found = prefill(self, state, memory, plan)
    for request in plan.preempted:
        memory.seats[request.index].processed += memory.processed - before
    return found


#: Every rule by name: what takes it away.
RULES = {
    "prompts go before decoding": (SglangScheduler, "_prefill", lambda *_: False),
    "a full batch is not looked at again": (
        Memory,
        "turn_over",
        lambda self, state, *, knows, old=Memory.turn_over: (
            old(self, state, knows=knows),
            setattr(self, "full", False),
        ),
    ),
    "the ratio falls": (NewTokenRatio, "at", lambda self, _step: self._fallen[0]),
    "the ratio rises after retractions": (NewTokenRatio, "raise_to", lambda *_: None),
    "the ratio begins anew when idle": (NewTokenRatio, "reset", lambda *_: None),
    "mixed steps do not count for the ratio": (NewTokenRatio, "pause", lambda *_: None),
    "answers are reserved": (Memory, "total_left", lambda *_: 0),
    "tokens under way are not known": (Memory, "lag", lambda *_: 0),
    "rows that end unknown decode once more": (Memory, "spare_rows", lambda *_: []),
    "rows that end at their limit are left out": (Memory, "spare_rows", lambda _, state: list(state.ending.values())),
    "chunks enter the tree": (RadixCache, "checkpoint", lambda *_: None),
    "finished requests enter the tree": (
        RadixCache,
        "retire",
        lambda self, request, tokens, _prompt: (setattr(request, "computed", tokens), self.release(request)),
    ),
    "nodes are cut at the end of the prompt": (
        RadixCache,
        "_enter",
        lambda self, request, tokens, _prompt, old, enter=RadixCache._enter: enter(self, request, tokens, 0, old),
    ),
    "a look makes a node young": (RadixCache, "_look_at", lambda *_: None),
    "prompts wait for the budget": (Admission, "spent", lambda *_: False),
    "what a request finds is not free": (RadixCache, "evictable", lambda *_: 0),
    "those with the fewest tokens are retracted first": (Memory, "left", lambda *_: 0),
    "room is made for those that stay": (sglang_retraction, "_SPARE_TOKENS", 0),
    "the share after a retraction counts produced tokens": (sglang_retraction, "_share", lambda *_: 1.0),
    "a last token under way is lost": (sglang_retraction, "put_back", keep_last_tokens),
    "those that are back wait while a step computes": (SglangScheduler, "_prefill", _come_back_late),
    "the queue is sorted": (sglang, "arrange", lambda *_, **__: None),
    "waiting prompts are looked at now and then": (sglang_order, "_refresh", lambda *_: None),
    "prompts that begin alike wait for one of them": (sglang_order, "_shared", lambda *_: 0),
    "the most urgent push others out": (sglang, "outranked", lambda *_: []),
    "decoding goes first for some steps": (SglangScheduler, "_defers", lambda *_: False),
    "running requests decode beside prompts": (SglangScheduler, "_mix", lambda *_: False),
    "answers that are known are planned to their ends": (
        Admission,
        "_offer_whole",
        lambda self, request, seat, missing: self._commit(request, seat, request.tokens - missing, self.pool.root),
    ),
    "shorter prompts find room beside a chunk": (Admission, "_limit", lambda *_: 1 << 60),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_record_notices_a_missing_rule(rule, monkeypatch):
    owner, name, replacement = RULES[rule]
    monkeypatch.setattr(owner, name, replacement)
    assert notices()


def test_requests_are_received_in_the_passes_in_which_sglang_receives_them():
    assert not notices(POLLS)
    assert sum(len(pair["log"]) for pair in POLLS) > 5000


#: Every rule of :class:`simulator.inbox.Inbox` by name: what takes it away.
POLLING = {
    "requests wait for a look": ("look", lambda self, until: self._receive(until)),
    "a step that computes prompts lets the next pass look": ("planned", lambda *_: None),
    "passes without a step count": ("planned", lambda self, plan: setattr(self, "_due", bool(plan.chunks))),
    "who is idle looks": ("rest", lambda *_: None),
}


@pytest.mark.parametrize("rule", POLLING)
def test_the_record_notices_a_missing_rule_of_polling(rule, monkeypatch):
    monkeypatch.setattr(Inbox, *POLLING[rule])
    assert notices(POLLS)
