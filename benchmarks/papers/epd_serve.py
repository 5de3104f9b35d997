"""EPD-Serve (arXiv 2601.11590): six deployments of openPangu-7B-VL on an Atlas 800I A2, its tables beside ours."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import TYPE_CHECKING, Any

from simulator.candidates import load_candidate
from simulator.network import FeatureTransfer
from simulator.run import run_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CAPACITY", "TABLE_2", "TABLE_3", "TABLE_5", "Row", "capacity", "main", "measured"]

SCENARIO = "papers/epd-serve-openpangu-7b"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of Table 5.

    Attributes
    ----------
    ttft_ms, tpot_ms
        Means.
    slo
        Share of requests within 2,000 and 50 ms, percent.
    effective
        Output tokens/s within them, per NPU.
    """

    ttft_ms: float
    tpot_ms: float
    slo: float
    effective: float


#: Ten requests per second in all.
TABLE_5 = {
    "TP1": Row(658.27, 95.56, 2.15, 13.38),
    "(E-PD)": Row(548.32, 62.22, 3.13, 19.70),
    "EP-D": Row(5523.82, 27.31, 8.20, 21.54),
    "(E-P)-D": Row(2386.85, 28.40, 26.17, 77.36),
    "(E-D)-P": Row(651.86, 50.71, 22.66, 69.18),
    "E-P-D": Row(557.89, 28.92, 94.34, 192.70),
}
#: TTFT, ms, at 2 and 3 requests/s and NPU: (prefetch, grouped KV) -> both.
TABLE_2 = {
    (False, False): (703.75, 880.22),
    (True, False): (586.87, 688.86),
    (False, True): (590.80, 775.83),
    (True, True): (481.38, 650.51),
}
#: Visual tokens of 3,584 elements: transfer and scheduling latency, ms.
TABLE_3 = {
    100: (8.145, 30.803),
    400: (15.819, 42.406),
    529: (17.019, 49.549),
    1196: (38.776, 81.028),
    2691: (80.771, 151.77),
    16206: (729.724, 728.109),
}
#: Requests/s that EP-D and (E-P)-D serve at most, derived from Table 5's mean TTFT and throughput under overload.
CAPACITY = {"EP-D": 8.3, "(E-P)-D": 9.25}
_GROUPED = {"mode": "grouped", "group_layers": 4, "connector": "ascend_hccs"}


def measured(name: str, changes: Mapping[str, Any] | None = None, seeds: int = 1) -> Row:
    """Return a row of ours: means over seeds."""
    found = [
        run_scenario(load_candidate(SCENARIO, name, {**(changes or {}), "seed": seed})).summary for seed in range(seeds)
    ]
    return Row(
        mean(one["mean_ttft_ms"] for one in found),
        mean(one["mean_tpot_ms"] for one in found),
        100 * mean(one["slo_attainment"] for one in found),
        mean(one["output_throughput"] * one["slo_attainment"] / one["chips"] for one in found),
    )


def capacity(name: str) -> float:
    """Return the requests per second a deployment finishes while far more are waiting."""
    burst = {"workload.synthetic.arrivals": {"kind": "constant", "rate_per_s": 40.0}}
    table = run_scenario(load_candidate(SCENARIO, name, burst)).requests
    told = (table["arrival_s"] + table["ttft_ms"] / 1e3).sort_values().to_numpy()
    return float(300 / (told[400] - told[100]))


def main(seeds: int, jobs: int) -> None:
    """Print Tables 5, 2 and 3, paper and ours."""
    del jobs
    print("Table 5, 10 requests/s: TTFT ms, TPOT ms, SLO %, effective tokens/s per NPU; paper, ours")
    for name, paper in TABLE_5.items():
        ours = measured(name, seeds=seeds)
        pairs = ((getattr(paper, key), getattr(ours, key)) for key in Row.__slots__)
        print(f"  {name:8}" + "".join(f"{a:9.1f}{b:9.1f}" for a, b in pairs))
    for name, paper_rate in CAPACITY.items():
        print(f"  {name} serves at most {capacity(name):.2f} requests/s, derived {paper_rate}")
    print("Table 2, E-P-D: prefetch, grouped: TTFT ms at 2 and 3 requests/s and NPU; paper, ours")
    for (prefetch, grouped), paper_ms in TABLE_2.items():
        ours_ms = []
        for per_npu in (2, 3):
            changes = {
                "workload.synthetic.arrivals.rate_per_s": 3.0 * per_npu,
                "network.feature_transfer.prefetch": prefetch,
                "network.kv_transfer": _GROUPED if grouped else {**_GROUPED, "group_layers": 1},
            }
            ours_ms.append(measured("E-P-D", changes, seeds).ttft_ms)
        print(
            f"  {prefetch!s:6}{grouped!s:6}"
            + "".join(f"{a:9.1f}{b:9.1f}" for a, b in zip(paper_ms, ours_ms, strict=True))
        )
    print("Table 3: tokens, transfer ms, scheduling ms, hidden %; paper, ours")
    terms = FeatureTransfer(mode="store", scheduling_ms=24.8, scheduling_us_per_token=47.0)
    for tokens, paper_times in TABLE_3.items():
        times = terms.store_ns(tokens * 3584 * 2) / 1e6, terms.scheduling_ns(tokens) / 1e6
        hidden = [100 * (1 - max(0.0, sent - prepared) / sent) for sent, prepared in (paper_times, times)]
        pairs = ((paper_times[0], times[0]), (paper_times[1], times[1]), hidden)
        print(f"  {tokens:6}" + "".join(f"{a:9.1f}{b:9.1f}" for a, b in pairs))
    print(f"({seeds} seeds; {len(list(product(TABLE_5, range(seeds))))} runs of Table 5)")
