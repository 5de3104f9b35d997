"""Splitwise (Patel et al., ISCA 2024): BLOOM-176B on clusters of equal power or cost, throughput under its SLO.

Designs are those of the artefact's scripts. The SLO bounds how much slower a request may be than alone on a DGX-A100:
TTFT 2, 3 and 6 times at P50, P90 and P99, time between tokens and E2E 1.25, 1.5 and 5 times, all nine at once
(``notebooks/plots.ipynb`` of the artefact). Throughput is the highest rate that keeps it. Every figure is simulated
twice: with prices and memory of this project, and with those of the artefact (fits to its published medians). Alone is
always alone under the same prices.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from simulator.build import build_pools
from simulator.candidates import load_candidate, load_cases
from simulator.run import run_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import pandas as pd
    from numpy.typing import NDArray

    from perfdb.step_prices import StepPrices
    from simulator.scenario import Scenario

#: Seconds of arrivals, and how far apart the last kept and the first missed rate may be.
DURATION_S, TOLERANCE = 60.0, 0.04
QUANTILES = (0.5, 0.9, 0.99)
SLO: Mapping[str, tuple[float, float, float]] = {
    "ttft_ms": (2.0, 3.0, 6.0),
    "tpot_ms": (1.25, 1.5, 5.0),
    "e2e_ms": (1.25, 1.5, 5.0),
}
PROFILES = {"a100_80_sxm": "splitwise-a100", "h100_sxm": "splitwise-h100"}
PRICES = ("ours", "artefact")
#: KV blocks of a machine as the artefact counts: eight chips of 80 GiB, less the weights, over 4.01 MB a token.
ARTEFACT_BLOCKS = 5211
CLUSTERS = (
    ("conversation, equal power", "papers/splitwise-iso-power"),
    ("conversation, equal cost", "papers/splitwise-iso-cost"),
    ("coding, equal power", "papers/splitwise-iso-power-code"),
    ("conversation, equal power, a mixed pool", "papers/splitwise-iso-power-mixed"),
)
BASELINES = ("Baseline-A100", "Baseline-H100")
#: What the paper says of a design against a baseline: cluster, design, baseline, throughput. Baselines of the last two
#: follow from "at 20 % lower cost" (70 A100 are 19 % cheaper than 40 H100) and "at the same cost and power".
CLAIMS = (
    (0, "Splitwise-AA", "Baseline-A100", 2.15),
    (3, "Splitwise-AA", "Baseline-A100", 2.15),
    (0, "Splitwise-HA", "Baseline-H100", 1.18),
    (3, "Splitwise-HA", "Baseline-H100", 1.18),
    (2, "Splitwise-AA", "Baseline-H100", 1.4),
    (2, "Splitwise-AA", "Baseline-A100", 2.35),
)
#: Table IV of the paper, Llama-2-70B alone on a machine, P50: workload, lengths, and by chip TTFT, time between tokens
#: and E2E, ms, cents and Wh per request.
ALONE = (
    ("coding", 1469, 13, {"A100": (185, 52, 856, 0.42, 1.37), "H100": (95, 31, 493, 0.52, 1.37)}),
    ("conversation", 1020, 129, {"A100": (155, 40, 4957, 2.4, 7.9), "H100": (84, 28, 3387, 3.6, 9.4)}),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a design reached.

    Attributes
    ----------
    rate_per_s
        Highest rate that keeps the SLO.
    bound
        What it misses first above that.
    machines, per_hour, provisioned_kw
        What it takes.
    energy_wh
        Per request, at that rate.
    """

    rate_per_s: float
    bound: str
    machines: int
    per_hour: float
    provisioned_kw: float
    energy_wh: float


@cache
def alone(path: str, prices: str) -> StepPrices:
    """Return the step prices of one DGX-A100."""
    return build_pools(priced(path, "Baseline-A100", prices, {"pool.mixed.replicas": 1}))[0].costs.prices


def alone_ms(prices: StepPrices, prompt: int, output: int) -> tuple[float, float, float]:
    """Return TTFT, time between tokens and E2E of a request that has a machine to itself, ms."""
    first = prices.mixed_ns(tokens=prompt, samples=1, decodes=0, context=0, prompts=1, pairs=prompt**2, reach=prompt)
    rest = prices.decode_ns(1, prompt, output - 1) if output > 1 else 0
    return first / 1e6, rest / max(output - 1, 1) / 1e6, (first + rest) / 1e6


