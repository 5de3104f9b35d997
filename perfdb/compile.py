"""Fold the operators of a step and a cost source into the curves of :class:`StepPrices`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from perfdb.beside_prices import BesidePrices
from perfdb.by_origin import by_origin
from perfdb.estimate import Estimate
from perfdb.linear_curve import linear_curve
from perfdb.pipeline import RoundPrices
from perfdb.prompt_tiles import tile_curve
from perfdb.speculation import SpeculativePrices
from perfdb.speed_of_light import attention_bound
from perfdb.step_prices import FRACTION_BITS, ContextCurve, DecodeCurve, Launches, StepPrices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.operators import Kernel, StepOperators
    from perfdb.sources import SourceChain
    from perfdb.speculation import Speculation
    from perfdb.two_batches import TwoBatches

__all__ = ["CompiledCosts", "Drafter", "HostTime", "StepLimits", "compile_costs"]


_Contexts: TypeAlias = "Sequence[tuple[Sequence[Kernel], SourceChain]]"


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
    batches: TwoBatches | None = None,
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
    batches
        How steps of at least two sequences pass the layers in two halves; None where they pass them whole.
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
    sample_ns = by_origin(operators.per_sample, source, limits.sequences * rows)
    generation_knots = _doubling_knots(limits.context)
    context_knots = _halved_knots(limits.context)
    work = _work(operators, source, tokens, limits.sequences, generation_knots, drafter)
    if batches is not None:
        work = _in_halves(work, batches, source, limits.sequences, generation_knots, drafter)
    context, windowed = _contexts(work.contexts, context_knots)
    tables = (
        _whole(work.token_ns.sum(axis=1)),
        _whole(sample_ns.sum(axis=1)),
        [0, *(host.step_ns + host.sequence_ns * sequences for sequences in range(1, limits.sequences + 1))],
        lambda n: _decode_curve(generation_knots, work.generation.ns.reshape(-1, len(generation_knots))[n]),
        windowed.pop(0),
        _launches(operators, source, host),
        windowed,
        _whole(work.other_ns),
    )
    passes = BesidePrices(*tables) if batches else StepPrices(*tables, _tiles(operators, tiled, generation_knots))
    prices, verified = _of_engine(passes, stages, drafter, source, limits), drafter.speculation if drafter else None
    split = work.token_ns, sample_ns, work.generation, context, generation_knots, context_knots
    return CompiledCosts(prices, passes, stages, *split, verified)


def _tiles(operators: StepOperators, chip: Chip | None, knots: NDArray[np.int64]) -> DecodeCurve | None:
    return None if chip is None else tile_curve(operators.generation, chip, knots.tolist())


@dataclass(frozen=True, slots=True)
class _Work:
    """What steps cost.

    Attributes
    ----------
    token_ns
        Operators over all tokens by origin, shape (tokens + 1, origins).
    generation
        Attention of decoding, at (sequences, knot).
    contexts
        Attention over prompts, and what prices it.
    other_ns
        By tokens, what attention ranks run together; of halved steps, for how much longer others take than the first
        stream without its attention. Empty for nothing.
    """

    token_ns: NDArray[np.float64]
    generation: Estimate
    contexts: _Contexts
    other_ns: NDArray[np.float64]


def _work(  # noqa: PLR0913, PLR0917 - what decides a price
    operators: StepOperators,
    source: SourceChain,
    tokens: int,
    sequences: int,
    knots: NDArray[np.int64],
    drafter: Drafter | None,
) -> _Work:
    shared = by_origin(operators.shared, source, tokens).sum(axis=1) if operators.shared else np.zeros(0)
    generation = _generation(operators, source, sequences, knots, drafter)
    return _Work(by_origin(operators.per_token, source, tokens), generation, [(operators.context, source)], shared)


def _in_halves(  # noqa: PLR0913, PLR0917 - what decides a price
    whole: _Work,
    batches: TwoBatches,
    source: SourceChain,
    sequences: int,
    knots: NDArray[np.int64],
    drafter: Drafter | None,
) -> _Work:
    """Return what steps cost that pass the layers in two halves; those of one sequence are not cut."""
    rows = drafter.speculation.rows if drafter else 1
    token_ns, longer_ns = batches.over_rows(source, len(whole.token_ns) - 1)
    token_ns[: 2 * rows], longer_ns[:, : 2 * rows] = whole.token_ns[: 2 * rows], 0
    of_sequences = longer_ns[:, rows : sequences * rows + 1 : rows]
    generation = _halved(whole.generation, batches, source, of_sequences, knots, drafter)
    contexts = [(batches.rest.context, source), (batches.context, batches.main_source)]
    return _Work(token_ns, generation, contexts, np.maximum(longer_ns, 0).max(axis=0))


def _contexts(
    priced: _Contexts, knots: NDArray[np.int64]
) -> tuple[Callable[[int], Estimate], dict[int, Callable[[int], ContextCurve]]]:
    """Return the cost of context attention of a number of equal prompts at each knot, and its curves by window."""

    def context_of(window: int | None) -> Callable[[int], Estimate]:
        chosen = [([k for k in kernels if window in {None, k.window}], source) for kernels, source in priced]
        return cache(lambda prompts: _context(chosen, prompts, knots))

    windows = sorted({0, *(kernel.window for kernels, _ in priced for kernel in kernels)})
    return context_of(None), {window: _curves(knots, context_of(window)) for window in windows}


def _of_engine(
    passes: StepPrices, stages: int, drafter: Drafter | None, source: SourceChain, limits: StepLimits
) -> StepPrices:
    """Return what the steps of an engine cost that makes such passes."""
    if drafter is not None:
        most = max(limits.tokens, limits.sequences * drafter.speculation.rows)
        draft = compile_costs(drafter.operators, source, replace(limits, tokens=most), HostTime())
        return SpeculativePrices(passes, draft.prices, drafter.speculation)
    return passes if stages == 1 else RoundPrices(passes, stages)


def _curves(knots: NDArray[np.int64], context: Callable[[int], Estimate]) -> Callable[[int], ContextCurve]:
    return lambda prompts: _context_curve(knots, context(prompts).ns)


def _launches(operators: StepOperators, source: SourceChain, host: HostTime) -> Launches:
    measured = round(sum(kernel.count * source.launch_ns(kernel) for kernel in operators.context))
    extra = sum(kernel.count for kernel in operators.context) * (host.prompt_attention_launches - 1)
    return Launches(host.launch_ns * operators.launches, host.launch_ns * (operators.launches + extra) + measured)


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


def _halved(  # noqa: PLR0913, PLR0917 - what decides a price
    whole: Estimate,
    batches: TwoBatches,
    source: SourceChain,
    longer_ns: NDArray[np.float64],
    knots: NDArray[np.int64],
    drafter: Drafter | None,
) -> Estimate:
    """Return generation attention where steps of two sequences and more are halved, and what they wait for beside it.

    Parameters
    ----------
    whole
        That of whole steps, of 0 to so many sequences, which stays for none and one.
    longer_ns
        How much longer than the first stream without attention the second one takes, and reading weights, by
        sequences from 1 on, shape (2, sequences).
    """
    most = longer_ns.shape[1]
    halves, tokens = (axis.ravel() for axis in np.meshgrid(-(-np.arange(1, most + 1) // 2), knots, indexing="ij"))
    found = _together(batches.generation, batches.main_source, halves, tokens)
    if drafter is not None:
        of_units = replace(drafter, chip=batches.main_chip)
        found = Estimate(found.ns * _verified(batches.generation, of_units, halves, tokens), found.origin)
    rest = _generation(batches.rest, source, most, knots, drafter)
    beside, reading = (np.repeat(one, len(knots)) for one in longer_ns)
    longest = np.maximum.reduce([2 * found.ns, beside, reading + 2 * batches.looking_ns(halves, tokens)])
    kept = 2 * len(knots)
    ns = (rest.ns[len(knots) :] + longest)[len(knots) :]
    return Estimate(
        np.concatenate([whole.ns[:kept], ns]), np.concatenate([whole.origin[:kept], found.origin[len(knots) :]])
    )


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


def _context(priced: _Contexts, prompts: int, knots: NDArray[np.int64]) -> Estimate:
    positive, many = np.maximum(knots, 1), np.full(len(knots), prompts)
    parts = [_together(kernels, source, many, positive) for kernels, source in priced]
    found = Estimate(np.sum([part.ns for part in parts], axis=0), np.max([part.origin for part in parts], axis=0))
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
    return linear_curve(contexts, first)


def _context_curve(knots: NDArray[np.int64], ns: NDArray[np.float64]) -> ContextCurve:
    root = np.sqrt(ns)
    slope = np.append(np.diff(root) / np.diff(knots), 0.0)
    # Beyond the longest sequence a batch of chunks may still attend to more pairs: keep the last slope.
    slope[-1] = slope[-2]
    return ContextCurve([int(k) for k in knots], [float(r) for r in root], [float(s) for s in slope])
