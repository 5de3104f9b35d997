"""How sure the capacity that a sweep found is: by seed, by the number of requests, and by the share that is wanted."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from simulator.loads import LOAD_UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["crossing", "doubts"]

#: Standard errors of a 95 % interval.
_WIDE: Final = 1.96
#: How much more and less is wanted, to see what that does.
_STEP: Final = 0.05


def crossing(loads: Sequence[float], shares: Sequence[float], wanted: float) -> float | None:
    """Return at which load the first stretch of shares that are large enough ends, read on straight lines.

    Parameters
    ----------
    loads
        Rising.
    shares
        What share of the requests meets the SLO at each.
    wanted
        The share that must.

    Returns
    -------
    float or None
        None if no load keeps it, or all from the first that does to the highest.

    Examples
    --------
    >>> crossing([1, 2, 3], [1.0, 0.95, 0.85], 0.9)
    2.5
    """
    started = False
    for (load, share), (next_load, next_share) in pairwise(zip(loads, shares, strict=True)):
        started = started or share >= wanted
        if started and next_share < wanted:
            return load + (next_load - load) * (share - wanted) / (share - next_share)
    return None


def doubts(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what the capacity of a deployment rests on, in words: what is asked, and the answer.

    Parameters
    ----------
    content
        The content of the ``sweep.json`` of one scenario.
    rows
        Its rows of ``sweep.parquet``.
    """
    loads = [load[content["kind"]] for load in content["loads"]]
    shares = [load["mean"]["slo_attainment"] for load in content["loads"]]
    found = [("narrowed down", _narrowed(content)), ("by seed", _by_seed(content, rows, loads))]
    if content["capacity"] is not None and any(content["slo_ms"].values()):
        found.append(("by chance", _by_chance(content, rows, loads, shares)))
        for wanted in (content["attainment"] - _STEP, content["attainment"] + _STEP):
            if 0 < wanted < 1:
                told = _told(content, crossing(loads, shares, wanted), shares[0] >= wanted)
                found.append((f"were {wanted * 100:.3g}% wanted", told))
    return found


def _narrowed(content: Mapping[str, Any]) -> str:
    capacity, missed_at, unit = content["capacity"], content["missed_at"], LOAD_UNITS[content["kind"]]
    if capacity is None:
        return f"the lowest load tried, {missed_at:g} {unit}, misses the SLO"
    if missed_at is None:
        return f"every load tried up to {capacity:g} {unit} keeps the SLO: the capacity may be higher"
    again = "; a higher load keeps it again, so that requests are too few to be sure" if content["regained"] else ""
    return f"{capacity:g} {unit} keep the SLO, {missed_at:g} miss it: {missed_at / capacity - 1:.1%} apart{again}"


def _by_seed(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], loads: Sequence[float]) -> str:
    seeds = content["seeds"]
    if len(seeds) == 1:
        return "one seed; --seeds 5 would show how far another draw of the traffic moves it"
    by_seed = {seed: [row["slo_attainment"] for row in rows if row["seed"] == seed] for seed in seeds}
    alone = [crossing(loads, shares, content["attainment"]) for shares in by_seed.values()]
    known = [load for load in alone if load is not None]
    without = len(alone) - len(known)
    rest = f"; under {without} it is outside the loads tried" if without else ""
    told = (
        f"{min(known):.3g} to {max(known):.3g} {LOAD_UNITS[content['kind']]}, read between loads" if known else "none"
    )
    return f"under each of {len(seeds)} seeds alone {told}{rest}"


def _by_chance(
    content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], loads: Sequence[float], shares: Sequence[float]
) -> str:
    at = [row for row in rows if row[content["kind"]] == content["capacity"]]
    requests = sum(int(row["completed"] + row["failed"]) for row in at)
    wanted = content["attainment"]
    error = _WIDE * math.sqrt(wanted * (1 - wanted) / max(1, requests))
    ends = [crossing(loads, shares, share) for share in (wanted + error, wanted - error)]
    span = (
        ""
        if None in ends
        else f", that is to {ends[0]:.3g} to {ends[1]:.3g} {LOAD_UNITS[content['kind']]} read between loads"
    )
    return (
        f"{requests:,} requests at the capacity: were they independent, their share within the SLO would be known to "
        f"±{error * 100:.2g} points (95 %){span}; requests that queue together are not, which makes it more"
    )


def _told(content: Mapping[str, Any], load: float | None, kept: bool) -> str:  # noqa: FBT001 - of the lowest load
    if load is not None:
        return f"{load:.3g} {LOAD_UNITS[content['kind']]}, read between loads"
    return "above the highest load tried" if kept else "below the lowest load tried"
