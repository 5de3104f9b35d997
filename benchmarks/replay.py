"""Replay 25,000 requests with servesim and with Dynamo's native replay, turn about in one run.

``python -m benchmarks.replay [--rounds N] [--only a|b|c|d|e]`` prints CPU seconds, their ratio, peak memory and the
events of the simulation. Each measurement is a process of its own; both programs read the same trace file. What
is timed is the replay: for servesim reading the trace, loading the kernel tables, compiling prices, simulating,
checking the laws and computing every metric; for Dynamo the one native call. Imports are counted for neither.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REQUESTS = 25_000
#: A run twice as long, to tell the memory of a request from that of tables and libraries.
LONG_REQUESTS = 50_000
MOST_EVENTS_PER_REQUEST = 6.0
#: Of a request that is handed over: its KV waits for room, sets out and arrives.
MOST_EVENTS_PER_HAND_OVER = 6.0
MOST_KIB_PER_REQUEST = 1.5
MOST_KIB_PER_HAND_OVER = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """One load: requests per second over a number of instances, of which some only decode what others computed."""

    name: str
    rate_per_s: float
    instances: int
    decoding: int = 0
    engine: str = "vllm"
    caching: bool = False

    def __str__(self) -> str:
        split = f", {self.decoding} of them decoding" if self.decoding else ""
        engine = f", {self.engine}{' with its prefix cache' * self.caching}" if self.engine != "vllm" else ""
        return f"({self.name}) {self.rate_per_s:g}/s over {self.instances} instance(s){split}{engine}"


CASES = (
    Case("a", 5.0, 1),
    Case("b", 40.0, 8),
    Case("c", 40.0, 8, decoding=4),
    Case("d", 40.0, 8, engine="sglang", caching=True),
    Case("e", 40.0, 8, engine="sglang"),
)


_HEADER = f"{'':10}{'CPU s':>8}{'process':>9}{'req/CPU s':>11}{'peak MiB':>10}{'TTFT ms':>9}{'TPOT ms':>9}"

#: The load of (b) for each scheduler, as it is configured by default.
SCHEDULERS = tuple(
    Case(name, 40.0, 8, engine=name, caching=name != "sarathi") for name in ("vllm", "sglang", "trtllm", "sarathi")
)


def write_trace(path: Path, case: Case, requests: int) -> None:
    """Write Poisson arrivals with lognormal lengths (prompt 2000, output 300, sigma 0.6) as Mooncake JSONL."""
    rng = np.random.default_rng(0)
    arrival_ms = np.rint(np.cumsum(rng.exponential(1e3 / case.rate_per_s, requests))).astype(int)
    prompt, output = (_lognormal(rng, mean, requests) for mean in (2000, 300))
    ends = np.cumsum(-(-prompt // 512))
    with path.open("w", encoding="utf-8") as file:
        for row in range(requests):
            hashes = list(range(int(ends[row]) - int(-(-prompt[row] // 512)), int(ends[row])))
            line = {"timestamp": int(arrival_ms[row]), "input_length": int(prompt[row])}
            file.write(json.dumps(line | {"output_length": int(output[row]), "hash_ids": hashes}) + "\n")


def _lognormal(rng: np.random.Generator, mean: float, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    drawn = rng.lognormal(np.log(mean) - 0.6**2 / 2, 0.6, size)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)


def run_servesim(trace: str, case: Case) -> dict[str, float]:
    """Replay a trace with servesim in this process; KV of (c) goes over the links of eight-chip nodes."""
    import pyarrow.parquet  # noqa: F401, PLC0415 - imports are not part of the replay
    import yaml  # noqa: F401, PLC0415 - same

    from simulator.run import run_scenario  # noqa: PLC0415 - same
    from simulator.scenario import load_scenario  # noqa: PLC0415 - same

    changes: dict[str, Any] = {"workload.trace": trace, "pool.0.replicas": case.instances}
    if case.decoding:
        options = {"enable_prefix_caching": False}
        pool = {"chip": "h200_sxm", "tensor_parallel": 4, "router": "round_robin", "engine_options": options}
        pool |= {"calibration": {"front_end": dict.fromkeys(("latency_ns", "request_ns", "token_ns", "output_ns"), 0)}}
        prefill, decode = ({"name": stage, "stages": [stage]} | pool for stage in ("prefill", "decode"))
        changes = {"workload.trace": trace}
        changes["pool"] = [prefill | {"replicas": case.instances - case.decoding}, decode | {"replicas": case.decoding}]
    if case.engine != "vllm":
        options = {"disable_radix_cache": not case.caching} if case.engine == "sglang" else {}
        changes |= {"pool.0.engine": case.engine, "pool.0.engine_options": options}
    elif case.caching:
        changes |= {"pool.0.engine_options": {}}
    started = time.process_time()
    summary = run_scenario(load_scenario(Path(__file__).parent / "replay.toml", changes)).summary
    cpu_s = time.process_time() - started
    kept = ("completed", "mean_ttft_ms", "mean_tpot_ms", "steps", "events")
    return {"cpu_s": cpu_s} | {name: summary[name] for name in kept}


def run_dynamo(trace: str, case: Case) -> dict[str, float]:
    """Replay a trace with Dynamo's native mocker in this process, in the fastest settings we know.

    Its split of prefill and decode workers knows no links.
    """
    from dynamo._core import run_mocker_trace_replay  # noqa: PLC0415 - the peer is optional

    # Twice as fast without prefix caching and with its default block size; servesim runs with blocks of 16.
    engine: dict[str, Any] = {
        "enable_prefix_caching": False,
        "max_num_seqs": 1024,
        "block_size": 64,
        "num_gpu_blocks": 24_000,
    }
    if case.engine == "sglang":
        # Pages of one token, as many as servesim has.
        engine |= {"backend": "sglang", "block_size": 1, "num_gpu_blocks": 1_500_000}
        engine["enable_prefix_caching"] = case.caching
    workers: dict[str, Any] = {"extra_engine_args": {"engine": engine}, "num_workers": case.instances}
    if case.decoding:
        workers = {
            "prefill_engine_args": {"engine": engine | {"worker_type": "prefill"}},
            "decode_engine_args": {"engine": engine | {"worker_type": "decode"}},
            "num_prefill_workers": case.instances - case.decoding,
            "num_decode_workers": case.decoding,
        }
    started = time.process_time()
    result = run_mocker_trace_replay(
        [trace],
        **workers,
        router_mode="round_robin",
        trace_block_size=512,
        capture_planner_details=False,
    )
    cpu_s = time.process_time() - started
    found = result.summary() if callable(result.summary) else result.summary
    names = {"completed": "completed_requests", "mean_ttft_ms": "mean_ttft_ms", "mean_tpot_ms": "mean_tpot_ms"}
    return {"cpu_s": cpu_s} | {ours: found[theirs] for ours, theirs in names.items()}


RUNNERS = {"servesim": run_servesim, "dynamo": run_dynamo}


def measure(program: str, trace: Path, case: Case) -> dict[str, float]:
    """Run one program in a fresh process and return what it printed."""
    command = [sys.executable, "-m", "benchmarks.replay", "--child", program, str(trace), case.name]
    environment = os.environ | {"DYN_LOG": "error", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def child(program: str, trace: str, name: str) -> None:
    """Run one program here and print its figures as JSON."""
    found = RUNNERS[program](trace, next(case for case in (*CASES, *SCHEDULERS) if case.name == name))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found |= {"process_cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}
    print(json.dumps(found))


def compare(case: Case, rounds: int, folder: Path, *, with_peer: bool) -> None:
    """Measure both programs turn about and print the table of one case."""
    trace, long = folder / f"{case.name}.jsonl", folder / f"{case.name}-long.jsonl"
    write_trace(trace, case, REQUESTS)
    write_trace(long, case, LONG_REQUESTS)
    programs = ("servesim", "dynamo") if with_peer else ("servesim",)
    found: dict[str, list[dict[str, float]]] = {program: [] for program in programs}
    for _ in range(rounds):
        for program in programs:
            found[program].append(measure(program, trace, case))
    print(f"\n{case}, {REQUESTS:,} requests")
    print(_HEADER)
    for program in programs:
        print(_row(program, found[program]))
    if with_peer:
        ratio = statistics.median(
            theirs["cpu_s"] / ours["cpu_s"] for ours, theirs in zip(found["servesim"], found["dynamo"], strict=True)
        )
        print(f"Dynamo takes {ratio:.2f} times the CPU time of servesim (median of {rounds} rounds).")
    _check_counts(case, found["servesim"][0], measure("servesim", long, case))


def compare_schedulers(rounds: int, folder: Path) -> None:
    """Measure servesim with each scheduler and print one table."""
    trace = folder / "schedulers.jsonl"
    write_trace(trace, SCHEDULERS[0], REQUESTS)
    found: dict[str, list[dict[str, float]]] = {case.engine: [] for case in SCHEDULERS}
    for _ in range(rounds):
        for case in SCHEDULERS:
            found[case.engine].append(measure("servesim", trace, case))
    print(f"\n{SCHEDULERS[0].rate_per_s:g}/s over {SCHEDULERS[0].instances} instances, {REQUESTS:,} requests")
    print(f"{_HEADER}{'events':>9}{'steps':>10}")
    for engine, runs in found.items():
        print(f"{_row(engine, runs)}{runs[0]['events'] / REQUESTS:9.2f}{runs[0]['steps']:10,.0f}")


def _row(program: str, runs: list[dict[str, float]]) -> str:
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return (
        f"{program:10}{middle['cpu_s']:8.3f}{middle['process_cpu_s']:9.2f}{REQUESTS / middle['cpu_s']:11,.0f}"
        f"{middle['peak_mib']:10.0f}{middle['mean_ttft_ms']:9.1f}{middle['mean_tpot_ms']:9.2f}"
    )


def _check_counts(case: Case, run: dict[str, float], long: dict[str, float]) -> None:
    """Print and assert what does not depend on the machine: events, and memory per request."""
    events, steps = run["events"] / REQUESTS, run["steps"]
    growth = (long["peak_mib"] - run["peak_mib"]) * 1024 / (LONG_REQUESTS - REQUESTS)
    print(f"servesim: {steps:,.0f} steps, {events:.2f} SimPy events and {growth:.2f} KiB of memory per request.")
    handed = bool(case.decoding)
    most_events = MOST_EVENTS_PER_REQUEST + handed * MOST_EVENTS_PER_HAND_OVER
    most_kib = MOST_KIB_PER_REQUEST + handed * MOST_KIB_PER_HAND_OVER
    for found, most, what in ((events, most_events, "events"), (growth, most_kib, "KiB")):
        if found > most:
            sys.exit(f"case {case.name}: {found:.2f} {what} per request, expected at most {most}")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[case.name for case in CASES])
    parser.add_argument("--without-peer", action="store_true", help="measure servesim alone")
    parser.add_argument("--schedulers", action="store_true", help="measure servesim's schedulers in one table instead")
    parser.add_argument("--child", nargs=3, metavar=("PROGRAM", "TRACE", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.schedulers:
            compare_schedulers(arguments.rounds, Path(folder))
            return
        for case in CASES:
            if arguments.only in (None, case.name):
                compare(case, arguments.rounds, Path(folder), with_peer=not arguments.without_peer)


if __name__ == "__main__":
    main()
