"""DistServe (Zhong et al., OSDI 2024): chatbot on OPT-13B and OPT-66B, SLO attainment against rate per GPU.

The paper's own units: DistServe's placement serves its 300 (200) requests, one vLLM instance its 100. Every figure is
simulated twice: with prices of this project (kernels and engines, nothing fitted to the paper's curves), and with the
step profiles the authors published for their own simulator. Requests and arrivals are those the authors sent; Poisson
arrivals, another draw under each seed, show what chance does to so few requests.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.papers.attainment import Deployment, measure, rate_at, summaries_at
from perfdb.step_profile import load_step_profile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeAlias

    from benchmarks.papers.attainment import Curve

    Curves: TypeAlias = Mapping[str, Mapping[str, Curve]]

TARGET = 0.9
TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class Figure:
    """What the paper measured of one model.

    Attributes
    ----------
    name, scenario
        The model and its scenario.
    rates
        Requests per second and GPU.
    measured
        Attainment by system, percent: figure 8 as the repository's notebook has it, digitised.
    chips, requests
        GPUs of one unit of each system, and the requests it was sent.
    variants
        Other prices of vLLM's steps to show what the ratio hinges on: a factor for prompts, and ms on every step.
    """

    name: str
    scenario: str
    rates: tuple[float, ...]
    measured: Mapping[str, tuple[float, ...]]
    chips: Mapping[str, int]
    requests: Mapping[str, int]
    variants: tuple[tuple[float, float], ...]


FIGURES = (
    Figure(
        "OPT-13B",
        "papers/distserve-opt-13b",
        (0.25, 0.5, 1, 1.5, 2, 2.25, 2.5, 3),
        {"DistServe": (100, 100, 100, 100, 94, 92, 85, 75), "vLLM": (90, 90, 85, 81, 71, 70, 68, 55)},
        {"DistServe": 3, "vLLM": 1},
        {"DistServe": 300, "vLLM": 100},
        ((2 / 3, 0), (2 / 3, 10), (0.75, 0), (0.75, 10), (0.8, 0), (0.8, 10), (0.85, 0), (1, 0)),
    ),
    Figure(
        "OPT-66B",
        "papers/distserve-opt-66b",
        (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
        {
            "DistServe": (100, 100, 100, 99, 100, 98.8, 99.2, 98.3, 85.8),
            "vLLM": (100, 100, 97, 88, 81, 67, 58, 51, 43),
        },
        {"DistServe": 8, "vLLM": 4},
        {"DistServe": 200, "vLLM": 100},
        ((1, 0), (1, 10), (1, 20), (1, 30), (1.5, 0), (2, 0)),
    ),
)
SYSTEMS = ("DistServe", "vLLM")
#: System, rate per GPU, mean TTFT and mean TPOT, ms, of recorded runs of OPT-13B: the last lines of
#: simdistserve/benchmarks/alignment/data-ground-truth/opt-13b-sharegpt/{distserve-c21d11-300-3,vllm-100-1,
#: vllm-100-2}.exp in the authors' repository.
RECORDED = (
    ("DistServe", 1.0, 91.95, 38.35),
    ("vLLM", 1.0, 161.20, 34.25),
    ("vLLM", 2.0, 221.32, 61.67),
)
PROFILES = {"DistServe": "distserve-a100", "vLLM": "vllm-2023-a100"}
PRICES = ("ours", "profile")


POISSON = {"workload.synthetic.arrivals": {"kind": "poisson"}}


def lengths(kind: str, prompt: float, output: float, **more: object) -> dict[str, Any]:
    """Return the changes for Poisson arrivals and lengths drawn independently, pairs of up to 2,047 tokens."""
    found: dict[str, Any] = dict(POISSON)
    for side, mean in (("prompt", prompt), ("output", output)):
        found[f"workload.synthetic.{side}_tokens"] = {"kind": kind, "mean": mean, "max": 2047, **more}
    return found | {"workload.synthetic.total_tokens_max": 2047}


#: What else lengths could have been assumed to be. All have the means of the whole data set, 755.5 and 200.3, once
#: pairs of more than 2,047 tokens are drawn again; truncated exponentials are the maximum entropy under that.
LENGTHS: Mapping[str, Mapping[str, Any]] = {
    "maximum entropy": lengths("truncated_exponential", 820.4, 216.2),
    "lognormal, sigma 0.8": lengths("lognormal", 1066.1, 211.2, sigma=0.8),
    "lognormal, sigma 1.2": lengths("lognormal", 2354.2, 265.2, sigma=1.2),
}


def deployment(figure: Figure, system: str, prices: str, changes: Mapping[str, Any]) -> Deployment:
    """Return one unit of a system."""
    pools = range(2 if system == "DistServe" else 1)
    own: dict[str, Any] = {f"pool.{number}.replicas": 1 for number in pools}
    own["workload.synthetic.requests"] = figure.requests[system]
    if prices == "profile":
        own |= {f"pool.{number}.step_profile": PROFILES[system] for number in pools}
    return Deployment(figure.scenario, system, own | dict(changes), figure.chips[system])


def curves(
    figure: Figure, prices: str, seeds: int, jobs: int, changes: Mapping[str, Any] | None = None
) -> dict[str, Curve]:
    """Return the simulated curve of each system."""
    units = [deployment(figure, system, prices, changes or {}) for system in SYSTEMS]
    return dict(zip(SYSTEMS, measure(units, figure.rates, TARGET, seeds, jobs), strict=True))


def measured_knee(figure: Figure, system: str) -> float:
    """Return the measured rate at the target."""
    shares = {rate: percent / 100 for rate, percent in zip(figure.rates, figure.measured[system], strict=True)}
    return rate_at(shares, TARGET) or 0.0


def print_curves(figure: Figure, sent: Curves, drawn: Curves) -> None:
    """Print attainment by rate, percent; in brackets the range over Poisson arrivals."""
    columns = [f"{system}, {what}" for system in SYSTEMS for what in ("measured", *PRICES)]
    print(f"\n{figure.name}: SLO attainment, %\n\n| req/s per GPU | {' | '.join(columns)} |")
    print(f"|{'---|' * (len(columns) + 1)}")
    for place, rate in enumerate(figure.rates):
        cells = []
        for system in SYSTEMS:
            cells.append(f"{figure.measured[system][place]:g}")
            for prices in PRICES:
                each = drawn[prices][system].by_rate[rate]
                mean = sent[prices][system].mean(rate)
                cells.append(f"{100 * mean:.0f} ({100 * min(each):.0f}-{100 * max(each):.0f})")
        print(f"| {rate:g} | {' | '.join(cells)} |")


def print_recorded() -> None:
    """Print mean latencies of the recorded runs beside ours."""
    print("\nOPT-13B: recorded runs, mean TTFT / mean TPOT, ms\n")
    print("| | req/s per GPU | recorded | ours | profile |\n|---|---|---|---|---|")
    for system, rate, ttft_ms, tpot_ms in RECORDED:
        cells = [f"{ttft_ms:.0f} / {tpot_ms:.1f}"]
        for prices in PRICES:
            (run,) = summaries_at(deployment(FIGURES[0], system, prices, {}), rate, 1, 1)
            cells.append(f"{run['mean_ttft_ms']:.0f} / {run['mean_tpot_ms']:.1f}")
        print(f"| {system} | {rate:g} | {' | '.join(cells)} |")


def variant(folder: Path, prefill: float, more_ms: float) -> str:
    """Write vLLM's profile with prompts ``prefill`` times as slow and every step longer; return its path."""
    profile = load_step_profile(PROFILES["vLLM"])
    lines = [f'chip = "{profile.chip}"', 'source = "a variant"']
    for fit in profile.fit:
        prompts = {key: prefill * value for key, value in fit.prefill.model_dump().items()}
        prompts["step_ms"] += more_ms
        tables = {"prefill": prompts}
        for name, part in (("decode", fit.decode), ("large_decode", fit.large_decode)):
            if part is not None:
                tables[name] = part.model_dump() | {"step_ms": part.step_ms + more_ms}
        lines += ["[[fit]]", f'model = "{fit.model}"', f"tensor_parallel = {fit.tensor_parallel}"]
        for name, table in tables.items():
            lines.append(f"{name} = {{ {', '.join(f'{key} = {value}' for key, value in table.items())} }}")
    path = folder / f"vllm-{prefill:g}-{more_ms:g}.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def print_hinges(figure: Figure, distserve: Curve) -> None:
    """Print what becomes of the ratio if vLLM's steps are priced differently; DistServe keeps its profile."""
    ours = distserve.knee(TARGET) or 0.0
    print(f"\n{figure.name}: the ratio by vLLM's step times (profile, the authors' requests and arrivals)\n")
    print(f"| prompts, times | every step, ms more | attainment, % | vLLM | ratio |\n|{'---|' * 5}")
    with tempfile.TemporaryDirectory() as folder:
        for prefill, more_ms in figure.variants:
            profile = {"pool.0.step_profile": variant(Path(folder), prefill, more_ms)}
            (curve,) = measure([deployment(figure, "vLLM", "ours", profile)], figure.rates, TARGET, 1, 1)
            knee = curve.knee(TARGET)
            shares = " ".join(f"{100 * curve.mean(rate):.0f}" for rate in figure.rates)
            ratio = "none" if knee is None else f"{ours / knee:.2f}"
            print(f"| {prefill:.2f} | {more_ms:+g} | {shares} | {_knee(curve)} | {ratio} |")


