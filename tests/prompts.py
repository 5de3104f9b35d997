"""Prompts that share prefixes, as spans and as tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Spans:
    """Prompts as spans: (what it is part of, tokens up to its end)."""

    spans: list[list[tuple[int, int]]]
    session: list[int]

    def identify(self, request) -> None:
        spans = self.spans[request.index]
        request.prefix = tuple(content for content, _ in spans)
        request.prefix_ends = tuple(end for _, end in spans)
        request.session = self.session[request.index]
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
    session: list[int] = []
    prompts, outputs, fresh = [], rng.integers(1, 60, size).tolist(), 0
    for row in range(size):
        mine: list[tuple[int, int]] = []
        session.append(row if rng.random() < 0.8 else -1)
        if row and rng.random() < 0.7:
            other = int(rng.integers(row))
            if rng.random() < 0.3 and prompts[other] + outputs[other] < 300:
                session[row] = session[other]
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
    return Spans(spans, session), prompts, outputs
