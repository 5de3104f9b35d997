"""Fold the operators of a step and a cost source into the curves of :class:`StepPrices`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.pipeline import RoundPrices
from perfdb.prompt_tiles import tile_curve
from perfdb.speculation import SpeculativePrices
from perfdb.speed_of_light import attention_bound
from perfdb.step_prices import FRACTION_BITS, ContextCurve, DecodeCurve, Launches, StepPrices, cumulated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.operators import Kernel, RowOperator, StepOperators
    from perfdb.sources import SourceChain
    from perfdb.speculation import Speculation

__all__ = ["CompiledCosts", "Drafter", "HostTime", "StepLimits", "compile_costs"]

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
    speculation
        What steps verify, if they do.
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
    speculation: Speculation | None = None


@dataclass(frozen=True, slots=True)
class Drafter:
    """What drafts tokens, which the steps of a model verify.

    Attributes
    ----------
    speculation
        How many are drafted and accepted.
    operators
        What drafting one token runs.
    chip
        Where.
    """

    speculation: Speculation
    operators: StepOperators
    chip: Chip


def compile_costs(  # noqa: PLR0913, PLR0917 - what decides a price
    operators: StepOperators,
    source: SourceChain,
    limits: StepLimits,
    host: HostTime,
    stages: int = 1,
    drafter: Drafter | None = None,
    tiled: Chip | None = None,
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
    drafter
        Drafts tokens for the steps of one stage to verify.
    tiled
        The chip, where sequences that decode beside prompts go through the kernel of the prompts if it is made so.

    Raises
    ------
    CostError
        If the source cannot price an operator.
    """
    rows = drafter.speculation.rows if drafter else 1
    # A step holds at least the tokens of a full decode batch.
    tokens = max(limits.tokens, limits.sequences) + limits.sequences * (rows - 1)
    token_ns = _by_origin(operators.per_token, source, tokens)
    sample_ns = _by_origin(operators.per_sample, source, limits.sequences * rows)
    generation_knots = _doubling_knots(limits.context)
    context_knots = _halved_knots(limits.context)
    generation = _generation(operators, source, limits.sequences, generation_knots, drafter)
    context, windowed = _contexts(operators, source, context_knots)
    passes = StepPrices(
        _whole(token_ns.sum(axis=1)),
        _whole(sample_ns.sum(axis=1)),
        [0, *(host.step_ns + host.sequence_ns * sequences for sequences in range(1, limits.sequences + 1))],
        lambda n: _decode_curve(generation_knots, generation.ns.reshape(-1, len(generation_knots))[n]),
        windowed.pop(0),
        _launches(operators, source, host),
        windowed,
        _whole(_by_origin(operators.shared, source, tokens).sum(axis=1)) if operators.shared else (),
        tile_curve(operators.generation, tiled, generation_knots.tolist()) if tiled else None,
    )
    prices, verified = _of_engine(passes, stages, drafter, source, limits), drafter.speculation if drafter else None
    split = token_ns, sample_ns, generation, context, generation_knots, context_knots
    return CompiledCosts(prices, passes, stages, *split, verified)


def _contexts(
    operators: StepOperators, source: SourceChain, knots: NDArray[np.int64]
) -> tuple[Callable[[int], Estimate], dict[int, Callable[[int], ContextCurve]]]:
    """Return the cost of context attention of a number of equal prompts at each knot, and its curves by window."""

    def context_of(kernels: Sequence[Kernel]) -> Callable[[int], Estimate]:
        return cache(lambda prompts: _context(kernels, source, prompts, knots))

    windows = sorted({0, *(kernel.window for kernel in operators.context)})
    curves = {w: _curves(knots, context_of([k for k in operators.context if k.window == w])) for w in windows}
    return context_of(operators.context), curves


def _of_engine(
    passes: StepPrices, stages: int, drafter: Drafter | None, source: SourceChain, limits: StepLimits
) -> StepPrices:
    """Return what the steps of an engine cost that makes such passes."""
    if drafter is not None:
        draft = compile_costs(drafter.operators, source, limits, HostTime())
        return SpeculativePrices(passes, draft.prices, drafter.speculation)
    return passes if stages == 1 else RoundPrices(passes, stages)


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
        total[rows, found.origin] += operator.count * found.ns
    return total


def _whole(ns: NDArray[np.float64]) -> list[int]:
    whole: list[int] = np.rint(ns).astype(np.int64).tolist()
    return whole


def _doubling_knots(most: int) -> NDArray[np.int64]:
    """Return 0, 1, 3, 7, ...: the contexts at which generation attention is measured, and the longest."""
    knots = [(1 << power) - 1 for power in range(most.bit_length() + 1)]
    return np.array(sorted({*(k for k in knots if k < most), most}), np.int64)


def _halved_knots(most: int) -> NDArray[np.int64]:
    """Return 0, 1 and powers of two with steps between them: lengths at which prompts are measured."""
    powers = [1 << power for power in range(4, most.bit_length() + 1)]
    knots = {0, 1, most, 10_240, *powers, *(p + p // 2 for p in powers)}
    return np.array(sorted(k for k in knots if k <= most), np.int64)


def _generation(
    operators: StepOperators, source: SourceChain, most: int, knots: NDArray[np.int64], drafter: Drafter | None
) -> Estimate:
    sequences, tokens = (axis.ravel() for axis in np.meshgrid(np.arange(1, most + 1), knots, indexing="ij"))
    found = _together(operators.generation, source, sequences, tokens)
    if drafter is not None:
        found = Estimate(found.ns * _verified(operators.generation, drafter, sequences, tokens), found.origin)
    nothing = np.zeros(len(knots))
    return Estimate(np.concatenate([nothing, found.ns]), np.concatenate([nothing.astype(np.uint8), found.origin]))


def _verified(
    kernels: Sequence[Kernel], drafter: Drafter, sequences: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how many times as long attention takes where several tokens of a sequence look at its cache at once.

    They are multiplied one by one, and the cache is read once for all.
    """
    one = many = np.zeros(len(tokens))
    for kernel in kernels:
        bound = attention_bound(drafter.chip, kernel, sequences, tokens)
        one = one + kernel.count * bound.ns
        many = many + kernel.count * np.maximum(drafter.speculation.rows * bound.compute_ns, bound.memory_ns)
    return np.asarray(np.divide(many, one, out=np.ones(len(tokens)), where=one > 0))


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
