"""Fold the operators of a step and a cost source into the curves of :class:`StepPrices`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.pipeline import RoundPrices
from perfdb.step_prices import FRACTION_BITS, ContextCurve, DecodeCurve, Launches, StepPrices, cumulated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from perfdb.operators import Kernel, RowOperator, StepOperators
    from perfdb.sources import SourceChain

__all__ = ["CompiledCosts", "HostTime", "StepLimits", "compile_costs"]

_ORIGINS = len(Origin)


@dataclass(frozen=True, slots=True)
class HostTime:
    """Time of the host that kernels do not hide.

    Attributes
    ----------
    step_ns
        Per step.
    sequence_ns
        Per step and sequence.
    launch_ns
        Per operator that an eager engine launches; the kernels run meanwhile, and a step takes as long as the
        slower of the two. 0 where steps are captured in graphs.
    prompt_attention_launches
        Attention over prompts takes the host as long as so many operators.
    """

    step_ns: int = 0
    sequence_ns: int = 0
    launch_ns: int = 0
    prompt_attention_launches: int = 1


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The largest step to be priced.

    Attributes
    ----------
    tokens
        Tokens of one step (``max_num_batched_tokens``).
    sequences
        Sequences of one step (``max_num_seqs``).
    context
        Longest sequence, tokens.
    """

    tokens: int
    sequences: int
    context: int


@dataclass(frozen=True, slots=True)
class CompiledCosts:
    """Step prices, and the origin of every nanosecond in them.

    Attributes
    ----------
    prices
        What the engine looks up.
    passes
        Prices of one pass through all pipeline stages: ``prices`` itself where there is one stage.
    stages
        Pipeline stages.
    token_ns, sample_ns
        Costs split by origin, float64, shapes (max tokens + 1, origins), (max sequences + 1, origins).
    generation
        Cost of generation attention, all layers, at (sequences, knot); row 0 is no sequence.
    context
        Cost of context attention, all layers, of a number of equal prompts at each knot.
    generation_knots, context_knots
        Tokens at each knot, int64.
    """

    prices: StepPrices
    passes: StepPrices
    stages: int
    token_ns: NDArray[np.float64]
    sample_ns: NDArray[np.float64]
    generation: Estimate
    context: Callable[[int], Estimate]
    generation_knots: NDArray[np.int64]
    context_knots: NDArray[np.int64]


def compile_costs(
    operators: StepOperators, source: SourceChain, limits: StepLimits, host: HostTime, stages: int = 1
) -> CompiledCosts:
    """Return the compiled costs of one model, layout, chip and engine.

    Parameters
    ----------
    operators
        What a step runs.
    source
        Prices the operators.
    limits
        Sizes of the tables.
    host
        Host time added to every step.
    stages
        Pipeline stages that work on a micro-batch each; the operators are those of one pass through all.

    Raises
    ------
    CostError
        If the source cannot price an operator.
    """
    # A step holds at least the tokens of a full decode batch.
    tokens = max(limits.tokens, limits.sequences)
    token_ns = _by_origin(operators.per_token, source, tokens)
    sample_ns = _by_origin(operators.per_sample, source, limits.sequences)
    generation_knots = _doubling_knots(limits.context)
    context_knots = _halved_knots(limits.context)
    generation = _generation(operators, source, limits.sequences, generation_knots)
    sequences = np.arange(limits.sequences + 1)

    def context_of(kernels: Sequence[Kernel]) -> Callable[[int], Estimate]:
        return cache(lambda prompts: _context(kernels, source, prompts, context_knots))

    context = context_of(operators.context)
    windowed = {
        window: _curves(context_knots, context_of([k for k in operators.context if k.window == window]))
        for window in sorted({0, *(kernel.window for kernel in operators.context)})
    }
    passes = StepPrices(
        _whole(token_ns.sum(axis=1)),
        _whole(sample_ns.sum(axis=1)),
        _whole(np.where(sequences > 0, host.step_ns + host.sequence_ns * sequences, 0)),
        lambda n: _decode_curve(generation_knots, generation.ns.reshape(-1, len(generation_knots))[n]),
        windowed.pop(0),
        _launches(operators, source, host),
        windowed,
        _whole(_by_origin(operators.shared, source, tokens).sum(axis=1)) if operators.shared else (),
    )
    prices = passes if stages == 1 else RoundPrices(passes, stages)
    return CompiledCosts(
        prices, passes, stages, token_ns, sample_ns, generation, context, generation_knots, context_knots
    )


