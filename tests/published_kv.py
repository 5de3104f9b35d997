"""Sizes of KV caches that engines logged in public, and what we find for the same options.

``python tests/published_kv.py`` prints them as the table of docs/decisions/006-kv-capacity.md.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from hardware.catalogue import load_chip
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.memory import plan_memory
from simulator.engines import ENGINES


class Logged(NamedTuple):
    """One engine as it was started, and the tokens its log says the cache holds."""

    engine: str
    model: str
    weights: str
    kv_cache: str
    chip: str
    tensor: int
    options: dict[str, object]
    tokens: int
    source: str
    within: float = 0.02


_LMCACHE = "docs.lmcache.ai/getting_started/faq (KV cache sizes, October 2025)"
_PULL_2031 = "github.com/vllm-project/vllm/pull/2031, before"
_DISTSERVE = "max_num_tokens.csv of DistServe's simulator"
_TRTLLM = {
    "max_batch_size": 4096,
    "max_num_tokens": 23552,
    "kv_cache_config": {"free_gpu_memory_fraction": 0.8},
}
LOGS = (
    Logged("vllm@0.10", "Qwen3-8B", "bf16", "bf16", "h100_sxm", 1, {}, 366_400, _LMCACHE),
    Logged("vllm@0.10", "Qwen3-32B", "bf16", "bf16", "h100_sxm", 2, {}, 275_760, _LMCACHE),
    Logged("vllm@0.10", "Llama-3.1-70B", "bf16", "bf16", "h100_sxm", 4, {}, 420_208, _LMCACHE),
    Logged(
        "vllm@0.10",
        "Llama-3.1-8B",
        "bf16",
        "bf16",
        "a100_40_sxm",
        1,
        {"max_num_batched_tokens": 8192},
        157_648,
        "log of a public notebook, 2025-08-27",
    ),
    Logged(
        "vllm@0.15",
        "Llama-3.1-8B",
        "bf16",
        "bf16",
        "a100_40_sxm",
        1,
        {"max_num_batched_tokens": 8192},
        157_936,
        "public log, 2026-02-06",
    ),
    Logged("sglang", "Qwen3-8B", "bf16", "bf16", "b200_sxm", 1, {"page_size": 64}, 992_896, "public log, 2026-04-27"),
    Logged(
        "sglang",
        "Llama-3.1-8B",
        "bf16",
        "bf16",
        "h100_sxm",
        1,
        {"mem_fraction_static": 0.88},
        444_500,
        "SGLang's documentation notebooks, 2025-01-23",
    ),
    Logged(
        "sglang",
        "Llama-3.1-70B",
        "bf16",
        "bf16",
        "h200_sxm",
        8,
        {},
        2_795_207,
        "github.com/sgl-project/sglang/pull/11716",
    ),
    Logged(
        "sglang",
        "Qwen3-14B",
        "bf16",
        "bf16",
        "rtx_4090",
        4,
        {"mem_fraction_static": 0.8},
        298_447,
        "public log, 4 cards of 24 GB",
        within=0.025,
    ),
    Logged(
        "trtllm",
        "Llama-3.1-8B",
        "fp8",
        "fp8",
        "h100_sxm",
        1,
        _TRTLLM,
        860_308,
        "github.com/NVIDIA/TensorRT-LLM/issues/6294",
    ),
    Logged("vllm@0.2", "Llama-2-7B", "bf16", "bf16", "a100_80_sxm", 1, {}, 16 * 7_449, _PULL_2031),
    Logged("vllm@0.2", "Llama-2-70B", "bf16", "bf16", "a100_80_sxm", 4, {}, 16 * 31_615, _PULL_2031),
    Logged("distserve", "OPT-13B", "bf16", "bf16", "a100_80_sxm", 1, {}, 66_144, _DISTSERVE),
    Logged("distserve", "OPT-66B", "bf16", "bf16", "a100_80_sxm", 4, {}, 78_496, _DISTSERVE),
    Logged("distserve", "OPT-175B", "bf16", "bf16", "a100_80_sxm", 8, {}, 59_520, _DISTSERVE, within=0.035),
)


def found_tokens(log: Logged) -> int:
    """Return the tokens we find room for."""
    engine, chip, layout = ENGINES[log.engine], load_chip(log.chip), Layout(log.tensor)
    model = load_model(log.model, weights=log.weights, kv_cache=log.kv_cache)
    options = engine.filled(engine.options(**log.options), chip, model.max_tokens, "pool", layout)
    plan = options.plan(prefills=True)
    memory = plan_memory(model, layout, chip, engine.memory_budget(plan))
    return memory.blocks * plan.block_tokens


def main() -> None:
    """Print the table."""
    rows = ["| engine | model | chips | logged tokens | ours | error | source |", "|---|---|---|---|---|---|---|"]
    for log in LOGS:
        ours = found_tokens(log)
        rows.append(
            f"| {log.engine} | {log.model}, {log.weights} | {log.tensor} x {log.chip} | {log.tokens:,} | {ours:,} | "
            f"{ours / log.tokens - 1:+.1%} | {log.source} |"
        )
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
