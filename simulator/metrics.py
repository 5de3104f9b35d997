"""Latency, throughput and goodput by the formulas of ``vllm bench serve``.

TTFT is first token minus arrival; TPOT is (E2E - TTFT) / (output tokens - 1) and counts only where there are
two tokens or more; ITL pools the gaps between tokens of all requests; E2E is last token minus arrival.
Percentiles are linear, standard deviations those of a population.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.records import Ledger
    from simulator.token_gaps import TokenGaps

__all__ = [
    "Bounds",
    "RequestTimes",
    "latency_summary",
    "request_latencies",
    "request_rates",
    "request_times",
    "throughput_summary",
]

PERCENTILES = (50, 90, 95, 99)
_COUNTS = (
    *("num_prompts", "completed", "failed", "duration", "total_input_tokens", "total_output_tokens"),
    *("request_throughput", "request_goodput", "output_throughput", "total_token_throughput"),
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Latency bounds of a good request, ms; None for no bound."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Latencies per request, float64 or bool of shape (requests,); NaN for a request that failed.

    Attributes
    ----------
    encode_queue_ms, encode_ms, feature_ms
        Arrival to the first run of an encoder for it, from there until all its images are encoded, and from there until
        it queues where its prompt is computed, its features with it. Where the engine that computes its prompt encodes
        its images too, ``encode_ms`` is the time its steps took for that, and the others are 0.
    queue_ms, prefill_ms, transfer_ms, ttft_ms, tpot_ms, e2e_ms
        Arrival (or the end of the above) to admission, admission to first token, first token to the arrival of its KV
        where it goes on (0 where it stays), arrival to first token, time per output token after the first (NaN for a
        single token), arrival to last token.
    completed, met_slo, measured
        Finished; met every bound; arrived after the warm-up.
    """

    encode_queue_ms: NDArray[np.float64]
    encode_ms: NDArray[np.float64]
    feature_ms: NDArray[np.float64]
    queue_ms: NDArray[np.float64]
    prefill_ms: NDArray[np.float64]
    transfer_ms: NDArray[np.float64]
    ttft_ms: NDArray[np.float64]
    tpot_ms: NDArray[np.float64]
    e2e_ms: NDArray[np.float64]
    completed: NDArray[np.bool_]
    met_slo: NDArray[np.bool_]
    measured: NDArray[np.bool_]


def request_times(ledger: Ledger, bounds: Bounds, warmup_ns: int = 0) -> RequestTimes:
    """Return the latencies of every request.

    Parameters
    ----------
    ledger
        Times of a finished run.
    bounds
        The SLO. As in vLLM, a request of one output token meets any TPOT bound.
    warmup_ns
        Requests that arrive earlier are not measured.
    """
    arrival, admitted, first, finish = (
        ledger.column(name) for name in ("arrival_ns", "admitted_ns", "first_token_ns", "finish_ns")
    )
    began, encoded, features = _encoding(ledger)
    completed, ready, told = finish >= 0, ledger.column("kv_ready_ns"), ledger.column("told_ns")
    missing = np.where(completed, 0.0, np.nan)
    ttft, e2e = (told - arrival) / 1e6 + missing, (finish - arrival) / 1e6 + missing
    later_tokens = ledger.column("output_tokens") - 1
    tpot = np.where(later_tokens > 0, (e2e - ttft) / np.maximum(later_tokens, 1), np.nan)
    met = completed & _within(ttft, bounds.ttft_ms) & _within(e2e, bounds.e2e_ms)
    met &= _within(np.nan_to_num(tpot), bounds.tpot_ms)
    return RequestTimes(
        encode_queue_ms=(began - arrival) / 1e6 + missing,
        encode_ms=(encoded - began + ledger.column("encoder_ns")) / 1e6 + missing,
        feature_ms=(features - encoded) / 1e6 + missing,
        queue_ms=(admitted - features) / 1e6 + missing,
        prefill_ms=(first - admitted - ledger.column("encoder_ns")) / 1e6 + missing,
        transfer_ms=np.where(ready >= 0, (ready - first) / 1e6, 0.0) + missing,
        ttft_ms=ttft,
        tpot_ms=tpot,
        e2e_ms=e2e,
        completed=completed,
        met_slo=met,
        measured=arrival >= warmup_ns,
    )


