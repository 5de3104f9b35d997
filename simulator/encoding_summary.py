"""What encoders did in a run: the part of ``summary.json`` that is there where images were encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.encode_instance import EncodeInstance
from simulator.fused_encoder import FusedEncoder

if TYPE_CHECKING:
    from simulator.finished import Finished
    from simulator.records import EncodeLog

__all__ = ["encoding_summary"]


def encoding_summary(run: Finished) -> dict[str, Any]:
    """Return ``encoding``: items, tokens and runs of all encoders, where requests spent time, what was found again.

    Times are means over the measured requests with images that finished, ms; together with ``prefill_ms`` they are the
    time to first token, but for its way back to the client. Nothing, where nothing could be encoded.
    """
    media, logs = run.requests.media, _logs(run)
    if media is None or not logs:
        return {}
    tables = [log.table() for log in logs]
    items, tokens, runs = (sum(int(table[name].sum()) for table in tables) for name in ("items", "tokens", "steps"))
    times = run.times
    which = np.array([len(carried) > 0 for carried in media]) & times.completed & times.measured
    parts = ("encode_queue_ms", "encode_ms", "feature_ms", "queue_ms", "prefill_ms")
    moved = None if run.cluster.carrier is None else run.cluster.carrier.feature_log.table()
    asked, hits = _reuse(run)
    return {
        "encoding": {
            "items": items,
            "tokens": tokens,
            "runs": runs,
            "mean_items_per_run": items / max(runs, 1),
            **{f"mean_{name}": float(getattr(times, name)[which].mean()) if which.any() else 0.0 for name in parts},
            "feature_hit_rate": hits / asked if asked else 0.0,
            "feature_transfers": 0 if moved is None else len(moved["start_ns"]),
            "feature_bytes": 0 if moved is None else int(moved["size_bytes"].sum()),
        }
    }


def _fused(run: Finished) -> list[FusedEncoder]:
    cores = [core for instance in run.cluster.instances for core in instance.cores]
    return [core.state.media for core in cores if isinstance(core.state.media, FusedEncoder)]


def _logs(run: Finished) -> list[EncodeLog]:
    apart = [instance.log for instance in run.cluster.instances if isinstance(instance, EncodeInstance)]
    return apart + [encoder.log for encoder in _fused(run)]


def _reuse(run: Finished) -> tuple[int, int]:
    """Return how many contents were looked for where features are kept, and how many were there."""
    stage, fused = run.cluster.encoding, _fused(run)
    asked, hits = (0, 0) if stage is None else (stage.dispatch.asked, stage.dispatch.hits)
    if stage is not None and stage.store is not None:
        # An encoder is asked for what the store has not.
        asked, hits = stage.store.asked, hits + stage.store.hits
    return asked + sum(one.asked for one in fused), hits + sum(one.hits for one in fused)
