"""Sarathi-Serve (Agrawal et al., OSDI 2024): capacity under bounds on the time between tokens, and its tail.

Capacity is the highest rate at which P99 of all times between tokens keeps a bound (strict: five times a decode step of
32 sequences at 4,096 tokens, relaxed: 25 times) and the median request waits at most two seconds to be scheduled, for
2,048 requests. All systems run within Sarathi-Serve's code; batch sizes and chunks are those of its branch
``osdi-sarathi-serve``. Lengths are log-normal through published medians and P90. Prices are this project's.

Before that, given Vidur's profiles and a trace, its own runs of Sarathi-Serve's and vLLM's schedulers
(:mod:`benchmarks.papers.vidur`).
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.papers import vidur
from simulator.build import build_pools
from simulator.candidates import load_candidate
from simulator.run import run_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

TOLERANCE, WAIT_MS = 0.02, 2000.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model as the paper serves it.

    Attributes
    ----------
    name, scenario
        The model and its scenario.
    strict_ms, relaxed_ms
        Bounds on P99 of the time between tokens.
    gain
        How many times vLLM's capacity Sarathi-Serve has at most, by the paper's abstract.
    over_orca
        How many times Orca's, where the paper says.
    """

    name: str
    scenario: str
    strict_ms: float
    relaxed_ms: float
    gain: float
    over_orca: float | None

    def bound_ms(self, slo: str) -> float:
        """Return the bound by its name."""
        return self.strict_ms if slo == "strict" else self.relaxed_ms


DEPLOYMENTS = (
    Deployment("Mistral-7B, one A100", "papers/sarathi-mistral-7b", 100, 500, 2.6, None),
    Deployment("Yi-34B, two A100", "papers/sarathi-yi-34b", 200, 1000, 3.7, 4.0),
)
SLOS = ("strict", "relaxed")
SYSTEMS: Mapping[str, Sequence[str]] = {
    "strict": ("Orca", "vLLM", "Sarathi-512"),
    "relaxed": ("Orca", "vLLM", "Sarathi-2048"),
}
#: Chat is what the scenarios have. Summaries: medians and P90 of arxiv_summarization (prompts 7059 and 12985, answers
#: 208 and 371), pairs of at most 16,384 tokens.
TRAFFIC: Mapping[str, Mapping[str, Any]] = {
    "chat": {},
    "summaries": {
        "workload.synthetic.prompt_tokens": {"kind": "lognormal", "mean": 7904, "sigma": 0.4756, "max": 15900},
        "workload.synthetic.output_tokens": {"kind": "lognormal", "mean": 230, "sigma": 0.4515, "max": 2000},
        "workload.synthetic.total_tokens_max": 16384,
        "pool.mixed.engine_options.max_model_len": 16384,
    },
}


@dataclass(frozen=True, slots=True)
class Tail:
    """Times of one run, ms: between tokens at several percentiles, to the first token, and until scheduled."""

    gaps: Sequence[float]
    ttft_p50: float
    ttft_p99: float
    waited_p50: float


QUANTILES = (50.0, 90.0, 99.0, 99.9)


def run(deployment: Deployment, system: str, traffic: str, rate: float, seed: int = 0) -> Tail:
    """Serve the paper's 2,048 requests at a rate."""
    changes = {"seed": seed, "workload.synthetic.arrivals.rate_per_s": rate}
    result = run_scenario(load_candidate(deployment.scenario, system, {**TRAFFIC[traffic], **changes}))
    gaps, found = result.run.gaps, result.requests
    ttft = np.percentile(found["ttft_ms"], (50, 99))
    waited = float(found["queue_ms"].median())
    return Tail([gaps.percentile_ms(q) for q in QUANTILES], float(ttft[0]), float(ttft[1]), waited)


def capacity(deployment: Deployment, system: str, traffic: str, slo: str, seeds: int) -> float:
    """Return the highest rate that keeps the bounds under most of some seeds, by doubling and halving."""

    def keeps(rate: float) -> bool:
        tails = [run(deployment, system, traffic, rate, seed) for seed in range(seeds)]
        kept = [tail.gaps[2] <= deployment.bound_ms(slo) and tail.waited_p50 <= WAIT_MS for tail in tails]
        return 2 * sum(kept) > seeds

    low, high = 0.0, 0.5
    while keeps(high):
        low, high = high, 2 * high
    while low == 0 and high > 0.01:
        low, high = (high / 2, high) if keeps(high / 2) else (0.0, high / 2)
    while low and high / low > 1 + TOLERANCE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if keeps(middle) else (low, middle)
    print(f"{deployment.name}, {traffic}, {slo}, {system}: {low:.3g} requests/s", file=sys.stderr, flush=True)
    return low


