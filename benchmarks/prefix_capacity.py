"""Share of prompt tokens found in a prefix cache, against its size: a trace served whole, once for each size.

Run: ``python -m benchmarks.prefix_capacity TRACE`` (the Mooncake conversation trace, say). One instance serves all of
the trace, so that nothing is split; the last two columns give it a host tier of ten times the blocks.
"""

from __future__ import annotations

import argparse
import os

from simulator import load_scenario, simulate
from simulator.build import build_pools
from workloads.statistics import prefix_hit_tokens
from workloads.traces import read_trace

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 20_000_000)
BLOCK_TOKENS = 16


def measure(trace: str, blocks: int, host_gib: float) -> dict[str, float]:
    """Return the summary of one run."""
    changes = {
        "workload.trace": trace,
        "pool.0.replicas": 1,
        "pool.0.limits.kv_blocks": blocks,
        "pool.0.engine_options.kv_offloading_size": host_gib,
    }
    return simulate(load_scenario("mooncake-conversation", changes)).summary


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=os.path.abspath)
    arguments = parser.parse_args()
    found = read_trace(arguments.trace)
    if found.blocks is None:
        parser.error(f"{arguments.trace} has no block hashes, expected a trace of Mooncake's or Bailian's form")
    endless = prefix_hit_tokens(found.blocks, found.prompt_tokens).sum() / found.prompt_tokens.sum()
    print(f"an endless cache finds {endless:.4f} of the prompt tokens (whole blocks of the trace)")
    print(f"{'blocks':>12}{'tokens':>14}{'on chip':>10}{'with a host tier: on chip':>27}{'from host':>11}")
    gib_per_block = _gib_per_block(arguments.trace)
    for blocks in SIZES:
        alone = measure(arguments.trace, blocks, 0.0)
        tiered = measure(arguments.trace, blocks, 10 * blocks * gib_per_block)
        print(
            f"{blocks:12,}{blocks * BLOCK_TOKENS:14,}{alone['prefix_cache_hit_rate']:10.4f}"
            f"{tiered['prefix_cache_hit_rate']:27.4f}{tiered['host_cache_hit_rate']:11.4f}"
        )


def _gib_per_block(trace: str) -> float:
    """Return the bytes of a KV block over all chips of an instance, GiB."""
    pool = build_pools(load_scenario("mooncake-conversation", {"workload.trace": trace}))[0]
    return pool.memory.block * pool.layout.chips / 2**30


if __name__ == "__main__":
    main()
