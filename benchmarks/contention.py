"""What a narrow link does to disaggregation: ``python -m benchmarks.contention``.

Four prefill and four decode instances (Qwen3-32B, TP2 on H200, a node each) hand over 262 MB of KV per request at 40
requests/s through one shared link between the nodes, whose rate goes from 1000 to 0.2 GB/s. Once the link is the
bottleneck, throughput is its rate over the bytes of a request.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from simulator.run import run_scenario
from simulator.scenario import Scenario

RATE_PER_S = 40.0
PROMPT_TOKENS = 1000
REQUESTS = 2000
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


def main() -> None:
    """Print the table."""
    kv_bytes = 262_144 * PROMPT_TOKENS
    print(f"{kv_bytes / 1e6:.0f} MB of KV per request, {RATE_PER_S:g} requests/s offered, {REQUESTS:,} requests")
    print(f"{'link GB/s':>10}{'link / bytes':>14}{'requests/s':>12}{'hand-over ms':>14}{'link busy':>11}{'TTFT ms':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for rate in LINKS_GB_PER_S:
            found = row(rate, Path(folder))
            busiest = max(link["utilisation"] for link in found["links"].values())
            print(
                f"{rate:10g}{rate * 1e9 / kv_bytes:14.2f}{found['request_throughput']:12.2f}"
                f"{found['transfers']['mean_ms']:14.1f}{busiest:11.1%}{found['mean_ttft_ms']:9.0f}"
            )


if __name__ == "__main__":
    main()
