"""Prefix caching by runs of blocks equals a model with real tokens, one block at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from caching_oracle import CachingOracle
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Deployment, OpenLoop, linear_prices

PRICES = linear_prices()


@dataclass
class Spans:
    """Prompts as spans: (what it is part of, tokens up to its end)."""

    spans: list[list[tuple[int, int]]]

    def identify(self, request) -> None:
        spans = self.spans[request.index]
        request.prefix = tuple(content for content, _ in spans)
        request.prefix_ends = tuple(end for _, end in spans)
        own = -1 - request.index
        request.named = any(content == own for other in self.spans for content, _ in other)

    def text(self, row: int, prompt: int) -> list:
        """Return the tokens of a prompt; what no span covers is the request's own."""
        text: list = []
        for content, end in self.spans[row]:
            text += [(content, place) for place in range(len(text), end)]
        return text + [(-1 - row, place) for place in range(len(text), prompt)]


def tree_of_prompts(rng, size: int, longest: int = 90):
    """Return prompts that share prefixes: each goes on from a random earlier one, or is the start of one.

    Some go on from an earlier request's answer, as a conversation does.
    """
    spans: list[list[tuple[int, int]]] = []
    prompts, outputs, fresh = [], rng.integers(1, 60, size).tolist(), 0
    for row in range(size):
        mine: list[tuple[int, int]] = []
        if row and rng.random() < 0.7:
            other = int(rng.integers(row))
            if rng.random() < 0.3 and prompts[other] + outputs[other] < 300:
                mine = [*spans[other], (-1 - other, prompts[other] + outputs[other])]
            else:
                mine = spans[other][: int(rng.integers(len(spans[other]) + 1))]
                if mine and rng.random() < 0.4:
                    # It ends within a span.
                    content, end = mine[-1]
                    start = mine[-2][1] if len(mine) > 1 else 0
                    spans.append([*mine[:-1], (content, int(rng.integers(start, end)) + 1)])
                    prompts.append(spans[-1][-1][1])
                    continue
        for _ in range(int(rng.integers(0, 3))):
            mine = [*mine, (fresh, (mine[-1][1] if mine else 0) + int(rng.integers(1, longest)))]
            fresh += 1
        known = mine[-1][1] if mine else 0
        spans.append(mine)
        prompts.append(max(1, known + int(rng.integers(0, 40))))
    return Spans(spans), prompts, outputs


def compare(arrivals, identities, prompts, outputs, *, answers_at_once=False, **limits):
    known = [spans[-1][1] if spans else 0 for spans in identities.spans]
    texts = [identities.text(row, prompt) for row, prompt in enumerate(prompts)]
    oracle = CachingOracle(PRICES, **limits, answers_at_once=answers_at_once)
    sequences = oracle.run(arrivals, texts, known, outputs)
    deployment = Deployment(**limits, prices=PRICES, caching=True, identities=identities)
    cluster = deployment.serve(OpenLoop(arrivals), prompts, outputs)
    expected = {
        "admitted_ns": [s.admitted_ns for s in sequences],
        "cached_tokens": [s.cached for s in sequences],
        "first_token_ns": [s.first_ns for s in sequences],
        "finish_ns": [s.finish_ns for s in sequences],
        "preemptions": [s.preemptions for s in sequences],
    }
    assert {name: cluster.ledger.column(name).tolist() for name in expected} == expected
    return cluster


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.sampled_from([300_000, 5_000_000, 100_000_000]),
    st.sampled_from([1, 4, 16]),
    st.sampled_from([0, 2, 9, 200]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from([20, 100, 1000]),
    st.booleans(),
)
def test_any_workload(seed, size, gap_ns, block_tokens, spare, max_sequences, max_tokens, reserve):
    rng = np.random.default_rng(seed)
    identities, prompts, outputs = tree_of_prompts(rng, size)
    arrivals = np.cumsum(rng.exponential(gap_ns, size)).astype(int).tolist()
    longest = max(p + o for p, o in zip(prompts, outputs, strict=True))
    compare(
        arrivals,
        identities,
        prompts,
        outputs,
        blocks=-(-longest // block_tokens) + spare,
        block_tokens=block_tokens,
        max_tokens=max_tokens,
        max_sequences=max_sequences,
        reserve_full_prompt=reserve,
    )
