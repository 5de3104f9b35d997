"""Our vLLM policy against the installed vLLM, step by step, on every workload of ``conformance.toml``.

``python -m benchmarks.conformance [NAME...] [--random N]`` needs the extra ``vllm``. It runs each workload with
asynchronous scheduling and without, prints a table, and exits with 1 if any step differs, or any result of the two
runs. ``--random N`` adds N small deployments drawn at random, with few blocks and odd limits.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.candidates import load_candidate
from simulator.conform import conform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from simulator.conform import Conformance
    from simulator.scenario import Scenario

__all__ = ["FILE", "SYNCHRONOUS", "drawn", "names", "workload"]

FILE = Path(__file__).parent / "conformance.toml"
#: What turns asynchronous scheduling off, which is on by default.
SYNCHRONOUS = {"pool.0.engine_options.async_scheduling": False}


def names() -> list[str]:
    """Return the names of all workloads."""
    return [table["name"] for table in tomllib.loads(FILE.read_text(encoding="utf-8"))["candidate"]]


def workload(name: str, changes: dict[str, Any]) -> Scenario:
    """Return a workload of the file with some keys changed."""
    return load_candidate(str(FILE), name, changes)


def drawn(seed: int) -> dict[str, Any]:
    """Return changes that make a small deployment, some of its limits out of the way and others tight."""
    rng = np.random.default_rng(seed)

    def one_of(*values: Any) -> Any:  # noqa: ANN401 - values of many keys
        return values[int(rng.integers(len(values)))]

    def coin() -> bool:
        return bool(rng.integers(2))

    block, length, sequences = one_of(1, 3, 16), one_of(400, 1200), one_of(1, 2, 7, 32)
    options = {
        "block_size": block,
        "max_model_len": length,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": max(sequences, one_of(16, 64, 333, 2048)),
        "scheduling_policy": one_of("fcfs", "priority"),
        "long_prefill_token_threshold": one_of(0, 0, 10, 100),
        "long_prefill_token_threshold_adaptive": coin(),
        "prefill_schedule_interval": one_of(1, 1, 2, 5),
        "scheduler_reserve_full_isl": coin(),
        "enable_prefix_caching": one_of(1, 1, 0) == 1,
        "watermark": one_of(0.0, 0.0, 0.03),
        "async_scheduling": coin(),
    }
    sessions = {
        "turns": 4,
        "wait_for_answer": coin(),
        "think_time_s": {"kind": "exponential", "mean": one_of(0.01, 0.3, 3.0)},
    }
    load = {
        "requests": 150,
        "arrivals": {"kind": "gamma", "rate_per_s": one_of(3.0, 20.0, 300.0), "burstiness": one_of(0.2, 1.0)},
        "prompt_tokens": {"kind": "uniform", "low": 1, "high": one_of(20, 150)},
        "output_tokens": {"kind": "uniform", "low": 1, "high": one_of(3, 60, 150)},
        "shared_prefix_tokens": one_of(0, 5, 100),
    }
    load |= one_of({}, {"sessions": sessions}, {"sessions": sessions})
    return {
        "seed": seed,
        "workload.synthetic": load,
        "pool.0.replicas": one_of(1, 1, 2),
        "pool.0.limits.kv_blocks": -(-length // block) + 1 + one_of(0, 3, 40, 2000),
        "pool.0.engine_options": options,
    }


def cases(wanted: Iterable[str], random: int) -> Iterator[tuple[str, Scenario]]:
    """Yield every workload to run, with a name."""
    for name in wanted:
        yield name, workload(name, {})
        yield f"{name}, synchronous", workload(name, SYNCHRONOUS)
    for seed in range(random):
        yield f"random {seed}", workload("everything", drawn(seed))


def row(name: str, found: Conformance) -> str:
    """Return a line of the table."""
    ours, theirs = found.ours, found.theirs
    counts = f"{ours.requests:8,d} {ours.log.steps:8,d} {ours.preemptions:11,d} {ours.cached_tokens:13,d}"
    times = f"{ours.cpu_s:6.1f} {theirs.cpu_s:6.1f}"
    return f"{name:36} {counts} {found.differing:9,d} {times}  {', '.join(found.results)}"


def main() -> int:
    """Run what the command line asks for; return 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="workloads; all by default")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="also N small deployments drawn at random")
    asked = parser.parse_args()
    started, agree = time.process_time(), True
    heads = "requests    steps preemptions cached tokens differing ours s vLLM s"
    print(f"{'workload':36} {heads}")
    for name, scenario in cases(asked.names or names(), asked.random):
        found = conform(scenario)
        agree &= found.agrees
        print(row(name, found), flush=True)
        for first in found.firsts[:1]:
            print(f"  instance {first.instance}, step {first.step}: {'; '.join(first.lines()[:4])}")
    print(f"{'All agree' if agree else 'They differ'}; {time.process_time() - started:.0f} s of CPU time")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
