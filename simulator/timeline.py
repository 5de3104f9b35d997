"""How a run unfolds: one row per window of time, in the columns of ``timeline.parquet``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from simulator.engine_parts import EngineParts
from simulator.link_windows import LinkWindows, link_windows
from simulator.server import cores_of
from simulator.windows import mean_open, percentiles, window_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from simulator.finished import Finished
    from simulator.records import EncodeLog, StepLog

__all__ = ["LINK", "timeline_table"]

LINK: Final = "link_utilisation_"
"""What the names of columns about links begin with; the name of the link follows."""

_MOST_LINKS: Final = 5


def timeline_table(run: Finished) -> pd.DataFrame:
    """Return the windows of a run in order of time.

    Percentiles and shares of a window in which nothing of the kind happened are NaN. Averages over a window's time
    (``queued``, ``running``, ``kv_transfers``, ``utilisation``) come from when each began and ended, not from samples.
    """
    edges = run.window_edges()
    columns: dict[str, NDArray[np.float64] | NDArray[np.int64] | list[str]] = {
        "start_s": edges[:-1] / 1e9,
        "end_s": edges[1:] / 1e9,
    }
    columns |= _requests(run, edges)
    for number, pool in enumerate(run.pools):
        members = np.flatnonzero(run.instance_pools() == number)
        columns |= {f"{name}_{pool.name}": column for name, column in _pool(run, members, edges).items()}
        if isinstance(pool.parts, EngineParts):
            columns[f"kv_held_{pool.name}"] = _kv_held(run, members, edges, pool.parts.blocks * pool.parts.block_tokens)
    if run.cluster.carrier is not None:
        transfers = run.cluster.carrier.log.table()
        begun = transfers["start_ns"]
        columns["kv_transfers"] = mean_open(begun, begun + transfers["duration_ns"], edges)
    columns |= _links(link_windows(run))
    columns["incidents"] = _told(run.incidents, edges)
    return pd.DataFrame(columns)


def _requests(run: Finished, edges: NDArray[np.int64]) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """Return counts and latencies; first tokens by when they came, all else by when a request was over."""
    ledger, times, windows = run.cluster.ledger, run.times, len(edges) - 1
    arrived, first, over = (window_of(ledger.column(name), edges) for name in ("arrival_ns", "told_ns", "finish_ns"))
    failed = ledger.column("failed") > 0
    # A request that is refused or lost is counted where it arrived: when it was given up is not recorded.
    over = np.where(failed, arrived, over)
    finished, failures, met = (
        np.bincount(over[which], minlength=windows) for which in (times.completed, failed, times.met_slo)
    )
    done = finished + failures
    median_ttft, p99_ttft = percentiles(times.ttft_ms, first, windows, (50, 99))
    return {
        "arrived": np.bincount(arrived, minlength=windows),
        "finished": finished,
        "failed": failures,
        "p50_ttft_ms": median_ttft,
        "p99_ttft_ms": p99_ttft,
        "p99_tpot_ms": percentiles(times.tpot_ms, over, windows, (99,))[0],
        "p99_e2el_ms": percentiles(times.e2e_ms, over, windows, (99,))[0],
        "slo_attainment": np.where(done > 0, met / np.maximum(done, 1), np.nan),
    }


def _pool(run: Finished, members: NDArray[np.int64], edges: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return what waits and runs in a pool, how busy it is and how many sequences a scheduler decodes while it does."""
    ledger = run.cluster.ledger
    arrival, features, admitted, first, ready, finish = (
        ledger.column(f"{name}_ns") for name in ("arrival", "features", "admitted", "first_token", "kv_ready", "finish")
    )
    arrival = np.maximum(arrival, features)
    here, decodes_here = (np.isin(ledger.column(name), members) for name in ("instance", "decode_instance"))
    handed = ready >= 0
    queued = _open(arrival, admitted, here, edges) + _open(first, ready, decodes_here & handed, edges)
    running = _open(admitted, first, here & handed, edges) + _open(admitted, finish, here & ~handed, edges)
    running += _open(ready, finish, decodes_here & handed, edges)
    cores = cores_of(run.cluster.instances[i] for i in members)
    if not cores:
        return _encoders(run, members, edges)
    begun, lasted, decodes = _columns([core.log for core in cores], "start_ns", "duration_ns", "decodes")
    with_decodes = decodes > 0
    decoding = mean_open(begun[with_decodes], (begun + lasted)[with_decodes], edges)
    batch = mean_open(begun, begun + lasted, edges, decodes)
    return {
        "queued": queued,
        "running": running,
        "utilisation": _busy(run, members, edges) / np.maximum(_serving(run, members, edges), 1e-9),
        "decode_batch": np.where(decoding > 0, batch / np.where(decoding > 0, decoding, 1.0), np.nan),
    }


