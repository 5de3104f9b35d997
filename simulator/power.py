"""Power and energy of a run, from its step logs: what every step computed and moved, and how long that took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from perfdb.encoder_work import encoder_work
from perfdb.step_work import step_work, visible_column, visible_tokens
from simulator.built_pool import BuiltEncoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from simulator.built_pool import AnyPool, BuiltPool

__all__ = ["HOST_LOAD", "PoolPower", "Stay", "add_up", "draw_of_steps", "pool_power"]

#: Share of ``Node.host_w``, a maximum, that hosts draw all the time. Training at full load was measured at 76 % of the
#: 10.2 kW of a DGX H100 (arXiv 2506.14551): with all chips at their TDP that leaves 47 % of the 4.6 kW beside them.
HOST_LOAD: Final = 0.5
#: Peaks are means over this time: shorter ones pass unseen by breakers and by most meters.
WINDOW_NS: Final = 1_000_000_000
#: Of a run of more seconds than this, 12 days, windows are longer, so that their number stays below it.
_MOST_WINDOWS: Final = 1 << 20

_NS_PER_HOUR: Final = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class PoolPower:
    """Power of some chips and their share of the hosts over a run.

    Attributes
    ----------
    energy_wh
        From the start to the last token.
    mean_w
        The same over that time.
    peak_w
        Highest mean over a window of :data:`WINDOW_NS`.
    provisioned_w
        Most that may be drawn: the caps of all chips, and the hosts at full load.
    window_w
        Mean power in each window, shape (windows,); the last one may be shorter.
    """

    energy_wh: float
    mean_w: float
    peak_w: float
    provisioned_w: float
    window_w: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stay:
    """An instance, or one of its attention ranks, that was there from a time to another.

    Attributes
    ----------
    table
        Its step log.
    start_ns, end_ns
        Outside of them it draws nothing: it is not there yet, has failed, or its chips serve another pool.
    """

    table: Mapping[str, NDArray[np.int64]]
    start_ns: int
    end_ns: int


def pool_power(pool: AnyPool, stays: Iterable[Stay], last_ns: int) -> PoolPower:
    """Return the power of a pool.

    Parameters
    ----------
    pool
        Its chips, operators and cap.
    stays
        Its instances, each as its ranks.
    last_ns
        End of the run.
    """
    edges = _edges(last_ns)
    ranks = 1 if isinstance(pool, BuiltEncoder) else pool.layout.data * pool.micro_batches
    rank_w = pool.layout.chips // ranks * pool.chip.tdp_w
    energy = np.zeros(len(edges))
    for stay in stays:
        energy += rank_w * _share_ns(pool, stay, edges)
    host_w = pool.host_w * pool.chips
    energy += HOST_LOAD * host_w * edges
    return _over(edges, energy, pool.chips * pool.chip.tdp_w * pool.power_cap + host_w)


def add_up(parts: Sequence[PoolPower], last_ns: int) -> PoolPower:
    """Return the power of several pools together; their peaks need not fall into the same window."""
    edges = _edges(last_ns)
    windows = np.sum([part.window_w for part in parts], axis=0)
    energy = np.append(0.0, np.cumsum(windows * np.diff(edges)))
    return _over(edges, energy, sum(part.provisioned_w for part in parts))


def draw_of_steps(pool: AnyPool, table: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return the mean power of one chip during each row of a step log, or of runs of an encoder, shape (rows,).

    It is a share of its TDP.

    Notes
    -----
    All decode steps of one batch size in the log draw the same, their mean, so that the answer does not depend on how
    steps were gathered into rows.
    """
    if isinstance(pool, BuiltEncoder):
        work = encoder_work(pool.operators, pool.chip, table)
        duration_ns = np.maximum(table["duration_ns"], 1.0)
        return np.minimum(pool.chip.power.asked(work.memory_ns, work.compute_ns, duration_ns), pool.power_cap)
    seen = {visible_column(kernel): kernel.window for kernel in pool.operators.generation}
    table = {**table, **{name: visible_tokens(window, table) for name, window in seen.items()}}
    share = np.zeros(len(table["steps"]))
    mixed = table["prompts"] > 0
    share[mixed] = _share(pool, {name: column[mixed] for name, column in table.items()})
    sizes, place = np.unique(table["decodes"][~mixed], return_inverse=True)
    together = {name: np.zeros(len(sizes), np.int64) for name in table}
    together["decodes"] = sizes
    for name in ("steps", *seen, "duration_ns"):
        np.add.at(together[name], place, table[name][~mixed])
    share[~mixed] = _share(pool, together)[place]
    return share


def _edges(last_ns: int) -> NDArray[np.int64]:
    """Return where windows begin and end, ns, shape (windows + 1,); a run of nothing is a nanosecond long."""
    end = max(last_ns, 1)
    window_ns = WINDOW_NS * -(-end // (WINDOW_NS * _MOST_WINDOWS))
    return np.append(np.arange(0, end, window_ns), end)


def _share(pool: BuiltPool, table: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return the mean power of one chip during each row, a share of its TDP."""
    work = step_work(pool.operators, pool.chip, table, pool.layout.pipeline // pool.micro_batches)
    duration_ns = np.maximum(table["duration_ns"], 1.0)
    return np.minimum(pool.chip.power.asked(work.memory_ns, work.compute_ns, duration_ns), pool.power_cap)


def _share_ns(pool: AnyPool, stay: Stay, edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a chip's energy up to each edge, in TDP times ns."""
    idle, table = pool.chip.power.idle, stay.table
    start, share = table["start_ns"], draw_of_steps(pool, table)
    # What chips draw with nothing to do is counted once, in the pool whose chips they are.
    rests = 0.0 if pool.shares else idle
    end = start + table["duration_ns"]
    # Rows that follow each other at the same power are one stretch, whether they are one run of steps or many.
    first = np.ones(len(start), np.bool_)
    first[1:] = (start[1:] != end[:-1]) | (share[1:] != share[:-1])
    last = np.append(first[1:], np.ones(min(1, len(first)), np.bool_))
    start, end, share = start[first], end[last], share[first]
    gained = np.append(0.0, np.cumsum((end - start) * (share - idle)))
    times = np.column_stack([start, end]).ravel()
    values = np.column_stack([gained[:-1], gained[1:]]).ravel()
    above = np.interp(edges, times, values) if len(times) else np.zeros(len(edges))
    found: NDArray[np.float64] = rests * (np.clip(edges, stay.start_ns, stay.end_ns) - stay.start_ns) + above
    return found


def _over(edges: NDArray[np.int64], energy: NDArray[np.float64], provisioned_w: float) -> PoolPower:
    windows = np.diff(energy) / np.diff(edges)
    return PoolPower(
        energy_wh=float(energy[-1]) / _NS_PER_HOUR,
        mean_w=float(energy[-1] / edges[-1]),
        peak_w=float(windows.max()),
        provisioned_w=provisioned_w,
        window_w=windows,
    )
