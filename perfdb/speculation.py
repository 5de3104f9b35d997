"""Speculative decoding: a step verifies drafted tokens, and what a token costs by it.

A step of ``n`` sequences computes ``1 + drafts`` tokens of each, of which ``tokens_per_step`` stay on the average, and
drafts the next ones: what drafts takes all those tokens in first, then one of each sequence at a time. It is simulated
as that many steps of one token each, at that part of its price (``docs/decisions/029-speculative-decoding.md``).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, Self

from perfdb.linear_curve import linear_curve
from perfdb.step_prices import DecodeCurve, StepPrices

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Speculation", "SpeculativePrices"]


@dataclass(frozen=True, slots=True)
class Speculation:
    """How many tokens are drafted for each step, and how many of them stay.

    Attributes
    ----------
    drafts
        Drafted tokens per sequence and step, at least 1.
    accepted
        How many of them are accepted on the average.
    """

    drafts: int
    accepted: float

    @classmethod
    def accepting(cls, drafts: int, shares: Sequence[float]) -> Self:
        """Return the speculation in which each draft is accepted with these probabilities if those before it were.

        Parameters
        ----------
        drafts
            Drafted tokens.
        shares
            Probability of the first, the second, ...; the last one goes on.
        """
        each = [*shares, *[shares[-1]] * drafts][:drafts]
        return cls(drafts, sum(accumulate(each, mul)))

    @property
    def rows(self) -> int:
        """Tokens of a sequence that a step computes."""
        return 1 + self.drafts

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a sequence gets in a step, on the average."""
        return 1 + self.accepted


class SpeculativePrices(StepPrices):
    """What tokens cost by steps that verify drafts, in the terms of :class:`perfdb.step_prices.StepPrices`.

    Parameters
    ----------
    passes
        Prices of passes of the model, over as many tokens as verification has.
    draft
        Prices of one pass of what drafts a token, without a host.
    speculation
        How many tokens are drafted and accepted.
    """

    def __init__(self, passes: StepPrices, draft: StepPrices, speculation: Speculation) -> None:
        sequences = len(passes.host_ns) - 1
        tables = passes.token_ns, passes.sample_ns[: sequences + 1], passes.host_ns
        curves = passes.generation_curve, passes.context_curve
        super().__init__(*tables, *curves, passes.launches, passes.windowed)
        self.passes, self.draft, self.speculation = passes, draft, speculation

    def decode_curve(self, sequences: int) -> DecodeCurve:
        """Return the curve of whole steps of one token."""
        return self.step_curve(sequences)

    def constant_ns(self, sequences: int) -> int:  # noqa: ARG002 - the whole price is in the curve
        """Return 0: the price is in the curve."""
        return 0

    def step_curve(self, sequences: int) -> DecodeCurve:
        """Return the curve of whole steps of one token of a batch size."""
        curve = self._steps.get(sequences)
        if curve is None:
            speculation, passes = self.speculation, self.passes
            rows = sequences * speculation.rows
            constant = passes.token_ns[rows] + passes.sample_ns[rows] + passes.host_ns[sequences]
            drafted = [self.draft.step_curve(sequences)] * speculation.drafts
            constant += self._taking_in_ns(sequences)
            verified = passes.generation_curve(sequences).dearer(constant)
            curve = _shared_out([verified, *drafted], speculation.tokens_per_step)
            self._steps[sequences] = curve
        return curve

    def _taking_in_ns(self, sequences: int) -> int:
        """Return what the first pass that drafts costs more than the others: it has all tokens of a step.

        As in SGLang 0.5.23 (``_draft_extend_for_decode`` of ``speculative/eagle_worker_v2.py``), rejected ones, too.
        """
        token_ns = self.draft.token_ns
        return token_ns[sequences * self.speculation.rows] - token_ns[sequences]

    def mixed_ns(  # noqa: PLR0913 - see the base
        self,
        *,
        tokens: int,
        samples: int,
        decodes: int,
        context: int,
        prompts: int,
        pairs: int,
        reach: int,
        squares: int = 0,
    ) -> int:
        """Return the time of one pass over prompt chunks and the decodes of one token, ns.

        Sequences that decode beside prompts get all their tokens of the step by it: the time of those that are
        simulated as steps of their own is taken off.
        """
        speculation, passes, draft = self.speculation, self.passes, self.draft
        more = decodes * speculation.drafts
        whole = passes.mixed_ns(
            tokens=tokens + more,
            samples=samples + more,
            decodes=decodes,
            context=context,
            prompts=prompts,
            pairs=pairs,
            reach=reach,
            squares=squares,
        )
        if prompts:
            whole += draft.kernels_ns(tokens - decodes, samples - decodes, 0, 0, prompts, pairs, reach)
        if decodes:
            whole += speculation.drafts * draft.decode_ns(decodes, context) + self._taking_in_ns(decodes)
            whole -= int(speculation.accepted * self.decode_ns(decodes, context))
        return max(whole, 1)


def _shared_out(curves: Sequence[DecodeCurve], parts: float) -> DecodeCurve:
    """Return the sum of some curves over ``parts``, linear between the knots of all."""
    knots = sorted({knot for curve in curves for knot in curve.knots})
    first = [round(sum(_price(curve, knot) for curve in curves) / parts) for knot in knots]
    return linear_curve(knots, first, int(sum(curve.slope[-1] for curve in curves) / parts))


def _price(curve: DecodeCurve, context: int) -> int:
    """Return the price at a context, units of 2**-FRACTION_BITS ns."""
    place = bisect_right(curve.knots, context) - 1
    return curve.first[place] + curve.slope[place] * (context - curve.knots[place])
