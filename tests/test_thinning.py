"""A share of a workload: nested, whole conversations, and names of prefixes that still fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import ScenarioError
from simulator import load_scenario, simulate
from workloads.media import Item, media_of
from workloads.prefixes import prefixes_of
from workloads.synthetic import Synthetic, synthesize
from workloads.table import Arrivals, BlockHashes
from workloads.thinning import thinned

CONVERSATIONS = {
    "requests": 200,
    "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
    "prompt_tokens": {"kind": "fixed", "value": 40},
    "output_tokens": {"kind": "fixed", "value": 8},
    "shared_prefix_tokens": 100,
    "sessions": {"turns": 4, "think_time_s": {"kind": "exponential", "mean": 2}, "wait_for_answer": True},
}


def lone(requests: int) -> Arrivals:
    rows = np.arange(requests)
    return Arrivals(rows * 10, rows + 1, rows % 7 + 1, "lone")


@given(st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 5))
def test_a_smaller_share_is_part_of_a_larger_one(one, other, seed):
    less, more = (set(thinned(lone(400), share, seed).arrival_ns.tolist()) for share in sorted((one, other)))
    assert less <= more


def test_a_share_is_about_that_share_and_all_of_it_the_workload_itself():
    every = lone(20_000)
    assert len(thinned(every, 0.25, 1)) / 20_000 == pytest.approx(0.25, abs=0.01)
    assert thinned(every, 1.0, 1) is every


def test_conversations_stay_whole_and_their_turns_wait_for_each_other():
    every = synthesize(Synthetic.model_validate(CONVERSATIONS), 3)
    some = thinned(every, 0.4, 3)
    sizes, all_sizes = (np.unique(table.session, return_counts=True) for table in (some, every))
    assert dict(zip(*sizes, strict=True)).items() <= dict(zip(*all_sizes, strict=True)).items()
    waits = some.later >= 0
    assert 0 < waits.sum() < len(some)
    assert (some.session[some.later[waits]] == some.session[waits]).all()
    assert (some.think_ns[waits] > 0).any()


def test_prefixes_name_the_same_requests_as_before():
    every = synthesize(Synthetic.model_validate(CONVERSATIONS), 3)
    some = thinned(every, 0.4, 3)
    kept = np.flatnonzero(np.isin(every.session, some.session))
    before, after = prefixes_of(every), prefixes_of(some)
    for row, old in enumerate(kept.tolist()):
        spans = before.contents[before.offsets[old] : before.offsets[old + 1]]
        named = after.contents[after.offsets[row] : after.offsets[row + 1]]
        assert [kept[-1 - name] if name < 0 else name for name in named] == [
            -1 - name if name < 0 else name for name in spans
        ]


def test_hashes_of_blocks_go_with_their_requests():
    hashes = BlockHashes(np.array([0, 2, 2, 5]), np.array([7, 8, 7, 9, 9]), 16)
    table = Arrivals(np.arange(3), np.full(3, 40), np.ones(3), "blocks", blocks=hashes)
    some = table.taken(np.array([0, 2]))
    assert [some.blocks.of(row).tolist() for row in range(2)] == [[7, 8], [7, 9, 9]]


def test_media_go_with_their_requests():
    items = [[Item("image", width=8, height=4)], [], [Item("image", width=2, height=2), Item("image", tokens=5)]]
    table = Arrivals(np.arange(3), np.full(3, 40), np.ones(3), "media", media=media_of(items))
    some = table.taken(np.array([1, 2]))
    assert some.media.counts.tolist() == [0, 2]
    assert [content.width for content in some.media.contents()] == [2, 0]


def test_a_deployment_serves_its_share_and_none_is_refused():
    scenario = load_scenario("quickstart", {"workload.synthetic.requests": 400, "workload.share": 0.5})
    assert 150 < simulate(scenario).summary["completed"] < 250
    with pytest.raises(ScenarioError, match="none of the 3 requests"):
        thinned(lone(3), 1e-9, 0)
