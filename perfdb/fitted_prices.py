"""Step prices of a profile: three coefficients for prompts and three for decoding (:mod:`perfdb.step_profile`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfdb.pipeline import RoundPrices
from perfdb.step_prices import FRACTION_BITS, ContextCurve, DecodeCurve, StepPrices
from perfdb.step_profile import ProfiledCosts

if TYPE_CHECKING:
    from perfdb.compile import StepLimits
    from perfdb.step_profile import StepFit

__all__ = ["FittedPrices", "profiled_costs"]

_NS_PER_MS = 1e6


class FittedPrices(StepPrices):
    """Step prices by three coefficients; host time is part of them.

    Parameters
    ----------
    fit
        Coefficients.
    limits
        Sizes of the tables.

    Notes
    -----
    Tokens computed in a decode step are the cached ones and the new one, so a mean context of ``m`` counts as
    ``m + 1``. Sequences that compute one token are decoding, wherever their KV comes from. A chunk that continues a
    prompt pays for the squares it adds; where prompts and decoding share a step, as in no engine that was fitted, the
    step pays its constant once.
    """

    def __init__(self, fit: StepFit, limits: StepLimits) -> None:
        fixed = [fit.decoding(n) for n in range(limits.sequences + 1)]
        per_step = [round(_NS_PER_MS * (of.step_ms + of.sequence_ms * n)) for n, of in enumerate(fixed)]
        super().__init__(
            [0] * (max(limits.tokens, limits.sequences) + 1),
            [0] * (limits.sequences + 1),
            [0, *per_step[1:]],
            self._attention,
            lambda _: ContextCurve([0], [0.0], [0.0]),
        )
        self.fit = fit

    def mixed_ns(  # noqa: PLR0913 - the sums of the base class
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
        """Return the time of one step with chunks in it, ns; see :meth:`StepPrices.mixed_ns`."""
        del samples, squares
        chunk_tokens = tokens - decodes
        if chunk_tokens == prompts:
            sequences = decodes + prompts
            return self.decode_ns(sequences, (decodes * context + reach - prompts) // sequences)
        prefill = self.fit.prefill
        found_ms = prefill.step_ms + prefill.token_ms * chunk_tokens + prefill.squared_token_ms * pairs
        if decodes:
            beside = self.fit.decoding(decodes)
            found_ms += beside.cached_token_ms * decodes * (context + 1) + beside.sequence_ms * decodes
        return round(_NS_PER_MS * found_ms)

    def _attention(self, sequences: int) -> DecodeCurve:
        """Return the part of a decode step that grows with the context: one straight line."""
        each = round(_NS_PER_MS * self.fit.decoding(sequences).cached_token_ms * sequences * 2**FRACTION_BITS)
        return DecodeCurve([0], [0], [each], [each])


def profiled_costs(fit: StepFit, limits: StepLimits, stages: int = 1) -> ProfiledCosts:
    """Return the costs of an engine priced by a profile; with pipeline stages a pass through all costs one step."""
    passes = FittedPrices(fit, limits)
    return ProfiledCosts(passes if stages == 1 else RoundPrices(passes, stages))
