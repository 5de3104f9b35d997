"""Prices of whole steps, in integer nanoseconds: the only part of ``perfdb`` on the engine's hot path.

A decode step of ``n`` sequences whose floor-mean context is ``m`` tokens costs ``P(n, m)``. What is stored
is its cumulative ``T_n(m) = P(n, 0) + ... + P(n, m - 1)``, so ``k`` steps that grow every context by one
token cost ``T_n(m + k) - T_n(m)``: the same nanoseconds, exactly, whether taken at once or one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence  # noqa: TC003 - looked up where this is compiled
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, sqrt
from typing import Final

__all__ = ["FRACTION_BITS", "ContextCurve", "DecodeCurve", "Launches", "StepPrices", "cumulated", "equal_prompt"]

#: Generation attention is summed in units of 2**-10 ns, so that slopes keep their fractions and the
#: cumulative of 131,072 steps of 100 ms still fits 64 bits.
FRACTION_BITS = 10
_POLYNOMIAL_BITS: Final = FRACTION_BITS + 1

#: More tokens than any context has.
_NO_END: Final = 1 << 62


def cumulated(knots: Sequence[int], first: Sequence[int], slope: Sequence[int]) -> list[int]:
    """Return the sum of the prices before each knot; see :class:`DecodeCurve`."""
    base = [0]
    for (x, y), price, growth in zip(pairwise(knots), first, slope, strict=False):
        d = y - x
        base.append(base[-1] + d * price + growth * (d * (d - 1) // 2))
    return base


def _steps_to_cross(price: int, growth: int, floor: int) -> int:
    """Return after how many steps a price that grows so is on the other side of ``floor``; 0 for never."""
    if price < floor:
        return -(-(floor - price) // growth) if growth > 0 else 0
    return (price - floor) // -growth + 1 if growth < 0 else 0


@dataclass(frozen=True, slots=True)
class DecodeCurve:
    """Generation attention of one batch size: linear in the context between knots.

    Attributes
    ----------
    knots
        Contexts in tokens, increasing, the first 0.
    base
        Cumulative before each knot, units of 2**-FRACTION_BITS ns.
    first
        Price at each knot, same units.
    slope
        Growth of the price per token after each knot, same units.
    """

    knots: Sequence[int]
    base: Sequence[int]
    first: Sequence[int]
    slope: Sequence[int]
    _pieces: Sequence[tuple[int, int, int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Twice the cumulative as polynomials of the context: where each ends, and its coefficients.
        columns = zip([*self.knots[1:], _NO_END], self.knots, self.base, self.first, self.slope, strict=True)
        pieces = [
            (end, 2 * (base - x * first) + growth * x * (x + 1), 2 * first - growth * (2 * x + 1), growth)
            for end, x, base, first, growth in columns
        ]
        object.__setattr__(self, "_pieces", pieces)

    def dearer(self, constant_ns: int) -> DecodeCurve:
        """Return the curve whose price at every context is so much more."""
        constant = constant_ns << FRACTION_BITS
        base = [total + x * constant for total, x in zip(self.base, self.knots, strict=True)]
        return DecodeCurve(self.knots, base, [price + constant for price in self.first], self.slope)

    def never_below(self, floor: int) -> DecodeCurve:
        """Return the curve whose price at every context is this one's or ``floor``, whichever is more.

        Parameters
        ----------
        floor
            Price in units of 2**-FRACTION_BITS ns.
        """
        pieces: list[tuple[int, int, int]] = []
        ends = [*self.knots[1:], None]
        for start, end, price, growth in zip(self.knots, ends, self.first, self.slope, strict=True):
            low = price < floor
            pieces.append((start, floor, 0) if low else (start, price, growth))
            meets = start + _steps_to_cross(price, growth, floor)
            if start < meets and (end is None or meets < end):
                pieces.append((meets, price + growth * (meets - start), growth) if low else (meets, floor, 0))
        knots, first, slope = (list(column) for column in zip(*pieces, strict=True))
        return DecodeCurve(knots, cumulated(knots, first, slope), first, slope)

    def cumulative(self, context: int) -> int:
        """Return the attention time, ns, of decode steps from context 0 up to ``context``."""
        _, offset, linear, square = self._pieces[bisect_right(self.knots, context) - 1]
        return (offset + context * (linear + context * square)) >> _POLYNOMIAL_BITS

    def between(self, start: int, end: int) -> int:
        """Return ``cumulative(end) - cumulative(start)`` for ``end >= start``, the same integer, faster."""
        last, offset, linear, square = self._pieces[bisect_right(self.knots, start) - 1]
        before = (offset + start * (linear + start * square)) >> _POLYNOMIAL_BITS
        if end >= last:
            return self.cumulative(end) - before
        return ((offset + end * (linear + end * square)) >> _POLYNOMIAL_BITS) - before

    def covering(self, context: int, elapsed_ns: int, limit: int) -> tuple[int, int]:
        """Return the fewest steps from ``context`` that last ``elapsed_ns``, ``limit`` at most, and their time, ns.

        Steps grow linearly between knots, so a root of a quadratic is nearly always the answer; it is checked, and
        where a knot lies between, halving finishes the search.
        """
        last, offset, linear, square = self._pieces[bisect_right(self.knots, context) - 1]
        price, elapsed = linear + 2 * context * square, elapsed_ns << _POLYNOMIAL_BITS
        root = price * price + 4 * square * elapsed
        guess = ceil(2 * elapsed / (price + sqrt(root))) if root > 0 and price > 0 else 1
        guess = limit if guess > limit else max(guess, 1)
        end = context + guess
        if end < last:
            before = (offset + context * (linear + context * square)) >> _POLYNOMIAL_BITS
            found = ((offset + end * (linear + end * square)) >> _POLYNOMIAL_BITS) - before
            if found >= elapsed_ns:
                end -= 1
                if guess == 1 or ((offset + end * (linear + end * square)) >> _POLYNOMIAL_BITS) - before < elapsed_ns:
                    return guess, found
        return self._halved(context, elapsed_ns, guess, limit)

    def _halved(self, context: int, elapsed_ns: int, guess: int, limit: int) -> tuple[int, int]:
        enough = self.between(context, context + guess) >= elapsed_ns
        low, high = (1, guess) if enough else (guess + 1, limit)
        while low < high:
            middle = (low + high) >> 1
            if self.between(context, context + middle) >= elapsed_ns:
                high = middle
            else:
                low = middle + 1
        steps = min(low, limit)
        return steps, self.between(context, context + steps)


@dataclass(frozen=True, slots=True)
class ContextCurve:
    """Context attention of one number of prompts: its square root is linear between knots.

    Attributes
    ----------
    knots
        Prompt lengths in tokens, increasing, the first 0.
    root
        Square root of the price in ns at each knot.
    slope
        Growth of that root per token after each knot.
    """

    knots: Sequence[int]
    root: Sequence[float]
    slope: Sequence[float]

    def price(self, tokens: float) -> int:
        """Return the price, ns, of prompts of ``tokens`` tokens each."""
        knot = bisect_right(self.knots, tokens) - 1
        root = self.root[knot] + (tokens - self.knots[knot]) * self.slope[knot]
        return int(root * root)


def equal_prompt(new: float, past: float, window: int) -> float:
    """Return the length of the prompt whose tokens look at as many others as those of a chunk.

    Parameters
    ----------
    new, past
        Tokens of the chunk, and of its prompt before it.
    window
        Most tokens that one token looks at.

    Examples
    --------
    >>> equal_prompt(1000, 0, 128), equal_prompt(1000, 5000, 128), equal_prompt(1000, 5000, 1)
    (1000.0, 1064.0, 1000.5)
    """
    seen = _seen(past + new, window) - _seen(past, window)
    return sqrt(2 * seen) if 2 * seen < window * window else seen / window + window / 2


def _seen(length: float, window: int) -> float:
    """Return the pairs of the first ``length`` tokens and those before them, ``window`` of them at most."""
    return length * length / 2 if length < window else window * (length - window / 2)


@dataclass(frozen=True, slots=True)
class Launches:
    """Time in which the host of an eager engine launches the operators of a step, ns; no step is shorter.

    Attributes
    ----------
    decode_ns
        Of a step that only decodes.
    prompt_ns
        Of a step that computes prompts.
    """

    decode_ns: int = 0
    prompt_ns: int = 0


class StepPrices:
    """What each step of one instance costs; build it with :func:`perfdb.compile.compile_costs`.

    Parameters
    ----------
    token_ns
        Cost of the operators over all tokens of a step, by token count, shape (max tokens + 1,).
    sample_ns
        Cost of projecting to the vocabulary and sampling, by sequence count, shape (max sequences + 1,).
    host_ns
        Time of the host per step that kernels do not hide, by sequence count, same shape.
    decode_curve, context_curve
        Curves by number of sequences (prompts), called once for each.
    launches
        What the host of an eager engine needs while the kernels run.
    windowed
        Context-attention curves of kernels whose tokens look at so many others at most, by that number; they are
        called like ``context_curve``, which holds the rest.
    shared_ns
        The part of ``token_ns`` that attention ranks run together, for a token of each; nothing by default.
    tiles
        What a sequence costs that decodes in the kernel of the prompts beside it; None where it does not.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - tables, curves and the host of one instance
        self,
        token_ns: Sequence[int],
        sample_ns: Sequence[int],
        host_ns: Sequence[int],
        decode_curve: Callable[[int], DecodeCurve],
        context_curve: Callable[[int], ContextCurve],
        launches: Launches | None = None,
        windowed: Mapping[int, Callable[[int], ContextCurve]] | None = None,
        shared_ns: Sequence[int] = (),
        tiles: DecodeCurve | None = None,
    ) -> None:
        self.token_ns, self.sample_ns, self.host_ns = token_ns, sample_ns, host_ns
        self.launches, self.shared_ns, self.tiles = launches or Launches(), shared_ns, tiles
        self._make_generation, self._make_context = decode_curve, context_curve
        self._decode: dict[int, DecodeCurve] = {}
        self._steps: dict[int, DecodeCurve] = {}
        self._generation: dict[int, DecodeCurve] = {}
        self._context: dict[int, ContextCurve] = {}
        self.windowed = windowed or {}
        self._windowed: dict[tuple[int, int], ContextCurve] = {}

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens a step may hold."""
        return len(self.token_ns) - 1

    def generation_curve(self, sequences: int) -> DecodeCurve:
        """Return the generation-attention curve of a batch size."""
        curve = self._generation.get(sequences)
        if curve is None:
            curve = self._generation[sequences] = self._make_generation(sequences)
        return curve

    def decode_curve(self, sequences: int) -> DecodeCurve:
        """Return generation attention or, where the host launches for longer, what that adds to the kernels."""
        curve = self._decode.get(sequences)
        if curve is None:
            kernels = self.token_ns[sequences] + self.sample_ns[sequences]
            floor = (self.launches.decode_ns - kernels) << FRACTION_BITS
            raw = self.generation_curve(sequences)
            curve = self._decode[sequences] = raw.never_below(floor) if floor > 0 else raw
        return curve

    def context_curve(self, prompts: int) -> ContextCurve:
        """Return the context-attention curve of a number of prompts."""
        curve = self._context.get(prompts)
        if curve is None:
            curve = self._context[prompts] = self._make_context(prompts)
        return curve

    def windowed_curve(self, window: int, prompts: int) -> ContextCurve:
        """Return the curve of the kernels with a window, of a number of prompts."""
        curve = self._windowed.get((window, prompts))
        if curve is None:
            curve = self._windowed[window, prompts] = self.windowed[window](prompts)
        return curve

    def constant_ns(self, sequences: int) -> int:
        """Return the part of a decode step that does not depend on the context, ns."""
        return self.token_ns[sequences] + self.sample_ns[sequences] + self.host_ns[sequences]

    def decode_ns(self, sequences: int, context: int, steps: int = 1) -> int:
        """Return the time of ``steps`` decode steps, ns.

        Parameters
        ----------
        sequences
            Sequences that each produce one token per step, at least 1.
        context
            Floor of their mean number of cached tokens before the first of the steps.
        steps
            Steps in which nothing joins or leaves.
        """
        return self.step_curve(sequences).between(context, context + steps)

    def step_curve(self, sequences: int) -> DecodeCurve:
        """Return the curve of whole decode steps of a batch size."""
        curve = self._steps.get(sequences)
        if curve is None:
            curve = self._steps[sequences] = self.decode_curve(sequences).dearer(self.constant_ns(sequences))
        return curve

    def steps_covering(self, sequences: int, context: int, elapsed_ns: int, limit: int) -> tuple[int, int]:
        """Return the fewest steps that last at least ``elapsed_ns``, and their time, ns.

        Parameters
        ----------
        sequences, context
            See :meth:`decode_ns`.
        elapsed_ns
            Time to cover.
        limit
            Most steps; returned, with their time, where even they do not last that long.
        """
        return self.step_curve(sequences).covering(context, elapsed_ns, limit)

    def mixed_ns(  # noqa: PLR0913 - one forward pass is described by these eight sums
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
        """Return the time of one forward pass over prompt chunks and decodes together, ns.

        Parameters
        ----------
        tokens
            All new tokens: those of the chunks plus one per decode.
        samples
            Sequences that sample a token: decodes plus prompts completed in this step.
        decodes, context
            Sequences that decode, and the floor of their mean context.
        prompts
            Chunks.
        pairs
            Sum over the chunks of ``(past + new)**2 - past**2``: twice the pairs of new and visible tokens.
        reach
            Sum over the chunks of ``past + new``: cached tokens that must be read at least once.
        squares
            Sum over the chunks of ``new**2``; it may be left out where none has a past, for then it is ``pairs``. Only
            prices in Vidur's way look at it.

        Notes
        -----
        Several chunks cost what as many equal prompts without a past would that attend to as many pairs
        (``docs/decisions/004-chunk-prices.md``), but never less than reading the KV they look at. Kernels with a
        window count the pairs inside it (``docs/decisions/025-latent-and-linear-attention.md``).
        """
        del squares
        kernels = self.kernels_ns(tokens, samples, decodes, context, prompts, pairs, reach)
        launches = self.launches.prompt_ns if prompts else self.launches.decode_ns
        return max(kernels, launches) + self.host_ns[decodes + prompts]

    def kernels_ns(  # noqa: PLR0913, PLR0917 - seven of these sums
        self, tokens: int, samples: int, decodes: int, context: int, prompts: int, pairs: int, reach: int
    ) -> int:
        """Return the time the kernels of such a pass take, ns; see :meth:`mixed_ns`."""
        attention = 0
        if prompts:
            curve = self._context.get(prompts) or self.context_curve(prompts)
            attention = curve.price(sqrt(pairs / prompts))
            if self.windowed:
                attention += self._windowed_ns((tokens - decodes) / prompts, prompts, pairs)
            if reach > tokens - decodes:
                attention = max(attention, self._generation_ns(1, reach))
        if decodes:
            shared = decodes * self.tiles.between(context, context + 1) if prompts and self.tiles else 0
            attention += max(self._generation_ns(decodes, context), shared)
        return self.token_ns[tokens] + self.sample_ns[samples] + attention

    def _windowed_ns(self, new: float, prompts: int, pairs: int) -> int:
        past = max(pairs / prompts - new * new, 0.0) / (2 * new)
        return sum(
            self.windowed_curve(window, prompts).price(equal_prompt(new, past, window)) for window in self.windowed
        )

    def _generation_ns(self, sequences: int, context: int) -> int:
        return self.generation_curve(sequences).between(context, context + 1)
