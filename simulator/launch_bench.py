"""What would verify a prediction: the requests of the simulation, commands that send them, and figures to see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.launch_deployment import Deployment

__all__ = ["PORT", "bench_commands", "expected", "request_table", "requests_jsonl"]

#: Where clients find the deployment.
PORT: Final = 8000
#: Tokens of the blocks that hashes of a Mooncake trace stand for.
_BLOCK_TOKENS: Final = 512
_SHOWN: Final = (
    "completed",
    "duration",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    *(f"{kind}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for kind in ("mean", "p50", "p90", "p99")),
)
_GOODPUT: Final = (("ttft", "ttft_ms"), ("tpot", "tpot_ms"), ("e2el", "e2e_ms"))


def expected(deployment: Deployment) -> dict[str, float]:
    """Return what ``vllm bench serve`` should report, under its own keys."""
    return {key: deployment.summary[key] for key in _SHOWN}


def request_table(folder: Path) -> pd.DataFrame:
    """Read the requests of a result folder."""
    file = folder / "requests.parquet"
    return pd.read_parquet(file) if file.exists() else pd.read_csv(folder / "requests.csv")


def requests_jsonl(table: pd.DataFrame) -> str:
    """Return the requests of a run as a trace in Mooncake's form, each with a prompt of its own."""
    lines, block = [], 0
    columns = (table[name].tolist() for name in ("arrival_s", "prompt_tokens", "output_tokens"))
    for arrival_s, prompt, output in zip(*columns, strict=True):
        blocks = -(-prompt // _BLOCK_TOKENS)
        line = {
            "timestamp": round(arrival_s * 1000, 6),
            "input_length": prompt,
            "output_length": output,
            "hash_ids": list(range(block, block + blocks)),
        }
        lines.append(json.dumps(line))
        block += blocks
    return "\n".join(lines) + "\n"


def bench_commands(deployment: Deployment) -> dict[str, list[str]]:
    """Return the words of the commands that send the requests, by what they are part of."""
    slo, workload = deployment.scenario["slo"], deployment.scenario["workload"]
    bounds = [f"{name}:{slo[key]:g}" for name, key in _GOODPUT if slo[key] is not None]
    loop = workload["closed_loop"]
    count = str(deployment.summary["num_prompts"])
    users = [] if loop is None else [str(loop["concurrency"])]
    vllm = [
        *("vllm", "bench", "serve", "--backend", "vllm", "--base-url", f"http://127.0.0.1:{PORT}"),
        *("--model", deployment.model, "--dataset-name", "timed_trace", "--dataset-path", "requests.jsonl"),
        *("--timed-trace-chunk-hash-size", str(_BLOCK_TOKENS), "--timed-trace-sec-multiplier", "0.001"),
        *("--num-prompts", count, "--ignore-eos"),
        *(["--max-concurrency", *users] if users else ["--self-timed"]),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,95,99"),
        *(["--goodput", *bounds] if bounds else []),
        "--save-result",
    ]
    aiperf = [
        *("aiperf", "profile", "--model", deployment.model, "--url", f"http://127.0.0.1:{PORT}"),
        *("--endpoint-type", "completions", "--streaming"),
        *("--input-file", "requests.jsonl", "--custom-dataset-type", "mooncake_trace", "--request-count", count),
        *(["--concurrency", *users] if users else ["--fixed-schedule"]),
        *("--extra-inputs", "ignore_eos:true"),
    ]
    return {"vllm": vllm, "aiperf": aiperf}
