"""KV transfers measured and simulated: ``python -m benchmarks.kv_transfer --cases FILE.csv``.

The first table replays Mooncake's measurement with vLLM: one prefill and one decode instance of Qwen3-8B, TP8, on two
H800 nodes, one request at a time, through the whole simulator. FILE.csv has the columns ``isl`` (prompt tokens) and
``kv_transfer_ms``. The second sends the KV of Qwen3-235B (which cannot be served yet) between two H20 nodes; the third
sends messages of one size between two H200 nodes over EFA. Figures of these two: Mooncake's documentation.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from hardware.catalogue import load_node
from hardware.topology import build_topology
from simulator.carrier import KvCarrier
from simulator.clock import Clock
from simulator.connectors import CONNECTORS
from simulator.lanes import Endpoint, Lanes
from simulator.network import KvTransfer
from simulator.run import run_scenario
from simulator.scenario import Scenario
from simulator.transfer import Network

#: The most a simulated transfer may be off, share of the measured one.
MOST_ERROR = 0.10
#: Prompt tokens and ms, Qwen3-235B on eight ranks of two H20 nodes with four 400 Gb/s NICs each, SGLang.
H20_SGLANG_MS = ((128, 2.07), (1024, 3.96), (8192, 20.3), (32_768, 76.8))
#: KiB of a message and GB/s of 400 between two p5en nodes.
EFA_GB_PER_S = ((64, 97.0), (128, 191.0), (256, 325.0), (512, 358.0), (1024, 353.0))
#: Bytes of a token of Qwen3-235B: 94 layers of four heads of 128, each on two of eight ranks.
QWEN3_235B_TP8_BYTES = 2 * 192_512


def h800_ms(prompt_tokens: int) -> float:
    """Return the mean transfer time of the measured deployment at one prompt length, ms."""
    pool = {"chip": "h800_sxm", "tensor_parallel": 8}
    lengths = {name: {"kind": "fixed", "value": n} for name, n in (("prompt", prompt_tokens), ("output", 128))}
    loop = {"concurrency": 1, "requests": 10} | {f"{name}_tokens": length for name, length in lengths.items()}
    scenario = Scenario.model_validate(
        {
            "name": "mooncake-h800",
            "model": {"name": "Qwen/Qwen3-8B"},
            "workload": {"closed_loop": loop},
            "pool": [pool | {"name": stage, "stages": [stage]} for stage in ("prefill", "decode")],
            "network": {"topology": "hgx_h800_200g", "kv_transfer": {"connector": "mooncake_vllm"}},
        }
    )
    return float(run_scenario(scenario).summary["transfers"]["mean_ms"])


def sent_ms(node: str, connector: str, kv_bytes: int, tokens: int, piece_bytes: float = float("inf")) -> float:
    """Return how long KV takes between instances that fill two nodes, ms, without a handshake if pieces are given."""
    topology, terms = build_topology(load_node(node), 2), CONNECTORS[connector]
    size = len(topology.chips) // 2
    ends = [Endpoint(topology.chips[i : i + size], kv_bytes, piece_bytes_per_token=piece_bytes) for i in (0, size)]
    efficiency = np.array([terms.efficiency(link.kind) for link in topology.links])
    capacity = topology.capacity_bytes_per_s * efficiency
    lanes = Lanes(topology, ends, capacity_bytes_per_s=capacity, messages_per_s=terms.messages_per_s)
    env = Clock()
    network = Network(env, lanes.channels.capacity_bytes_per_s)
    handshake_ns = round(terms.handshake_us * 1e3) if piece_bytes == float("inf") else 0
    KvCarrier(env, network, lanes, transfer=KvTransfer(handshake_us=handshake_ns / 1e3)).open(0, 1, lambda: None).send(
        tokens
    )
    env.run()
    return env.now / 1e6


def efa_gb_per_s(message_kib: int) -> float:
    """Return the rate between two H200 nodes that messages of one size reach over EFA, GB/s."""
    sent = 1 << 34
    return sent / 1e6 / sent_ms("hgx_h200", "mooncake_efa", sent, 1, piece_bytes=message_kib * 1024)


def measured_h800(cases: Path) -> list[tuple[int, float]]:
    """Return (prompt tokens, measured ms) of a file of cases."""
    with cases.open(encoding="utf-8", newline="") as file:
        return [(int(row["isl"]), float(row["kv_transfer_ms"])) for row in csv.DictReader(file)]


def _print_table(title: str, unit: str, rows: list[tuple[int, float, float]]) -> float:
    print(f"\n{title}\n{unit:>10}{'measured':>10}{'simulated':>11}{'error':>9}")
    errors = [found / measured - 1 for _, measured, found in rows]
    for (key, measured, found), error in zip(rows, errors, strict=True):
        print(f"{key:10,}{measured:10.2f}{found:11.2f}{error:+9.1%}")
    return max(map(abs, errors))


def main() -> None:
    """Print the tables; exit with 1 if a transfer between H800 nodes is off by more than 10 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="CSV with isl and kv_transfer_ms")
    rows = [(tokens, ms, h800_ms(tokens)) for tokens, ms in measured_h800(parser.parse_args().cases)]
    worst = _print_table("Mooncake and vLLM, Qwen3-8B TP8, two H800 nodes, 8 x 200 Gb/s: ms", "tokens", rows)
    sglang = [
        (tokens, ms, sent_ms("hgx_h20", "mooncake_sglang", QWEN3_235B_TP8_BYTES, tokens))
        for tokens, ms in H20_SGLANG_MS
    ]
    _print_table("Mooncake and SGLang, KV of Qwen3-235B TP8, two H20 nodes, 4 x 400 Gb/s: ms", "tokens", sglang)
    efa = [(kib, rate, efa_gb_per_s(kib)) for kib, rate in EFA_GB_PER_S]
    _print_table("Mooncake over EFA, two H200 nodes, 16 x 200 Gb/s: GB/s", "KiB", efa)
    if worst > MOST_ERROR:
        sys.exit(f"a transfer between H800 nodes is off by {worst:.1%}, expected at most {MOST_ERROR:.0%}")


if __name__ == "__main__":
    main()
