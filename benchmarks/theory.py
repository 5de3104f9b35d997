"""Queueing theory beside the engine: ``python -m benchmarks.theory`` prints M/D/1 waits, computed and simulated.

One sequence at a time (``max_num_seqs = 1``) and fixed lengths make an instance an M/D/1 queue, whose mean wait is
``load * s / (2 * (1 - load))`` for a service time ``s`` (Pollaczek and Khinchine).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator.run import run_scenario
from simulator.scenario import Scenario

if TYPE_CHECKING:
    from simulator.run import Result

REQUESTS = 40_000
BATCHES = 25
#: Student's t for 24 degrees of freedom at 99 %.
T_99 = 2.797
LOADS = (0.3, 0.5, 0.7, 0.8, 0.9)


def scenario(load: float, service_s: float) -> Scenario:
    """Return one Llama-3.1-8B on an H100 that serves 512 tokens in and one out, one request at a time."""
    lengths = {"prompt_tokens": {"kind": "fixed", "value": 512}, "output_tokens": {"kind": "fixed", "value": 1}}
    arrivals = {"kind": "poisson", "rate_per_s": load / service_s}
    return Scenario.model_validate(
        {
            "name": "m-d-1",
            "model": {"name": "meta-llama/Llama-3.1-8B"},
            "workload": {"synthetic": {"requests": REQUESTS, "arrivals": arrivals} | lengths},
            "pool": [{"chip": "h100_sxm", "engine_options": {"max_num_seqs": 1, "max_model_len": 4096}}],
        }
    )


def service_time_s() -> float:
    """Return the time of one request alone."""
    return float(run_scenario(scenario(1e-6, 0.02)).summary["median_e2el_ms"]) / 1e3


def waits_ms(result: Result) -> tuple[float, float]:
    """Return the mean wait and the half-width of its 99 % interval, from means of 25 batches, start left out."""
    values = result.run.times.queue_ms[REQUESTS // 10 :]
    means = np.array([part.mean() for part in np.array_split(values, BATCHES)])
    return float(means.mean()), float(T_99 * means.std(ddof=1) / np.sqrt(BATCHES))


def main() -> None:
    """Print the table."""
    service_s = service_time_s()
    print(f"service time {service_s * 1e3:.3f} ms, {REQUESTS:,} requests")
    print(f"{'load':>5}{'theory, ms':>12}{'simulated, ms':>15}{'99 % interval':>18}")
    for load in LOADS:
        theory = load * service_s / (2 * (1 - load)) * 1e3
        found, half = waits_ms(run_scenario(scenario(load, service_s)))
        print(f"{load:5.1f}{theory:12.3f}{found:15.3f}{found - half:10.3f} - {found + half:.3f}")


if __name__ == "__main__":
    main()
