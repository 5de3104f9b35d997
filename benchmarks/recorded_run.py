"""A recorded run of a real engine of 2023, replayed request by request.

``python -m benchmarks.recorded_run FILE.exp [--engine vllm@0.2|distserve]`` reads what DistServe's authors recorded of
OPT-13B on A100 80 GB (their repository, ``simdistserve/benchmarks/alignment/data-ground-truth/opt-13b-sharegpt``:
a list of requests with lengths, the time each was sent, its TTFT and its time per token), sends the same requests at
the same times, and compares. vLLM ran on one chip; DistServe on two for prompts and one for decoding.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from simulator.run import run_scenario
from simulator.scenario import resolve_scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

CHIP = {"chip": "a100_80_sxm"}
#: Placement and options as their evaluation starts the servers (paper, section 6).
POOLS: dict[str, list[dict[str, Any]]] = {
    "vllm@0.2": [
        CHIP
        | {
            "engine": "vllm@0.2",
            "engine_options": {
                "max_num_batched_tokens": 16384,
                "max_num_seqs": 1024,
                "gpu_memory_utilization": 0.95,
                "engine_use_ray": True,
            },
        }
    ],
    "distserve": [
        CHIP | {"engine": "distserve", "stages": ["prefill"], "tensor_parallel": 2},
        CHIP | {"engine": "distserve", "stages": ["decode"]},
    ],
}


def read_run(path: Path) -> list[dict[str, float]]:
    """Return the requests of a recorded run in the order they were sent."""
    requests = ast.literal_eval(path.read_text(encoding="utf-8"))
    return sorted(requests, key=lambda request: request["issue_time"])


def replay(requests: Sequence[dict[str, float]], engine: str) -> dict[str, list[float]]:
    """Return our TTFT and time per token of every request, ms."""
    start = requests[0]["issue_time"]
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.csv"
        rows = [f"{r['issue_time'] - start:.9f},{r['prompt_len']},{r['output_len']}\n" for r in requests]
        trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(rows), encoding="utf-8")
        table = {"model": {"name": "facebook/opt-13b"}, "workload": {"trace": str(trace)}, "pool": POOLS[engine]}
        times = run_scenario(resolve_scenario(table, trace, str(trace))).run.times
    return {"ttft_ms": times.ttft_ms.tolist(), "tpot_ms": times.tpot_ms.tolist()}


def print_comparison(requests: Sequence[dict[str, float]], ours: dict[str, list[float]]) -> None:
    """Print means, errors and differences of both metrics."""
    print(f"{'':8}{'requests':>9}{'measured, ms':>14}{'ours, ms':>10}{'MAPE':>8}{'median':>9}{'median, ms':>12}")
    for metric, found in ours.items():
        pairs = [(r[metric], v) for r, v in zip(requests, found, strict=True) if r["output_len"] > 1]
        errors = [v / m - 1 for m, v in pairs]
        measured, mine = fmean(m for m, _ in pairs), fmean(v for _, v in pairs)
        print(f"{metric:8}{len(pairs):9}{measured:14.1f}{mine:10.1f}{fmean(map(abs, errors)):8.1%}", end="")
        print(f"{median(errors):+9.1%}{median(v - m for m, v in pairs):+12.1f}")


def main() -> None:
    """Replay a run and print how close it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a recorded run")
    parser.add_argument("--engine", default="vllm@0.2", choices=sorted(POOLS))
    parser.add_argument("--limit", type=int, help="compare the first requests only; all are sent")
    arguments = parser.parse_args()
    requests = read_run(arguments.file)
    ours = replay(requests, arguments.engine)
    print(f"{arguments.file.name}, {arguments.engine}")
    limit = arguments.limit or len(requests)
    print_comparison(requests[:limit], {name: values[:limit] for name, values in ours.items()})


if __name__ == "__main__":
    main()
