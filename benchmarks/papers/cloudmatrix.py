"""CloudMatrix384 (arXiv 2506.12708): DeepSeek-R1 in INT8 on Ascend 910C, tokens per second and NPU of both stages.

The paper measures each stage under a load of its own: prompts in batches of 16,384 tokens per NPU, and decoding with a
fixed batch. So these are steps of the scenario's pools at those batches, priced, not runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.build import build_pools
from simulator.candidates import load_candidate

if TYPE_CHECKING:
    from simulator.build import BuiltPool

SCENARIO = "papers/cloudmatrix-deepseek-r1"
DIES = 2
#: Prompts in two halves, and decoding whole: the other way round than the scenario.
OTHERWISE = {
    "pool.prefill.engine_options.enable_two_batch_overlap": True,
    "pool.decode.engine_options.enable_two_batch_overlap": False,
}
#: Table 3: tokens of prompts per second and NPU, measured, and projected for perfectly balanced experts.
PREFILL_TOKENS, PREFILL_PROMPT, PREFILL_MEASURED, PREFILL_BALANCED = 16_384, 4_096, 5_655, 6_688


@dataclass(frozen=True, slots=True)
class Decoding:
    """A row of Table 4 or 5: lengths, sequences per NPU, and what was measured per token and per NPU."""

    prompt: int
    output: int
    batch: int
    tpot_ms: float
    tokens_per_s: float


DECODING = (
    Decoding(4096, 256, 96, 49.4, 1_943),
    Decoding(4096, 256, 24, 24.6, 974),
    Decoding(4096, 256, 8, 14.9, 538),
    Decoding(2048, 256, 112, 47.4, 2_360),
    Decoding(1024, 1024, 128, 46.8, 2_733),
)


def prefill_rate(pool: BuiltPool) -> float:
    """Return the prompt tokens per second and NPU of full batches of whole prompts."""
    tokens = PREFILL_TOKENS // DIES
    prompts = tokens // PREFILL_PROMPT
    ns = pool.parts.prices.mixed_ns(
        tokens=tokens,
        samples=prompts,
        decodes=0,
        context=0,
        prompts=prompts,
        pairs=prompts * PREFILL_PROMPT**2,
        reach=tokens,
    )
    return 1e9 * PREFILL_TOKENS / ns


def decode_ms(pool: BuiltPool, row: Decoding) -> float:
    """Return the time per token, ms, half way through the answers."""
    return pool.parts.prices.decode_ns(row.batch // DIES, row.prompt + row.output // 2) / 1e6


def main(seeds: int, jobs: int) -> None:
    """Print the paper's figures beside ours."""
    del seeds, jobs
    prefill, halved = build_pools(load_candidate(SCENARIO, "MTP"))
    changes = {
        f"pool.{name}.engine_options.enable_two_batch_overlap": name == "prefill" for name in ("prefill", "decode")
    }
    prefill_halved, decode = build_pools(load_candidate(SCENARIO, "MTP", changes))
    rate = prefill_rate(prefill)
    print("\nprompt tokens per second and NPU\n")
    print("| | paper | ours | |\n|---|---|---|---|")
    print(f"| measured | {PREFILL_MEASURED:,} | {rate:,.0f} | {rate / PREFILL_MEASURED - 1:+.0%} |")
    print(f"| experts perfectly balanced | {PREFILL_BALANCED:,} | {rate:,.0f} | {rate / PREFILL_BALANCED - 1:+.0%} |")
    print(f"(in two halves: {prefill_rate(prefill_halved):,.0f})")
    print("\ndecoding, 70 % of drafts accepted: TPOT ms, tokens per second and NPU\n")
    print("| prompt, answer | sequences per NPU | paper | in two halves | | whole | |\n" + 7 * "|---" + "|")
    for row in DECODING:
        line = f"| {row.prompt}, {row.output} | {row.batch} | {row.tpot_ms}, {row.tokens_per_s:,.0f} "
        for pool in (halved, decode):
            tpot_ms = decode_ms(pool, row)
            ours = 1e3 * row.batch / tpot_ms
            line += f"| {tpot_ms:.1f}, {ours:,.0f} | {ours / row.tokens_per_s - 1:+.0%} "
        print(line + "|")
