"""A prediction in the form in which AIPerf exports a measurement, so that whatever reads one reads the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

    from simulator.launch_deployment import Deployment

__all__ = ["aiperf_export"]

_PERCENTILES: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99)
#: Metrics of each request: AIPerf's tag, its unit and our column. Its time between tokens is a mean over a request,
#: (latency - time to first token) / (tokens - 1), which is what we call TPOT.
_BY_REQUEST: Final = (
    ("time_to_first_token", "ms", "ttft_ms"),
    ("inter_token_latency", "ms", "tpot_ms"),
    ("request_latency", "ms", "e2e_ms"),
    ("input_sequence_length", "tokens", "prompt_tokens"),
    ("output_sequence_length", "tokens", "output_tokens"),
)
#: Metrics of a run: tag, unit and our key.
_BY_RUN: Final = (
    ("request_throughput", "requests/sec", "request_throughput"),
    ("output_token_throughput", "tokens/sec", "output_throughput"),
    ("request_count", "requests", "completed"),
)


def aiperf_export(deployment: Deployment, requests: pd.DataFrame) -> dict[str, Any]:
    """Return ``profile_export_aiperf.json``: per metric its unit and statistics, over completed and measured requests.

    Parameters
    ----------
    deployment
        What is launched, with its summary.
    requests
        The request table of the run.
    """
    done = requests[requests["completed"] & requests["measured"]]
    found: dict[str, Any] = {}
    for tag, unit, column in _BY_REQUEST:
        # A request of one token has no time between tokens, and AIPerf leaves it out.
        values = done.loc[done["output_tokens"] > 1, column] if column == "tpot_ms" else done[column]
        if not len(values):
            continue
        found[tag] = {
            "unit": unit,
            "avg": float(values.mean()),
            **{f"p{share}": float(values.quantile(share / 100)) for share in _PERCENTILES},
            "min": float(values.min()),
            "max": float(values.max()),
            "std": float(values.std(ddof=0)),
            "count": len(values),
        }
    for tag, unit, key in _BY_RUN:
        found[tag] = {"unit": unit, "avg": float(deployment.summary[key])}
    return found