def _curves(knots: NDArray[np.int64], context: Callable[[int], Estimate]) -> Callable[[int], ContextCurve]:
    return lambda prompts: _context_curve(knots, context(prompts).ns)


def _launches(operators: StepOperators, source: SourceChain, host: HostTime) -> Launches:
    measured = round(sum(kernel.count * source.launch_ns(kernel) for kernel in operators.context))
    extra = sum(kernel.count for kernel in operators.context) * (host.prompt_attention_launches - 1)
    return Launches(host.launch_ns * operators.launches, host.launch_ns * (operators.launches + extra) + measured)


def _by_origin(operators: Sequence[RowOperator], source: SourceChain, most: int) -> NDArray[np.float64]:
    rows = np.arange(1, most + 1)
    total = np.zeros((most + 1, _ORIGINS))
    for operator in operators:
        found = source.rows(operator, rows)
        np.add.at(total, (rows, found.origin), operator.count * found.ns)
    return total


def _whole(ns: NDArray[np.float64]) -> list[int]:
    return [int(value) for value in np.rint(ns)]


def _doubling_knots(most: int) -> NDArray[np.int64]:
    """Return 0, 1, 3, 7, ...: the contexts at which generation attention is measured, and the longest."""
    knots = [(1 << power) - 1 for power in range(most.bit_length() + 1)]
    return np.array(sorted({*(k for k in knots if k < most), most}), np.int64)


def _halved_knots(most: int) -> NDArray[np.int64]:
    """Return 0, 1 and powers of two with steps between them: lengths at which prompts are measured."""
    powers = [1 << power for power in range(4, most.bit_length() + 1)]
    knots = {0, 1, most, 10_240, *powers, *(p + p // 2 for p in powers)}
    return np.array(sorted(k for k in knots if k <= most), np.int64)


def _generation(operators: StepOperators, source: SourceChain, most: int, knots: NDArray[np.int64]) -> Estimate:
    sequences, tokens = np.meshgrid(np.arange(1, most + 1), knots, indexing="ij")
    found = _together(operators.generation, source, sequences.ravel(), tokens.ravel())
    nothing = np.zeros(len(knots))
    return Estimate(np.concatenate([nothing, found.ns]), np.concatenate([nothing.astype(np.uint8), found.origin]))


def _context(kernels: Sequence[Kernel], source: SourceChain, prompts: int, knots: NDArray[np.int64]) -> Estimate:
    positive = np.maximum(knots, 1)
    found = _together(kernels, source, np.full(len(knots), prompts), positive)
    # A prompt of more tokens never costs less: the noise of the smallest kernels is smoothed away.
    return Estimate(np.maximum.accumulate(found.ns), found.origin)


def _together(
    kernels: Sequence[Kernel], source: SourceChain, sequences: NDArray[np.int64], tokens: NDArray[np.int64]
) -> Estimate:
    """Return the cost of all layers' attention; its origin is the worst of their origins."""
    ns, origin = np.zeros(len(tokens)), np.zeros(len(tokens), np.uint8)
    for kernel in kernels:
        found = source.attention(kernel, sequences, tokens)
        ns, origin = ns + kernel.count * found.ns, np.maximum(origin, found.origin)
    return Estimate(ns, origin)


def _decode_curve(knots: NDArray[np.int64], ns: NDArray[np.float64]) -> DecodeCurve:
    contexts = [int(k) for k in knots]
    first = [int(value) for value in np.rint(ns * (1 << FRACTION_BITS))]
    slope = [(b - a) // (y - x) for (x, y), (a, b) in zip(pairwise(contexts), pairwise(first), strict=True)]
    # Beyond the longest context the last slope goes on, but noise must not make a price fall for ever.
    slope.append(max(slope[-1], 0) if slope else 0)
    return DecodeCurve(contexts, cumulated(contexts, first, slope), first, slope)


def _context_curve(knots: NDArray[np.int64], ns: NDArray[np.float64]) -> ContextCurve:
    root = np.sqrt(ns)
    slope = np.append(np.diff(root) / np.diff(knots), 0.0)
    # Beyond the longest sequence a batch of chunks may still attend to more pairs: keep the last slope.
    slope[-1] = slope[-2]
    return ContextCurve([int(k) for k in knots], [float(r) for r in root], [float(s) for s in slope])
