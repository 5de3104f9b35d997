"""DistServe (Zhong et al., OSDI 2024): chatbot on OPT-13B and OPT-66B, SLO attainment against rate per GPU.

The paper's own units: DistServe's placement serves its 300 (200) requests, one vLLM instance its 100. Every figure is
simulated twice: with prices of this project (kernels and engines, nothing fitted to the paper), and with the step
profiles the authors published for their own simulator. Lengths are those of the requests the authors sent, in their
order; arrivals are Poisson, another draw under each seed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.papers.attainment import Deployment, measure, rate_at, summaries_at
from perfdb.step_profile import load_step_profile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from benchmarks.papers.attainment import Curve

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
#: System, rate per GPU, requests, mean TTFT and mean TPOT, ms, of four recorded runs of OPT-13B: the last lines of
#: simdistserve/benchmarks/alignment/data-ground-truth/opt-13b-sharegpt/{distserve-c21d11-300-3,
#: distserve-c21d11-450-4.5,vllm-100-1,vllm-100-2}.exp in the authors' repository.
RECORDED = (
    ("DistServe", 1.0, 300, 91.95, 38.35),
    ("DistServe", 1.5, 450, 99.88, 51.07),
    ("vLLM", 1.0, 100, 161.20, 34.25),
    ("vLLM", 2.0, 100, 221.32, 61.67),
)
PROFILES = {"DistServe": "distserve-a100", "vLLM": "vllm-2023-a100"}
PRICES = ("ours", "profile")


def lengths(kind: str, prompt: float, output: float, **more: object) -> dict[str, Any]:
    """Return the changes for lengths drawn independently, pairs of up to 2,047 tokens."""
    sides = {"prompt_tokens": prompt, "output_tokens": output}
    drawn = {
        f"workload.synthetic.{key}": {"kind": kind, "mean": mean, "max": 2047, **more} for key, mean in sides.items()
    }
    return drawn | {"workload.synthetic.total_tokens_max": 2047}


#: What else lengths could have been assumed to be. All have the means of the whole data set, 755.5 and 200.3, once
#: pairs of more than 2,047 tokens are drawn again; truncated exponentials are the maximum entropy under that.
LENGTHS: Mapping[str, Mapping[str, Any]] = {
    "the authors' requests": {},
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


def print_curves(figure: Figure, found: Mapping[str, Mapping[str, Curve]]) -> None:
    """Print attainment by rate, percent, with the range over seeds."""
    columns = [f"{system}, {what}" for system in SYSTEMS for what in ("measured", *PRICES)]
    print(f"\n{figure.name}: SLO attainment, %\n\n| req/s per GPU | {' | '.join(columns)} |")
    print(f"|{'---|' * (len(columns) + 1)}")
    for place, rate in enumerate(figure.rates):
        cells = []
        for system in SYSTEMS:
            cells.append(f"{figure.measured[system][place]:g}")
            cells += [_share(found[prices][system], rate) for prices in PRICES]
        print(f"| {rate:g} | {' | '.join(cells)} |")


def print_recorded(seeds: int, jobs: int) -> None:
    """Print mean latencies of the recorded runs beside ours."""
    print("\nOPT-13B: recorded runs, mean TTFT / mean TPOT, ms\n")
    print("| | req/s per GPU | requests | recorded | ours | profile |\n|---|---|---|---|---|---|")
    for system, rate, requests, ttft_ms, tpot_ms in RECORDED:
        cells = [f"{ttft_ms:.0f} / {tpot_ms:.1f}"]
        for prices in PRICES:
            unit = deployment(FIGURES[0], system, prices, {"workload.synthetic.requests": requests})
            runs = summaries_at(unit, rate, seeds, jobs)
            means = [fmean(run[key] for run in runs) for key in ("mean_ttft_ms", "mean_tpot_ms")]
            cells.append(f"{means[0]:.0f} / {means[1]:.1f}")
        print(f"| {system} | {rate:g} | {requests} | {' | '.join(cells)} |")


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


def print_hinges(figure: Figure, distserve: Curve, seeds: int, jobs: int) -> None:
    """Print what becomes of the ratio if vLLM's steps are priced differently; DistServe keeps its profile."""
    ours = distserve.knee(TARGET) or 0.0
    print(f"\n{figure.name}: the ratio by vLLM's step times\n")
    print(f"| prompts, times | every step, ms more | attainment, % | vLLM | ratio |\n|{'---|' * 5}")
    with tempfile.TemporaryDirectory() as folder:
        for prefill, more_ms in figure.variants:
            unit = deployment(figure, "vLLM", "ours", {"pool.0.step_profile": variant(Path(folder), prefill, more_ms)})
            (curve,) = measure([unit], figure.rates, TARGET, seeds, jobs)
            knee = curve.knee(TARGET)
            shares = " ".join(f"{100 * curve.mean(rate):.0f}" for rate in figure.rates)
            ratio = "none" if knee is None else f"{ours / knee:.2f}"
            print(f"| {prefill:g} | {more_ms:+g} | {shares} | {_knee(curve)} | {ratio} |")


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


def _share(curve: Curve, rate: float) -> str:
    values = curve.by_rate[rate]
    return f"{100 * curve.mean(rate):.0f} ({100 * min(values):.0f}-{100 * max(values):.0f})"


def _knee(curve: Curve) -> str:
    knee, each = curve.knee(TARGET), [value for value in curve.knees(TARGET) if value is not None]
    if knee is None:
        lowest = min(curve.by_rate)
        return f"none: {100 * curve.mean(lowest):.0f} % at {lowest:g}"
    return f"{knee:.2f} ({min(each):.2f}-{max(each):.2f})" if each else f"{knee:.2f}"


def main(seeds: int, jobs: int) -> None:
    """Run both models and print every table."""
    print_recorded(seeds, jobs)
    for figure in FIGURES:
        found = {prices: curves(figure, prices, seeds, jobs) for prices in PRICES}
        print_curves(figure, found)
        rows = {f"{prices}, {next(iter(LENGTHS))}": found[prices] for prices in PRICES}
        for label, changes in list(LENGTHS.items())[1:]:
            rows |= {
                f"{prices}, {label}": curves(figure, prices, max(1, seeds // 2), jobs, changes) for prices in PRICES
            }
        print_ratios(figure, rows)
        print_hinges(figure, found["profile"]["DistServe"], seeds, jobs)
