"""What the history of links costs: runs with it and without it, turn about.

``python -m benchmarks.link_history [--rounds N]`` prints CPU seconds of the fastest run of each kind and their ratio,
and asserts that the history changes neither an event nor a number and keeps a bounded number of samples.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from simulator import load_scenario
from simulator.link_history import LinkHistory
from simulator.run import run_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.run import Result

_FOUR: Final[Mapping[str, Any]] = {
    "workload.synthetic.requests": 10_000,
    "workload.synthetic.arrivals.rate_per_s": 40,
    **{f"pool.{pool}.{key}": 4 for pool in ("prefill", "decode") for key in ("replicas", "tensor_parallel")},
}
CASES: Final[Mapping[str, Mapping[str, Any]]] = {
    "2P+1D": {},
    "4P+4D TP4": _FOUR,
    "4P+4D TP4, links full": {**_FOUR, "network.kv_transfer.efficiency": 0.02},
}
_MOST_SAMPLES: Final = 514


def _never() -> LinkHistory:
    return LinkHistory(interval_ns=1 << 60)


def _run(case: str, *, sampled: bool) -> tuple[float, Result]:
    scenario = load_scenario("prefill-decode", CASES[case])
    gc.collect()
    with patch("simulator.transfer.LinkHistory", LinkHistory if sampled else _never):
        started = time.process_time()
        result = run_scenario(scenario)
        return time.process_time() - started, result


def _samples(result: Result) -> int:
    carrier = result.run.cluster.carrier
    return 0 if carrier is None else len(carrier.link_series().times_ns)


def _check(result: Result, plain: Result) -> None:
    if any(result.summary[key] != plain.summary[key] for key in ("events", "links", "p99_e2el_ms")):
        sys.exit("a history of links changed the run it watched")
    if _samples(result) > _MOST_SAMPLES:
        sys.exit(f"{_samples(result)} samples, expected at most {_MOST_SAMPLES}")


def main() -> None:
    """Run every case and print its row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'case':<24}{'links':>6}{'samples':>9}{'with, s':>9}{'without, s':>12}{'ratio':>7}")
    for case in CASES:
        runs = [(_run(case, sampled=True), _run(case, sampled=False)) for _ in range(rounds)]
        (_, result), (_, plain) = runs[-1]
        _check(result, plain)
        on, off = (min(pair[kind][0] for pair in runs) for kind in (0, 1))
        links, samples = len(result.summary["links"]), _samples(result)
        print(f"{case:<24}{links:>6}{samples:>9}{on:>9.3f}{off:>12.3f}{on / off:>7.3f}")


if __name__ == "__main__":
    main()
