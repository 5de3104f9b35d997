"""What a narrow link does to disaggregation: ``python -m benchmarks.contention [--with-peer]``.

Four prefill and four decode instances (Qwen3-32B, TP2 on H200, a node each) hand over 262 MB of KV per request at 40
requests/s through one shared link between the nodes, whose rate goes from 1000 to 0.2 GB/s. Once the link is the
bottleneck, throughput is its rate over the bytes of a request. With the peer (extra ``bench``), Dynamo's replay of four
prefill and four decode workers serves the same requests with a ``kv_transfer_bandwidth`` of the same rate: each of its
transfers takes bytes over rate, whatever else is on its way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from simulator.run import run_scenario
from simulator.scenario import Scenario

RATE_PER_S = 40.0
PROMPT_TOKENS = 1000
REQUESTS = 2000
KV_BYTES_PER_TOKEN = 262_144
LINKS_GB_PER_S = (1000.0, 100.0, 20.0, 10.0, 5.0, 2.0, 1.0, 0.2)

NODE = """
like = "hgx_h200"
nics = 1
rails = 1
nic_bytes_per_s = {rate}
"""


def scenario(node: Path) -> Scenario:
    """Return the deployment on two nodes of a kind."""
    pool = {"chip": "h200_sxm", "tensor_parallel": 2, "replicas": 4}
    lengths = {
        "prompt_tokens": {"kind": "fixed", "value": PROMPT_TOKENS},
        "output_tokens": {"kind": "fixed", "value": 64},
    }
    arrivals = {"kind": "poisson", "rate_per_s": RATE_PER_S}
    return Scenario.model_validate(
        {
            "name": "contention",
            "model": {"name": "Qwen/Qwen3-32B"},
            "workload": {"synthetic": {"requests": REQUESTS, "arrivals": arrivals} | lengths},
            "pool": [pool | {"name": stage, "stages": [stage]} for stage in ("prefill", "decode")],
            "network": {"topology": str(node), "kv_transfer": {"efficiency": 1.0}},
        }
    )


def row(rate_gb_per_s: float, folder: Path) -> dict[str, Any]:
    """Run the deployment with a link of some rate and return its summary."""
    node = folder / "node.toml"
    node.write_text(NODE.format(rate=rate_gb_per_s * 1e9), encoding="utf-8")
    return run_scenario(scenario(node)).summary


def peer_per_s(rate_gb_per_s: float, folder: Path) -> float:
    """Return the requests per second that Dynamo's replay gets through links of some rate."""
    from dynamo._core import run_mocker_trace_replay  # noqa: PLC0415 - the peer is optional

    trace = folder / "trace.jsonl"
    if not trace.exists():
        times_ms = np.cumsum(np.random.default_rng(0).exponential(1e3 / RATE_PER_S, REQUESTS))
        lines = [
            {
                "timestamp": round(time),
                "input_length": PROMPT_TOKENS,
                "output_length": 64,
                "hash_ids": [2 * i, 2 * i + 1],
            }
            for i, time in enumerate(times_ms.tolist())
        ]
        trace.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    engine = {"enable_prefix_caching": False, "max_num_seqs": 1024, "block_size": 64, "num_gpu_blocks": 24_000}
    engine |= {"kv_transfer_bandwidth": rate_gb_per_s, "kv_transfer_bytes_per_token": KV_BYTES_PER_TOKEN}
    result = run_mocker_trace_replay(
        [str(trace)],
        prefill_engine_args={"engine": engine | {"worker_type": "prefill"}},
        decode_engine_args={"engine": engine | {"worker_type": "decode"}},
        num_prefill_workers=4,
        num_decode_workers=4,
        router_mode="round_robin",
        trace_block_size=512,
        capture_planner_details=False,
    )
    found = result.summary() if callable(result.summary) else result.summary
    return float(found["request_throughput_rps"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with-peer", action="store_true", help="run Dynamo's replay at the same rates")
    with_peer = parser.parse_args().with_peer
    kv_bytes = KV_BYTES_PER_TOKEN * PROMPT_TOKENS
    print(f"{kv_bytes / 1e6:.0f} MB of KV per request, {RATE_PER_S:g} requests/s offered, {REQUESTS:,} requests")
    head = f"{'link GB/s':>10}{'link / bytes':>14}{'requests/s':>12}{'hand-over ms':>14}{'link busy':>11}{'TTFT ms':>9}"
    print(head + (f"{'Dynamo, /s':>12}" if with_peer else ""))
    with tempfile.TemporaryDirectory() as folder:
        for rate in LINKS_GB_PER_S:
            found = row(rate, Path(folder))
            busiest = max(link["utilisation"] for link in found["links"].values())
            peer = f"{peer_per_s(rate, Path(folder)):12.2f}" if with_peer else ""
            print(
                f"{rate:10g}{rate * 1e9 / kv_bytes:14.2f}{found['request_throughput']:12.2f}"
                f"{found['transfers']['mean_ms']:14.1f}{busiest:11.1%}{found['mean_ttft_ms']:9.0f}{peer}"
            )


if __name__ == "__main__":
    main()