def print_steps() -> None:
    """Print the decode step that the bounds are multiples of: the paper's, and ours."""
    print("\nA decode step of 32 sequences at 4,096 tokens, ms: a fifth of the strict bound, and ours\n")
    print("| | paper | ours |\n|---|---|---|")
    for deployment in DEPLOYMENTS:
        (pool,) = build_pools(load_candidate(deployment.scenario, "Sarathi-512", {}))
        ours = pool.costs.prices.decode_ns(32, 4096) / 1e6
        print(f"| {deployment.name} | {deployment.strict_ms / 5:.0f} | {ours:.1f} |")


def print_capacities(found: Mapping[tuple[str, str, str, str], float]) -> None:
    """Print every capacity, and the ratios."""
    print("\nCapacity, requests/s\n\n| | traffic | P99 between tokens | Orca | vLLM | Sarathi | / Orca | / vLLM |")
    print(f"|{'---|' * 8}")
    for deployment in DEPLOYMENTS:
        for traffic in TRAFFIC:
            for slo in SLOS:
                rates = [found[deployment.scenario, traffic, slo, system] for system in SYSTEMS[slo]]
                ratios = [f"{rates[2] / rate:.2f}" if rate else "none" for rate in rates[:2]]
                shown = [f"{rate:.2f}" for rate in rates]
                bound = f"{slo}, {deployment.bound_ms(slo):.0f} ms"
                print(f"| {deployment.name} | {traffic} | {bound} | {' | '.join(shown)} | {' | '.join(ratios)} |")
    print("\n| Sarathi at most | paper | ours |\n|---|---|---|")
    for deployment in DEPLOYMENTS:
        for place, base, paper in ((1, "vLLM", deployment.gain), (0, "Orca", deployment.over_orca)):
            ratios = [
                found[deployment.scenario, traffic, slo, SYSTEMS[slo][2]]
                / found[deployment.scenario, traffic, slo, SYSTEMS[slo][place]]
                for traffic in TRAFFIC
                for slo in SLOS
                if found[deployment.scenario, traffic, slo, SYSTEMS[slo][place]]
            ]
            print(f"| {deployment.name}, times {base} | {paper or 'not said'} | {max(ratios):.2f} |")


def print_tails(rates: Mapping[str, float]) -> None:
    """Print the times between tokens at one rate for each deployment, by system."""
    print("\nChat at the rate at which vLLM still keeps the relaxed bound: ms\n")
    print("| | requests/s | | between tokens P50 / P90 / P99 / P99.9 | TTFT P50 / P99 |\n|---|---|---|---|---|")
    for deployment in DEPLOYMENTS:
        rate = rates[deployment.scenario]
        for system in ("Orca", "vLLM", "Sarathi-2048", "Sarathi-512"):
            tail = run(deployment, system, "chat", rate)
            gaps = " / ".join(f"{gap:.0f}" for gap in tail.gaps)
            print(f"| {deployment.name} | {rate:.2f} | {system} | {gaps} | {tail.ttft_p50:.0f} / {tail.ttft_p99:.0f} |")


def main(seeds: int, jobs: int, profiles: str = "", trace: str = "", forests: int = 0) -> None:
    """Run Vidur's runs where its profiles are at hand, then the paper's capacities."""
    if profiles and trace:
        vidur.main(profiles, trace, forests)
    else:
        print("Vidur's runs are left out: they need --profiles and --trace", file=sys.stderr)
    print_steps()
    tasks = [
        (deployment, system, traffic, slo)
        for deployment in DEPLOYMENTS
        for traffic in TRAFFIC
        for slo in SLOS
        for system in SYSTEMS[slo]
    ]
    with ProcessPoolExecutor(jobs) as pool:
        running = [pool.submit(capacity, *task, seeds) for task in tasks]
        rates = [future.result() for future in running]
    keys = [(deployment.scenario, traffic, slo, system) for deployment, system, traffic, slo in tasks]
    found = dict(zip(keys, rates, strict=True))
    print_capacities(found)
    print_tails(
        {deployment.scenario: found[deployment.scenario, "chat", "relaxed", "vLLM"] for deployment in DEPLOYMENTS}
    )