def print_ratios(figure: Figure, rows: Mapping[str, Mapping[str, Curve]]) -> None:
    """Print the rate at the target of each system, their ratio, and how far it is from the measured one."""
    print(f"\n{figure.name}: rate per GPU at {TARGET:.0%} attainment\n")
    print("| | DistServe | vLLM | ratio | error |\n|---|---|---|---|---|")
    ours, theirs = (measured_knee(figure, system) for system in SYSTEMS)
    wanted = ours / theirs
    print(f"| measured | {ours:.2f} | {theirs:.2f} | {wanted:.2f} | |")
    for label, found in rows.items():
        knees = [found[system].knee(TARGET) for system in SYSTEMS]
        cells = [_knee(found[system]) for system in SYSTEMS]
        if None in knees:
            print(f"| {label} | {' | '.join(cells)} | none | |")
            continue
        ratio = knees[0] / knees[1]
        verdict = "within" if abs(ratio / wanted - 1) <= TOLERANCE else "outside"
        print(f"| {label} | {' | '.join(cells)} | {ratio:.2f} | {ratio / wanted - 1:+.0%}, {verdict} {TOLERANCE:.0%} |")


def _knee(curve: Curve) -> str:
    knee, each = curve.knee(TARGET), [value for value in curve.knees(TARGET) if value is not None]
    if knee is None:
        lowest = min(curve.by_rate)
        return f"none: {100 * curve.mean(lowest):.0f} % at {lowest:g}"
    return f"{knee:.2f} ({min(each):.2f}-{max(each):.2f})" if len(each) > 1 else f"{knee:.2f}"


def main(seeds: int, jobs: int) -> None:
    """Run both models and print every table."""
    print_recorded()
    for figure in FIGURES:
        sent = {prices: curves(figure, prices, 1, jobs) for prices in PRICES}
        drawn = {prices: curves(figure, prices, seeds, jobs, POISSON) for prices in PRICES}
        print_curves(figure, sent, drawn)
        rows = {f"{prices}, the authors' requests and arrivals": sent[prices] for prices in PRICES}
        rows |= {f"{prices}, their lengths, Poisson arrivals": drawn[prices] for prices in PRICES}
        for label, changes in LENGTHS.items():
            rows |= {f"{prices}, {label}": curves(figure, prices, seeds, jobs, changes) for prices in PRICES}
        print_ratios(figure, rows)
        print_hinges(figure, sent["profile"]["DistServe"])