def _encoders(run: Finished, members: NDArray[np.int64], edges: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return the requests whose images wait for and go through the encoders of a pool, and how busy these are."""
    ledger = run.cluster.ledger
    arrival, began, encoded = (ledger.column(f"{name}_ns") for name in ("arrival", "encode", "encoded"))
    here = np.isin(ledger.column("encode_instance"), members)
    return {
        "queued": _open(arrival, began, here, edges),
        "running": _open(began, encoded, here, edges),
        "utilisation": _busy(run, members, edges) / np.maximum(_serving(run, members, edges), 1e-9),
        "decode_batch": np.full(len(edges) - 1, np.nan),
    }


def _kv_held(run: Finished, members: NDArray[np.int64], edges: NDArray[np.int64], tokens: int) -> NDArray[np.float64]:
    """Return the share of a pool's KV that requests in progress fill, of so many tokens in each of its caches.

    A request counts with its prompt and half its answer, what it holds on average; a prefix that several share counts
    for each of them, and what a cache keeps of requests that are over does not count.
    """
    ledger = run.cluster.ledger
    admitted, first, ready, finish = (
        ledger.column(f"{name}_ns") for name in ("admitted", "first_token", "kv_ready", "finish")
    )
    here, decodes_here = (np.isin(ledger.column(name), members) for name in ("instance", "decode_instance"))
    handed, prompts = ready >= 0, ledger.column("prompt_tokens")
    whole = prompts + ledger.column("output_tokens") // 2
    held = _open(admitted, ready, here & handed, edges, prompts) + _open(admitted, finish, here & ~handed, edges, whole)
    held += _open(first, finish, decodes_here & handed, edges, whole)
    caches = len({id(core.state.pool) for core in cores_of(run.cluster.instances[i] for i in members)})
    return np.minimum(held / max(1, caches * tokens), 1.0)


def _columns(logs: Sequence[StepLog] | Sequence[EncodeLog], *names: str) -> list[NDArray[np.int64]]:
    return [np.concatenate([log.table()[name] for log in logs]) for name in names]


def _busy(run: Finished, members: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many instances of a pool were in a step in each window."""
    found = [run.cluster.instances[i].step_logs for i in members]
    begun, lasted = _columns([log for logs in found for log in logs], "start_ns", "duration_ns")
    return mean_open(begun, begun + lasted, edges) / max(1, len(found[0]))


def _serving(run: Finished, members: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many instances of a pool were there to serve in each window."""
    instances = [run.cluster.instances[i] for i in members]
    ends = [instance.ended_ns if instance.ended_ns >= 0 else edges[-1] for instance in instances]
    return mean_open(np.array([instance.started_ns for instance in instances]), np.array(ends), edges)


def _open(
    starts_ns: NDArray[np.int64],
    ends_ns: NDArray[np.int64],
    which: NDArray[np.bool_],
    edges: NDArray[np.int64],
    weights: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return how many of some requests, or what they weigh, were between two of their times that have come."""
    which = which & (starts_ns >= 0) & (ends_ns >= 0)
    return mean_open(starts_ns[which], ends_ns[which], edges, None if weights is None else weights[which])


def _links(found: LinkWindows) -> dict[str, NDArray[np.float64]]:
    """Return the busiest link first, then some others that look different, that with the highest peak among them."""
    if not found.names:
        return {}
    peaks = found.utilisation.max(axis=0)
    chosen: list[int] = []
    for number in (*found.busiest_first()[:1], peaks.argmax(), *found.busiest_first()[1:]):
        if len(chosen) < _MOST_LINKS and not _is_among(found.utilisation, int(number), chosen):
            chosen.append(int(number))
    return {LINK + found.names[number]: found.utilisation[:, number] for number in chosen}


def _is_among(curves: NDArray[np.float64], number: int, chosen: Iterable[int]) -> bool:
    """Tell whether a curve is that of another link, as of two on one path; to a thousandth of the capacity."""
    return any(np.abs(curves[:, number] - curves[:, other]).max() < 1e-3 for other in chosen)


def _told(incidents: Sequence[tuple[int, str]], edges: NDArray[np.int64]) -> list[str]:
    """Return what happened in each window, in words."""
    told: list[list[str]] = [[] for _ in edges[1:]]
    for time_ns, text in incidents:
        if time_ns <= edges[-1]:
            told[int(window_of(np.array([time_ns]), edges)[0])].append(text)
    return ["; ".join(texts) for texts in told]
