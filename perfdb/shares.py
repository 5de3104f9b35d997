"""How much of the simulated time was measured, and how much guessed: time by origin, after a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from perfdb.compile import CompiledCosts

__all__ = ["time_by_origin"]


def time_by_origin(costs: CompiledCosts, table: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
    """Return the time of a step log by origin of its price.

    Parameters
    ----------
    costs
        The compiled costs the log was made with.
    table
        Columns ``duration_ns, steps, decodes, context, tokens, prompts, completed, pairs``, int64, shape (rows,).

    Returns
    -------
    dict
        Nanoseconds under ``measured, interpolated, extrapolated, roofline`` and ``host``; together the sum of
        ``duration_ns``, up to rounding.

    Notes
    -----
    A run of decode steps is judged at its middle context. Context attention is what remains of a step once
    everything else is taken off, judged at the prompt length it was priced at.
    """
    steps = table["steps"]
    by_row = costs.token_ns[table["tokens"] + table["decodes"]] + costs.sample_ns[table["decodes"] + table["completed"]]
    total = (by_row * steps[:, None]).sum(axis=0)
    host = np.asarray(costs.prices.host_ns, np.float64)[table["decodes"] + table["prompts"]]
    generation = _generation(costs, table)
    np.add.at(total, generation[1], generation[0] * steps)
    rest = table["duration_ns"] - (by_row.sum(axis=1) + host + generation[0]) * steps
    context = np.where(table["prompts"] > 0, np.maximum(rest, 0.0), 0.0)
    np.add.at(total, _context_origin(costs, table), context)
    found = {origin.name.lower(): float(total[origin]) for origin in Origin}
    return found | {"host": float((host * steps).sum())}


def _generation(
    costs: CompiledCosts, table: Mapping[str, NDArray[np.int64]]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    knots, n = costs.generation_knots, table["decodes"]
    shape = (-1, len(knots))
    ns, origin = costs.generation.ns.reshape(shape), costs.generation.origin.reshape(shape)
    middle = np.minimum(table["context"] + table["steps"] // 2, knots[-1])
    high = np.minimum(np.searchsorted(knots, middle), len(knots) - 1)
    low = np.maximum(high - 1, 0)
    weight = (middle - knots[low]) / np.maximum(knots[high] - knots[low], 1)
    price = ns[n, low] + weight * (ns[n, high] - ns[n, low])
    worst = np.maximum(np.maximum(origin[n, low], origin[n, high]), Origin.INTERPOLATED)
    return np.where(n > 0, price, 0.0), worst.astype(np.uint8)


def _context_origin(costs: CompiledCosts, table: Mapping[str, NDArray[np.int64]]) -> NDArray[np.uint8]:
    knots = costs.context_knots
    length = np.sqrt(table["pairs"] / np.maximum(table["prompts"], 1))
    high = np.minimum(np.searchsorted(knots, length), len(knots) - 1)
    worst = np.maximum(costs.context.origin[high], Origin.INTERPOLATED)
    return np.where(length > knots[-1], np.maximum(worst, Origin.EXTRAPOLATED), worst).astype(np.uint8)
