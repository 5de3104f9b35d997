"""One row per request, in the columns of ``requests.parquet``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from simulator.finished import Finished

__all__ = ["request_table"]


def request_table(run: Finished) -> pd.DataFrame:
    """Return the requests of a run in order of arrival.

    Times that did not happen (latencies of a refused request, TPOT of a single token) are NaN; stages that a
    deployment does not have took 0 ms.
    """
    ledger, times = run.cluster.ledger, run.times
    rows = len(ledger)
    # A request that failed before it reached an instance has none, number -1: the last of the names.
    names = np.array([*(run.pools[pool].name for pool in run.cluster.owners), None], object)
    stages = {"prefill": "instance", "decode": "decode_instance"}
    if any(pool.parts.encodes for pool in run.pools):
        stages = {"encode": "encode_instance", **stages}
    served = {stage: ledger.column(name) for stage, name in stages.items()}
    return pd.DataFrame(
        {
            "request_id": np.arange(rows),
            "arrival_s": ledger.column("arrival_ns") / 1e9,
            "prompt_tokens": ledger.column("prompt_tokens").copy(),
            "output_tokens": ledger.column("output_tokens").copy(),
            "images": np.zeros(rows, np.int64) if run.requests.images is None else run.requests.images,
            "cached_tokens": ledger.column("cached_tokens").copy(),
            "queue_ms": times.queue_ms,
            "encode_queue_ms": times.encode_queue_ms,
            "encode_ms": times.encode_ms,
            "feature_ms": times.feature_ms,
            "prefill_ms": times.prefill_ms,
            "transfer_ms": times.transfer_ms,
            "ttft_ms": times.ttft_ms,
            "tpot_ms": times.tpot_ms,
            "e2e_ms": times.e2e_ms,
            "met_slo": times.met_slo,
            "completed": times.completed,
            "measured": times.measured,
            **{f"{stage}_pool": names[instance] for stage, instance in served.items()},
            **{f"{stage}_instance": instance.copy() for stage, instance in served.items()},
            "preemptions": ledger.column("preemptions").copy(),
            "restarts": ledger.column("restarts").copy(),
        }
    )
