"""Prices of steps in which a second stream may take longer than the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence  # noqa: TC003 - looked up where this is compiled

from perfdb.step_prices import ContextCurve, DecodeCurve, Launches, StepPrices

__all__ = ["BesidePrices"]


class BesidePrices(StepPrices):
    """What steps cost in two streams, in the terms of :class:`perfdb.step_prices.StepPrices`.

    Parameters
    ----------
    beside_ns
        How much longer than the first stream without its attention the second one takes, by token count,
        shape (max tokens + 1,): attention that takes less does not matter. Curves of decoding hold it already.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - those of the base, and one more
        self,
        token_ns: Sequence[int],
        sample_ns: Sequence[int],
        host_ns: Sequence[int],
        decode_curve: Callable[[int], DecodeCurve],
        context_curve: Callable[[int], ContextCurve],
        launches: Launches | None,
        windowed: Mapping[int, Callable[[int], ContextCurve]] | None,
        beside_ns: Sequence[int],
    ) -> None:
        super().__init__(token_ns, sample_ns, host_ns, decode_curve, context_curve, launches, windowed)
        self.beside_ns = beside_ns

    def kernels_ns(  # noqa: PLR0913, PLR0917 - the sums of the base class
        self, tokens: int, samples: int, decodes: int, context: int, prompts: int, pairs: int, reach: int
    ) -> int:
        """Return the time the kernels of a pass take, ns; see the base class."""
        kernels = super().kernels_ns(tokens, samples, decodes, context, prompts, pairs, reach)
        return max(kernels, self.token_ns[tokens] + self.sample_ns[samples] + self.beside_ns[tokens])
