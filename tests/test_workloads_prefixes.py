"""What prompts share: from hashes of blocks, and in synthetic workloads and conversations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompts import Spans

from hardware.errors import TraceError
from workloads.prefixes import prefixes_of
from workloads.statistics import prefix_hit_tokens
from workloads.synthetic import Synthetic, synthesize
from workloads.table import Arrivals, BlockHashes, Prefixes

#: Prompts as strings of letters, so that many begin alike.
texts = st.lists(st.text("ab", min_size=1, max_size=30), min_size=1, max_size=25)


def hashed(prompts: list[str], block_tokens: int, *, chained: bool) -> Arrivals:
    """Return prompts as rows of a trace, their blocks named by all before them or by their own tokens alone."""
    names: dict[str, int] = {}
    offsets, hashes = [0], []
    for text in prompts:
        for start in range(0, len(text), block_tokens):
            end = min(start + block_tokens, len(text))
            hashes.append(names.setdefault(text[0 if chained else start : end], 7 * len(names) - 50))
        offsets.append(len(hashes))
    size = len(prompts)
    return Arrivals(
        np.arange(size),
        np.array([len(text) for text in prompts]),
        np.ones(size, np.int64),
        "test",
        blocks=BlockHashes(np.array(offsets), np.array(hashes, np.int64), block_tokens),
    )


def spans_of(arrivals: Arrivals) -> list[list[tuple[int, int]]]:
    found = prefixes_of(arrivals)
    pairs = list(zip(found.contents.tolist(), found.ends.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True)]


def shared(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
    tokens = 0
    for (content, end), (name, until) in zip(one, other, strict=False):
        if content != name:
            break
        tokens = min(end, until)
    return tokens


@given(texts, st.sampled_from([1, 2, 3, 7]), st.booleans())
def test_two_prompts_share_the_blocks_they_begin_with(prompts, block_tokens, chained):
    spans = spans_of(hashed(prompts, block_tokens, chained=chained))
    for i, one in enumerate(prompts):
        assert [end for _, end in spans[i]] == sorted({end for _, end in spans[i]})
        assert not spans[i] or spans[i][-1][1] <= len(one)
        for j, other in enumerate(prompts[:i]):
            blocks = 0
            while blocks * block_tokens < max(len(one), len(other)):
                place = slice(blocks * block_tokens, (blocks + 1) * block_tokens)
                if one[place] != other[place]:
                    break
                blocks += 1
            assert shared(spans[i], spans[j]) == min(blocks * block_tokens, len(one), len(other))


@given(texts, st.sampled_from([1, 2, 3, 7]))
def test_spans_hold_as_many_hits_as_blocks(prompts, block_tokens):
    arrivals = hashed(prompts, block_tokens, chained=True)
    spans = spans_of(arrivals)
    hits = [max((shared(one, other) for other in spans[:i]), default=0) for i, one in enumerate(spans)]
    assert hits == prefix_hit_tokens(arrivals.blocks, arrivals.prompt_tokens).tolist()


def test_blocks_of_one_prompt_alone_take_no_room():
    arrivals = hashed(["a" * 20, "b" * 30], 2, chained=True)
    assert prefixes_of(arrivals).contents.size == 0
    assert prefixes_of(hashed(["a" * 20, "a" * 20 + "b" * 30], 2, chained=True)).contents.size == 2


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(TraceError, match="do not rise from 0 to the 2 spans"):
        Prefixes(np.array([0, 1]), np.array([5, 6]), np.array([10, 20]))
    with pytest.raises(TraceError, match="do not rise"):
        Prefixes(np.array([0, 2, 1, 2]), np.array([5, 6]), np.array([10, 20]))


def synthetic(**changes) -> Arrivals:
    spec = {
        "requests": 100,
        "arrivals": {"kind": "poisson", "rate_per_s": 1.0},
        "prompt_tokens": {"kind": "uniform", "low": 1, "high": 200},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 90},
    }
    return synthesize(Synthetic.model_validate(spec | changes), 3)


def test_a_shared_prefix_comes_before_what_is_drawn():
    plain, sharing = synthetic(), synthetic(shared_prefix_tokens=512)
    assert (sharing.prompt_tokens == plain.prompt_tokens + 512).all()
    assert (sharing.arrival_ns == plain.arrival_ns).all()
    assert set(map(tuple, spans_of(sharing))) == {((0, 512),)}
    assert prefixes_of(plain) is None
    assert len(prefixes_of(sharing.head(10))) == 10


@pytest.mark.parametrize("turns", [1, 4, {"kind": "uniform", "low": 1, "high": 6}])
@pytest.mark.parametrize("shared_tokens", [0, 64])
def test_every_turn_goes_on_from_all_that_was_said(turns, shared_tokens):
    think = {"kind": "exponential", "mean": 3}
    arrivals = synthetic(sessions={"turns": turns, "think_time_s": think}, shared_prefix_tokens=shared_tokens)
    assert len(arrivals) == 100
    spans = Spans(spans_of(arrivals), arrivals.session.tolist())
    prompts, outputs = arrivals.prompt_tokens.tolist(), arrivals.output_tokens.tolist()
    texts = [spans.text(row, prompt) for row, prompt in enumerate(prompts)]
    latest: dict[int, int] = {}
    for row, number in enumerate(arrivals.session.tolist()):
        own = texts[row][shared_tokens:]
        assert texts[row][:shared_tokens] == [(0, place) for place in range(shared_tokens)]
        if number in latest:
            last = latest[number]
            answer = [(-1 - last, prompts[last] + place) for place in range(outputs[last])]
            said = texts[last] + answer
            assert texts[row][: len(said)] == said
            assert len(texts[row]) > len(said)
        else:
            assert not {content for content, _ in own} & {content for text in texts[:row] for content, _ in text[64:]}
        latest[number] = row
    counts = np.bincount(arrivals.session)
    assert turns != 4 or set(counts[:-1]) == {4}


def test_think_times_lie_between_the_turns():
    arrivals = synthetic(sessions={"turns": 5, "think_time_s": {"kind": "fixed", "value": 2.5}})
    times = [arrivals.arrival_ns[arrivals.session == number] for number in range(20)]
    assert all((np.diff(sent) == 2_500_000_000).all() for sent in times)
    first = synthetic(requests=20).arrival_ns
    assert [int(sent[0]) for sent in times] == first.tolist()
