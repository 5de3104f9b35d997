"""How much of the simulated time was measured, and how much guessed: time by origin, after a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfdb.estimate import Origin
from perfdb.micro_batches import micro_batch_table
from perfdb.step_profile import ProfiledCosts
from perfdb.step_series import cumulatives

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from perfdb.compile import CompiledCosts, StepLimits
    from perfdb.speculation import Speculation
    from perfdb.step_prices import DecodeCurve, StepPrices

__all__ = ["time_by_origin"]


def time_by_origin(costs: CompiledCosts | ProfiledCosts, table: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
    """Return the time of a step log by origin of its price.

    Parameters
    ----------
    costs
        The costs the log was made with. Time of a step profile is interpolated between steps that were measured, or,
        where it says which those were, extrapolated beyond the largest.
    table
        Columns of :class:`simulator.records.StepLog` but for ``start_ns`` and ``joined``, int64, shape (rows,).

    Returns
    -------
    dict
        Nanoseconds under ``measured, interpolated, extrapolated, roofline`` and ``host``; together the sum of
        ``duration_ns``, up to rounding.

    Notes
    -----
    A run of decode steps is cut at the contexts between which attention is interpolated, so that the answer
    does not depend on how steps were gathered into runs. Context attention is what remains of a step once
    everything else is taken off, judged at the prompt length it was priced at.
    """
    if isinstance(costs, ProfiledCosts):
        nothing = dict.fromkeys((*(origin.name.lower() for origin in Origin), "host"), 0.0)
        beyond = float(table["duration_ns"][_beyond(costs.measured, table)].sum()) if costs.measured else 0.0
        within = float(table["duration_ns"].sum()) - beyond
        return nothing | {"interpolated": within, "extrapolated": beyond}
    if costs.speculation is not None:
        return _of_verification(costs, table, costs.speculation)
    return _of_passes(costs, micro_batch_table(table, costs.stages))


def _of_verification(
    costs: CompiledCosts, table: Mapping[str, NDArray[np.int64]], speculation: Speculation
) -> dict[str, float]:
    """Return the time of tokens by the origins of the passes that verify them; drafting is taken alike."""
    more = table["decodes"] * speculation.drafts
    passes = {**table, "tokens": table["tokens"] + more, "completed": table["completed"] + more}
    found = _of_passes(costs, passes)
    scale = float(table["duration_ns"].sum()) / (sum(found.values()) or 1.0)
    return {name: scale * ns for name, ns in found.items()}


def _of_passes(costs: CompiledCosts, table: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
    steps, prices = table["steps"], costs.passes
    tokens, samples = table["tokens"] + table["decodes"], table["decodes"] + table["completed"]
    sequences = table["decodes"] + table["prompts"]
    total = _counts(tokens, steps, len(costs.token_ns)) @ costs.token_ns
    total += _counts(samples, steps, len(costs.sample_ns)) @ costs.sample_ns
    host = np.asarray(prices.host_ns)
    generation = _generation(costs, table, total)
    mixed = table["prompts"] > 0
    constant = np.asarray(prices.token_ns)[tokens] + np.asarray(prices.sample_ns)[samples] + host[sequences]
    rest = table["duration_ns"] - steps * constant - generation
    waited = _waits(prices, table, rest)
    np.add.at(total, _context_origin(costs, table, mixed), np.maximum(rest - waited, 0)[mixed])
    found = {origin.name.lower(): float(total[origin]) for origin in Origin}
    return found | {"host": float(_counts(sequences, steps, len(host)) @ host + waited.sum())}


def _beyond(measured: StepLimits, table: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Tell which rows hold steps larger than any that was measured."""
    found: NDArray[np.bool_] = table["tokens"] + table["decodes"] > measured.tokens
    found |= table["decodes"] > measured.sequences
    found |= (table["decodes"] > 0) & (table["context"] + table["steps"] > measured.context)
    return found


def _waits(prices: StepPrices, table: Mapping[str, NDArray[np.int64]], rest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the time, ns, for which the kernels of each row wait for an eager host to launch them.

    ``rest`` is what a row's duration leaves when all but context attention is taken off.
    """
    if not prices.launches.prompt_ns:
        return np.zeros_like(rest)
    waits = np.where(table["prompts"] > 0, 0, rest)
    for row in np.flatnonzero(table["prompts"]):
        decodes, completed, prompts = (int(table[name][row]) for name in ("decodes", "completed", "prompts"))
        sums = [int(table[name][row]) for name in ("pairs", "reach")]
        tokens = int(table["tokens"][row]) + decodes
        kernels = prices.kernels_ns(tokens, decodes + completed, decodes, int(table["context"][row]), prompts, *sums)
        waits[row] = max(prices.launches.prompt_ns - kernels, 0)
    return waits


def _counts(values: NDArray[np.int64], steps: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return how many steps have each value, shape (size,): whole numbers add up the same in any order."""
    total = np.zeros(size, np.int64)
    np.add.at(total, values, steps)
    return total


def _generation(
    costs: CompiledCosts, table: Mapping[str, NDArray[np.int64]], total: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Add the time of generation attention to ``total`` by origin; return it by row, ns."""
    knots, by_row = costs.generation_knots, np.zeros(len(table["steps"]), np.int64)
    origin = costs.generation.origin.reshape(-1, len(knots))
    first, end = table["context"], table["context"] + table["steps"]
    places = [np.searchsorted(knots, last, side="right") - 1 for last in (first, end)]
    order = np.argsort(table["decodes"], kind="stable")
    cuts = np.flatnonzero(np.diff(table["decodes"][order])) + 1
    for rows in np.split(order, cuts):
        n = int(table["decodes"][rows[0]]) if len(rows) else 0
        if not n:
            continue
        curve = costs.passes.generation_curve(n)
        by_row[rows] = cumulatives(curve, end[rows]) - cumulatives(curve, first[rows])
        pieces = np.zeros(len(knots), np.int64)
        within = places[0][rows] == places[1][rows]
        np.add.at(pieces, places[0][rows[within]], by_row[rows[within]])
        crossing = rows[~within]
        pieces += _between_knots(curve, knots, first[crossing], end[crossing])
        worst = np.maximum(np.maximum(origin[n], np.append(origin[n][1:], origin[n][-1])), Origin.INTERPOLATED)
        np.add.at(total, worst, pieces)
    return by_row


def _between_knots(
    curve: DecodeCurve, knots: NDArray[np.int64], first: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the time of runs behind each knot and before the next, ns, shape (knots,)."""
    edges = np.clip(np.append(knots, np.iinfo(np.int64).max), first[:, None], end[:, None])
    found: NDArray[np.int64] = np.diff(cumulatives(curve, edges), axis=1).sum(axis=0)
    return found


def _context_origin(
    costs: CompiledCosts, table: Mapping[str, NDArray[np.int64]], mixed: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return the origin of context attention in the steps that compute prompts."""
    prompts = table["prompts"][mixed]
    length = np.sqrt(table["pairs"][mixed] / prompts)
    knots = costs.context_knots
    high = np.minimum(np.searchsorted(knots, length), len(knots) - 1)
    found = np.zeros(len(prompts), np.uint8)
    for b in np.unique(prompts):
        found[prompts == b] = costs.context(int(b)).origin[high[prompts == b]]
    worst = np.where(length > knots[-1], Origin.EXTRAPOLATED, Origin.INTERPOLATED)
    return np.maximum(found, worst).astype(np.uint8)
