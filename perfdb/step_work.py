"""What the steps of a log compute and move on one chip: arithmetic and bytes, as times at the chip's nominal rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perfdb.expert_operators import RoutedExperts
from perfdb.operators import Elementwise, Overlapped
from perfdb.speed_of_light import Bound, attention_bound, attention_peak, row_bound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.operators import Kernel, RowOperator, StepOperators

__all__ = ["step_work", "visible_column", "visible_tokens"]


#: Operators that read weights as their rows call for them.
_Woken = RoutedExperts | Overlapped


@dataclass(frozen=True, slots=True)
class _Affine:
    """Work of some operators over ``n`` rows: ``fixed + n * each``, each a pair (compute ns, memory ns)."""

    fixed: NDArray[np.float64]
    each: NDArray[np.float64]


def step_work(operators: StepOperators, chip: Chip, table: Mapping[str, NDArray[np.int64]], stages: int = 1) -> Bound:
    """Return the work of each row of a step log, on one chip.

    Parameters
    ----------
    operators
        What a step runs on one chip.
    chip
        Gives the nominal rates.
    table
        Columns ``steps, decodes, tokens, prompts, completed, pairs, reach`` of :class:`simulator.records.StepLog`, and
        those of :func:`visible_tokens` for each kind of generation attention. All int64 of shape (rows,).
    stages
        Pipeline stages that share the operators.

    Returns
    -------
    Bound
        Time, ns, of the arithmetic at the dense peak and of the bytes at the memory rate, shape (rows,).

    Notes
    -----
    Weights are read once per step, and once per micro-batch where the stages of a pipeline decode one each; the KV
    cache once per sequence that looks at it. Collectives and the host count nothing here. With a sliding window a
    prompt's token sees at most the window.
    """
    steps, decodes, tokens = table["steps"], table["decodes"], table["tokens"]
    samples = decodes + table["completed"]
    passes = np.where(table["prompts"] == 0, stages, 1) * steps
    per_token = _rows([one for one in operators.per_token if not isinstance(one, _Woken)], chip)
    per_sample = _rows(operators.per_sample, chip)
    found = np.outer(per_token.fixed, passes) + np.outer(per_token.each, (tokens + decodes) * steps)
    found += np.outer(per_sample.fixed, passes * (samples > 0)) + np.outer(per_sample.each, samples * steps)
    found += _woken(operators.per_token, chip, (tokens + decodes) * steps, passes)
    for kernel in operators.generation:
        found += _generation(kernel, chip, decodes, steps, table[visible_column(kernel)])
    for kernel in operators.context:
        found += _context(kernel, chip, table)
    return Bound(found[0] / stages, found[1] / stages)


def visible_column(kernel: Kernel) -> str:
    """Return under which name a table holds the tokens that decoding sequences look at in such layers."""
    return f"visible_{kernel.window}"


def visible_tokens(window: int, table: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the sum over the steps of each row of the cached tokens that a decoding sequence looks at.

    Parameters
    ----------
    window
        Sliding window in tokens, 0 for none.
    table
        Columns ``context`` and ``steps``, int64.

    Notes
    -----
    A context grows by a token per step, up to the window: a sum of integers, the same however steps are gathered.
    """
    context, steps = table["context"], table["steps"]
    growing = np.clip(window - context, 0, steps) if window else steps
    total: NDArray[np.int64] = growing * context + growing * (growing - 1) // 2 + (steps - growing) * window
    return total


def _rows(operators: Iterable[RowOperator], chip: Chip) -> _Affine:
    points = np.array([0, 1])
    fixed, each = np.zeros(2), np.zeros(2)
    for operator in operators:
        if (bound := row_bound(chip, operator, points)) is not None:
            at = np.array([bound.compute_ns, bound.memory_ns]) * operator.count
            fixed, each = fixed + at[:, 0], each + at[:, 1] - at[:, 0]
        elif isinstance(operator, Elementwise):
            each = each + np.array([0.0, 1e9 * operator.count * operator.bytes_per_row / chip.memory_bytes_per_s])
    return _Affine(fixed, each)


def _woken(
    operators: Iterable[RowOperator], chip: Chip, rows: NDArray[np.int64], passes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the work of experts, whose weights are read as far as the rows of a pass wake them."""
    found = np.zeros((2, len(rows)))
    of_one = rows // np.maximum(passes, 1)
    for operator in operators:
        if isinstance(operator, _Woken) and (bound := row_bound(chip, operator, of_one)):
            found += operator.count * np.array([bound.compute_ns, bound.memory_ns]) * passes
    return found


def _generation(
    attention: Kernel,
    chip: Chip,
    decodes: NDArray[np.int64],
    steps: NDArray[np.int64],
    visible: NDArray[np.int64],
) -> NDArray[np.float64]:
    bound = attention_bound(chip, attention, np.array([1, 1]), np.array([0, 1]))
    at = np.array([bound.compute_ns, bound.memory_ns]) * attention.count
    return np.outer(at[:, 0], decodes * steps) + np.outer(at[:, 1] - at[:, 0], decodes * visible)


def _context(attention: Kernel, chip: Chip, table: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    tokens, pairs = table["tokens"], table["pairs"]
    if attention.window:
        pairs = np.minimum(pairs, 2 * attention.window * tokens)
    peak = attention_peak(chip, attention)
    # One prompt of one token attends to half a pair, which the log counts as one.
    compute = 1e9 * (attention.pair_flops / 2) / peak * pairs + 1e9 * attention.token_flops / peak * tokens
    moved = attention.kv_bytes_per_token * (table["reach"] + table["prompts"]) + attention.row_bytes * tokens
    moved = moved + attention.sequence_bytes * table["prompts"]
    return attention.count * np.array([compute, 1e9 * moved / chip.memory_bytes_per_s])
