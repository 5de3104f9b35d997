"""What ``servesim calibrate`` finds of constants that are known: ``python -m benchmarks.calibration``.

Two runs of a simulated server with moved constants are written as ``vllm bench serve`` writes its results, and
fitted; the fit predicts a third load.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from simulator.calibrate import fit
from simulator.calibration import Calibration
from simulator.measured import MeasuredRun, calibrated, read_measured
from simulator.run import run_scenario
from simulator.scenario import Scenario

if TYPE_CHECKING:
    from simulator.run import Result

TRUE = Calibration.model_validate(
    {
        "host": {"step_ns": 1_400_000, "sequence_ns": 8_000},
        "front_end": {"latency_ns": 14_000_000, "request_ns": 400_000},
        "kernels": {"per_token": 1.12, "context_attention": 0.9, "generation_attention": 1.25},
    }
)
FITTED_LOADS, PREDICTED_LOAD = (3.0, 9.0), 6.0


def scenario(rate_per_s: float, seed: int) -> Scenario:
    """Return Qwen3-8B on an H100 under so many requests per second."""
    work = {
        "requests": 300,
        "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
        "prompt_tokens": {"kind": "lognormal", "mean": 1000, "sigma": 0.7, "max": 8000},
        "output_tokens": {"kind": "uniform", "low": 50, "high": 300},
    }
    return Scenario.model_validate(
        {
            "name": "calibration",
            "seed": seed,
            "model": {"name": "Qwen/Qwen3-8B"},
            "workload": {"synthetic": work},
            "pool": [{"chip": "h100_sxm", "engine": "vllm@0.15"}],
        }
    )


def bench_result(result: Result) -> str:
    """Return a run as ``vllm bench serve --save-detailed`` writes one."""
    requests = result.requests
    pairs = zip(requests.tpot_ms, requests.output_tokens, strict=True)
    return json.dumps(
        {
            "start_times": requests.arrival_s.tolist(),
            "input_lens": requests.prompt_tokens.tolist(),
            "output_lens": requests.output_tokens.tolist(),
            "ttfts": (requests.ttft_ms / 1e3).tolist(),
            "itls": [[tpot_ms / 1e3] * (tokens - 1) for tpot_ms, tokens in pairs],
        }
    )


def measured(folder: Path, rate_per_s: float, seed: int) -> MeasuredRun:
    """Return a run of the moved server."""
    server, file = scenario(rate_per_s, seed), folder / f"{rate_per_s:g}.json"
    file.write_text(bench_result(run_scenario(calibrated(server, TRUE))), encoding="utf-8")
    return read_measured(file, server)


def main() -> None:
    """Print the constants, and the third load with the true, the fitted and the usual ones."""
    with TemporaryDirectory() as folder:
        found = fit([measured(Path(folder), rate, seed) for seed, rate in enumerate(FITTED_LOADS, 1)])
    for constant, value, deviation in zip(found.constants, found.values, found.deviations, strict=True):
        true = getattr(getattr(TRUE, constant.table), constant.name)
        print(f"{constant.name:>22}: true {true:>12}  fitted {value:>12} ± {deviation}")
    third = scenario(PREDICTED_LOAD, 3)
    for name, each in (("true", TRUE), ("fitted", found.calibration), ("usual", Calibration())):
        summary = run_scenario(calibrated(third, each)).summary
        print(f"{name:>8}: TTFT {summary['mean_ttft_ms']:.2f} ms, TPOT {summary['mean_tpot_ms']:.3f} ms")


if __name__ == "__main__":
    main()
