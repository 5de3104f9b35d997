"""CPU time of KV transfers alone: ``python -m benchmarks.network [--transfers N]``.

Four prefill and four decode instances (TP4, two to a node of H200) hand over the KV of 500 to 4,000 tokens of Qwen3-32B
at exponential gaps, without engines: once with a lane for every rank over single links, once merged. What the clock
and the arrivals cost alone is taken off.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import product

import numpy as np

from hardware.catalogue import load_node
from hardware.topology import build_topology
from simulator.carrier import KvCarrier
from simulator.clock import Clock, Urgent
from simulator.lanes import Endpoint, Lanes
from simulator.network import KvTransfer
from simulator.transfer import Network

KV_BYTES_PER_TOKEN = 262_144
HANDSHAKE_NS = 380_000
RATES_PER_S = (40, 500, 1500)
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Found:
    """CPU microseconds and SimPy events per transfer, mean ms of one, and the most flows on a link."""

    cpu_us: float
    events: float
    mean_ms: float
    peak_flows: int


def lay_lanes(*, merged: bool) -> Lanes:
    """Return the lanes from four instances of four chips to four others."""
    topology = build_topology(load_node("hgx_h200"), 4)
    ends = [Endpoint(topology.chips[start : start + 4], KV_BYTES_PER_TOKEN) for start in range(0, 32, 4)]
    routes = list(product(range(4), range(4, 8)))
    return Lanes(topology, ends, routes, capacity_bytes_per_s=topology.capacity_bytes_per_s * 0.85, merged=merged)


def measure(lanes: Lanes, rate_per_s: float, transfers: int, *, carry: bool = True) -> Found:
    """Send that many transfers and return what they cost; with ``carry`` off, only let their times pass."""
    env, rng = Clock(), np.random.default_rng(0)
    network = Network(env, lanes.channels.capacity_bytes_per_s)
    carrier = KvCarrier(env, network, lanes, transfer=KvTransfer(handshake_us=HANDSHAKE_NS / 1e3))
    pairs, tokens = rng.integers(0, 16, transfers).tolist(), rng.integers(500, 4000, transfers).tolist()
    gaps = rng.exponential(1e9 / rate_per_s, transfers).astype(int).tolist()
    numbers = iter(range(transfers))

    def send(_: object = None) -> None:
        number = next(numbers, None)
        if number is not None:
            if carry:
                carrier.open(pairs[number] // 4, 4 + pairs[number] % 4, lambda: None).send(tokens[number])
            Urgent(env, 1 + gaps[number]).callbacks.append(send)

    send()
    started = time.process_time()
    env.run()
    cpu_us = (time.process_time() - started) / transfers * 1e6
    events = (env.calls - transfers) / transfers
    log = carrier.log.table()["duration_ns"]
    return Found(cpu_us, events, float(log.mean()) / 1e6 if carry else 0.0, int(network.link_use().peak_flows.max()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transfers", type=int, default=20_000)
    transfers = parser.parse_args().transfers
    print(f"{'lanes':>8}{'per s':>7}{'CPU us':>8}{'events':>8}{'ms each':>9}{'most at once':>14}")
    for merged, rate in product((False, True), RATES_PER_S):
        lanes = lay_lanes(merged=merged)
        idle_us = min(measure(lanes, rate, transfers, carry=False).cpu_us for _ in range(ROUNDS))
        found = min((measure(lanes, rate, transfers) for _ in range(ROUNDS)), key=lambda run: run.cpu_us)
        print(
            f"{'merged' if merged else 'by rank':>8}{rate:7}{found.cpu_us - idle_us:8.1f}{found.events:8.2f}"
            f"{found.mean_ms:9.2f}{found.peak_flows:14,}"
        )


if __name__ == "__main__":
    main()
