"""Prices of an engine whose host lets no step be over before a time has passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfdb.step_prices import FRACTION_BITS, StepPrices

if TYPE_CHECKING:
    from perfdb.step_prices import DecodeCurve

__all__ = ["WaitingPrices"]


class WaitingPrices(StepPrices):
    """What steps of decoding cost of which none is shorter than a time; those with prompts are priced by themselves.

    In the terms of :class:`perfdb.step_prices.StepPrices`.

    Parameters
    ----------
    plain
        Prices of the steps themselves.
    least_ns
        How long each of those that only decode lasts at least, its host included.
    """

    def __init__(self, plain: StepPrices, least_ns: int) -> None:
        tables = (plain.token_ns, plain.sample_ns, plain.host_ns)
        curves = (plain.generation_curve, plain.context_curve)
        super().__init__(*tables, *curves, plain.launches, plain.windowed, plain.shared_ns)
        self.plain, self.least_ns = plain, least_ns

    def decode_curve(self, sequences: int) -> DecodeCurve:
        """Return what the context adds to a step of a batch size, or what is missing to the shortest step."""
        curve = self._decode.get(sequences)
        if curve is None:
            raw, floor = self.plain.decode_curve(sequences), self.least_ns - self.constant_ns(sequences)
            curve = self._decode[sequences] = raw.never_below(floor << FRACTION_BITS) if floor > 0 else raw
        return curve

    def constant_ns(self, sequences: int) -> int:
        """Return the part of a decode step that does not depend on the context, ns."""
        return self.plain.constant_ns(sequences)

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
        """Return the time of a forward pass over prompt chunks and decodes, ns; see the base class."""
        return self.plain.mixed_ns(
            tokens=tokens,
            samples=samples,
            decodes=decodes,
            context=context,
            prompts=prompts,
            pairs=pairs,
            reach=reach,
            squares=squares,
        )