def _encoding(ledger: Ledger) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return when images began to be encoded, were, and their features were there; arrival, where none were."""
    arrival, features = ledger.column("arrival_ns"), ledger.column("features_ns")
    encodes = features >= 0
    began, encoded = (np.where(encodes, ledger.column(name), arrival) for name in ("encode_ns", "encoded_ns"))
    return began, encoded, np.where(encodes, features, arrival)


def _within(values: NDArray[np.float64], bound: float | None) -> NDArray[np.bool_]:
    return np.ones(len(values), bool) if bound is None else values <= bound


def latency_summary(times: RequestTimes, gaps: TokenGaps) -> dict[str, float]:
    """Return mean, median, standard deviation and percentiles of TTFT, TPOT, ITL and E2E, ms."""
    found = request_latencies(times) | {
        "mean_itl_ms": gaps.mean_ms(),
        "median_itl_ms": gaps.percentile_ms(50),
        "std_itl_ms": gaps.std_ms(),
    }
    return found | {f"p{q}_itl_ms": gaps.percentile_ms(q) for q in PERCENTILES}


def request_latencies(times: RequestTimes) -> dict[str, float]:
    """Return mean, median, standard deviation and percentiles of TTFT, TPOT and E2E, ms."""
    counted = times.completed & times.measured
    found: dict[str, float] = {}
    for name, values in (("ttft", times.ttft_ms), ("tpot", times.tpot_ms), ("e2el", times.e2e_ms)):
        found |= _statistics(name, values[counted & ~np.isnan(values)])
    return found


def _statistics(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(
            (f"{kind}_{name}_ms" for kind in ("mean", "median", "std", *(f"p{q}" for q in PERCENTILES))), 0.0
        )
    found = {
        f"mean_{name}_ms": values.mean(),
        f"median_{name}_ms": np.median(values),
        f"std_{name}_ms": values.std(),
    }
    found |= {f"p{q}_{name}_ms": np.percentile(values, q) for q in PERCENTILES}
    return {key: float(value) for key, value in found.items()}


def throughput_summary(
    ledger: Ledger, times: RequestTimes, gaps: TokenGaps, warmup_ns: int = 0
) -> dict[str, float | int]:
    """Return counts, rates per second and peaks over the measured requests.

    The duration runs from the end of the warm-up (or time zero) to the last token of a measured request. The
    most output tokens in a second, like the pooled gaps of ITL, count what appears after the warm-up, whoever's
    tokens they are.
    """
    found = request_rates(ledger, times, warmup_ns)
    per_second = gaps.per_second[gaps.seconds >= -(-warmup_ns // 10**9)]
    return {
        **{name: found[name] for name in _COUNTS},
        "max_output_tokens_per_s": int(per_second.max(initial=0)),
        "max_concurrent_requests": _most_concurrent(ledger, times.completed & times.measured),
        "slo_attainment": found["slo_attainment"],
    }


def request_rates(ledger: Ledger, times: RequestTimes, warmup_ns: int = 0) -> dict[str, float | int]:
    """Return counts and rates per second over the measured requests, as in :func:`throughput_summary`."""
    counted = times.completed & times.measured
    finish = ledger.column("finish_ns")
    duration = max((int(finish[counted].max(initial=0)) - warmup_ns) / 1e9, 1e-9)
    inputs = int(ledger.column("prompt_tokens")[counted].sum())
    outputs = int(ledger.column("output_tokens")[counted].sum())
    completed, good = int(counted.sum()), int((times.met_slo & times.measured).sum())
    sent = int(times.measured.sum())
    return {
        "num_prompts": sent,
        "completed": completed,
        "failed": sent - completed,
        "duration": duration if completed else 0.0,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": completed / duration,
        "request_goodput": good / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        "slo_attainment": good / sent if sent else 0.0,
    }


def _most_concurrent(ledger: Ledger, counted: NDArray[np.bool_]) -> int:
    """Return the most requests in the system at once; one that leaves makes room before one that comes."""
    arrival, finish = ledger.column("arrival_ns")[counted], ledger.column("finish_ns")[counted]
    times = np.concatenate([finish, arrival])
    change = np.concatenate([np.full(len(finish), -1), np.ones(len(arrival), int)])
    order = np.lexsort((change, times))
    return int(np.cumsum(change[order]).max(initial=0))