def priced(path: str, candidate: str, prices: str, changes: Mapping[str, Any]) -> Scenario:
    """Return a design under one kind of prices."""
    scenario = load_candidate(path, candidate, changes)
    if prices == "ours":
        return scenario
    own: dict[str, Any] = {}
    for pool in scenario.pool:
        own[f"pool.{pool.name}.step_profile"] = PROFILES[pool.chip]
        own[f"pool.{pool.name}.limits.kv_blocks"] = ARTEFACT_BLOCKS
    return load_candidate(path, candidate, {**changes, **own})


def slowdowns(path: str, prices: str, requests: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return how many times slower than alone requests were, at the quantiles of the SLO."""
    found = alone(path, prices)
    lengths = zip(requests["prompt_tokens"], requests["output_tokens"], strict=True)
    bare = np.array([alone_ms(found, int(prompt), int(output)) for prompt, output in lengths])
    ratios = {}
    for column, name in enumerate(SLO):
        ratio = requests[name].to_numpy(float) / np.maximum(bare[:, column], 1e-9)
        ratios[name] = np.quantile(ratio[requests["output_tokens"] > 1], QUANTILES)
    return ratios


def missed(ratios: Mapping[str, NDArray[np.float64]]) -> str | None:
    """Return the bound that is missed by most, or None."""
    over = {
        f"{name.removesuffix('_ms')} p{100 * q:.0f}": float(ratios[name][i] / bounds[i])
        for name, bounds in SLO.items()
        for i, q in enumerate(QUANTILES)
    }
    worst = max(over, key=lambda name: over[name])
    return worst if over[worst] > 1 else None


def attempt(path: str, design: str, prices: str, rate: float, seed: int) -> tuple[str | None, dict[str, Any]]:
    """Run a design at a rate; return what it misses, and its summary."""
    arrivals = {
        "seed": seed,
        "workload.synthetic.arrivals.rate_per_s": rate,
        "workload.synthetic.requests": round(rate * DURATION_S),
    }
    result = run_scenario(priced(path, design, prices, arrivals))
    return missed(slowdowns(path, prices, result.requests)), result.summary


def capacity(path: str, design: str, prices: str, seeds: int) -> Found:
    """Return the highest rate that keeps the SLO under most of some seeds, by doubling and halving."""
    tries: dict[float, tuple[str | None, dict[str, Any]]] = {}

    def keeps(rate: float) -> bool:
        runs = [attempt(path, design, prices, rate, seed) for seed in range(seeds)]
        runs.sort(key=lambda run: run[0] is not None)
        tries[rate] = runs[seeds // 2]
        return tries[rate][0] is None

    low, high = 0.0, 80.0
    while keeps(high) and high < 1000:
        low, high = high, high * 1.5
    while low == 0.0 and high > 1:
        half = high / 1.5
        low, high = (half, high) if keeps(half) else (0.0, half)
    while low and high / low > 1 + TOLERANCE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if keeps(middle) else (low, middle)
    summary = tries[low or high][1]
    print(f"{path} {design}, {prices}: {low:.0f} requests/s", file=sys.stderr, flush=True)
    return Found(
        rate_per_s=low,
        bound=tries[high][0] or "none",
        machines=summary["chips"] // 8,
        per_hour=summary["cost_per_hour"],
        provisioned_kw=summary["provisioned_power_w"] / 1e3,
        energy_wh=summary["energy_wh_per_request"],
    )


def print_cluster(title: str, designs: Sequence[str], found: Mapping[tuple[str, str], Found]) -> None:
    """Print what each design of a cluster takes and reaches."""
    kinds = [f"req/s, {prices} | first missed | Wh per request" for prices in PRICES]
    print(f"\n{title}\n\n| design | machines | cost per hour | provisioned kW | {' | '.join(kinds)} |")
    print(f"|{'---|' * (4 + 3 * len(PRICES))}")
    for design in designs:
        row = [found[design, prices] for prices in PRICES]
        cells = [f"{one.rate_per_s:.0f} | {one.bound} | {one.energy_wh:.2f}" for one in row]
        takes = f"{row[0].machines} | {row[0].per_hour:,.0f} | {row[0].provisioned_kw:.0f}"
        print(f"| {design} | {takes} | {' | '.join(cells)} |")


def print_ratios(title: str, designs: Sequence[str], found: Mapping[tuple[str, str], Found]) -> None:
    """Print throughput against both baselines, as it is, per cost and per provisioned power."""
    columns = [f"{prices}: / {base}" for prices in PRICES for base in BASELINES]
    print(f"\n{title}: throughput, throughput per cost and per power over those of the baselines\n")
    print(f"| design | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for design in designs:
        cells = [_ratios(found[design, prices], found[base, prices]) for prices in PRICES for base in BASELINES]
        print(f"| {design} | {' | '.join(cells)} |")


def print_claims(found: Sequence[Mapping[tuple[str, str], Found]]) -> None:
    """Print the paper's ratios beside ours."""
    print(f"\n| cluster | design / baseline | paper | {' | '.join(PRICES)} |\n|{'---|' * (3 + len(PRICES))}")
    for cluster, design, base, paper in CLAIMS:
        mine = found[cluster]
        cells = [f"{_over(mine[design, prices].rate_per_s, mine[base, prices].rate_per_s):.2f}" for prices in PRICES]
        print(f"| {CLUSTERS[cluster][0]} | {design} / {base} | {paper} | {' | '.join(cells)} |")


def print_alone() -> None:
    """Print one median request alone on a machine: latency, cost and energy, paper and ours."""
    print("\nLlama-2-70B, the median request alone on a machine (paper, ours)\n")
    print("| workload, machine | TTFT ms | between tokens ms | E2E ms | cents | Wh | Wh as provisioned |")
    print(f"|{'---|' * 7}")
    for workload, prompt, output, machines in ALONE:
        for chip, paper in machines.items():
            mine = _alone_on(f"Baseline-{chip}", prompt, output)
            cells = [f"{theirs:g}, {ours:.3g}" for theirs, ours in zip(paper, mine, strict=False)]
            print(f"| {workload}, {chip} | {' | '.join(cells)} | {mine[-1]:.3g} |")


def _alone_on(design: str, prompt: int, output: int) -> tuple[float, ...]:
    lengths = {"prompt_tokens": prompt, "output_tokens": output}
    own = {f"workload.synthetic.{key}": {"kind": "fixed", "value": value} for key, value in lengths.items()}
    changes = {"model.name": "meta-llama/Llama-2-70b-hf", "pool.mixed.replicas": 1, "workload.synthetic.requests": 1}
    first = {"workload.synthetic.arrivals": {"kind": "burst"}}
    found = run_scenario(load_candidate(CLUSTERS[0][1], design, own | changes | first)).summary
    hours = found["mean_e2el_ms"] / 3.6e6
    latencies = (found["mean_ttft_ms"], found["mean_tpot_ms"], found["mean_e2el_ms"])
    cents = 100 * hours * found["cost_per_hour"]
    return (*latencies, cents, found["energy_wh_per_request"], hours * found["provisioned_power_w"])


def _ratios(one: Found, base: Found) -> str:
    rate = _over(one.rate_per_s, base.rate_per_s)
    return (
        f"{rate:.2f}, {rate * base.per_hour / one.per_hour:.2f}, {rate * base.provisioned_kw / one.provisioned_kw:.2f}"
    )


def _over(one: float, other: float) -> float:
    return one / other if other else float("nan")


def main(seeds: int, jobs: int) -> None:
    """Find the throughput of every design and print every table."""
    print_alone()
    designs = [[case.name for case in load_cases([path])[1]] for _, path in CLUSTERS]
    tasks = [
        (place, path, design, prices)
        for place, (_, path) in enumerate(CLUSTERS)
        for design in designs[place]
        for prices in PRICES
    ]
    with ProcessPoolExecutor(jobs) as pool:
        # Two clusters share designs under the same traffic: each is run once.
        running: dict[str, Future[Found]] = {}
        keys = [_same(path, design, prices) for _, path, design, prices in tasks]
        for key, (_, path, design, prices) in zip(keys, tasks, strict=True):
            if key not in running:
                running[key] = pool.submit(capacity, path, design, prices, seeds)
        results = [running[key].result() for key in keys]
    found: list[dict[tuple[str, str], Found]] = [{} for _ in CLUSTERS]
    for (place, _, design, prices), result in zip(tasks, results, strict=True):
        found[place][design, prices] = result
    for place, (title, _) in enumerate(CLUSTERS):
        print_cluster(title, designs[place], found[place])
        print_ratios(title, designs[place], found[place])
    print_claims(found)


def _same(path: str, design: str, prices: str) -> str:
    scenario = priced(path, design, prices, {})
    return f"{scenario.pool} {scenario.workload}"
