"""A small profile in Vidur's format, written by hand: every time in it is known."""

from __future__ import annotations

import csv
import gzip
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from perfdb.model import ModelSpec

#: Times of the operations that go by tokens, ms for each 8 of them.
OPERATIONS = {
    "attn_pre_proj": 0.1,
    "attn_rope": 0.02,
    "attn_post_proj": 0.05,
    "mlp_up_proj": 0.2,
    "mlp_act": 0.03,
    "mlp_down_proj": 0.07,
    "input_layernorm": 0.004,
    "post_attention_layernorm": 0.005,
    "add": 0.001,
}
#: How often every row stands there, so that hardly a forest lacks one.
TIMES = 40
WRITE_MS = 0.003


def generation_ms(sequences: int, cached: int) -> float:
    return 1e-6 * sequences * cached


def context_ms(chunk: int, cached: int) -> float:
    return 1e-4 * chunk + 1e-7 * chunk * cached


def write_profile(folder: Path, model: ModelSpec, tensor: int = 1, *, packed: bool = False) -> None:
    """Write the tables of a model on so many chips."""
    folder.mkdir(exist_ok=True)
    shape = {"n_embd": model.hidden, "n_kv_head": model.stack[0].mixer.kv_heads, "num_tensor_parallel_workers": tensor}
    mlp = [
        {
            **shape,
            "n_head": model.stack[0].mixer.heads,
            "n_expanded_embd": model.stack[0].feed_forward.intermediate,
            "num_tokens": tokens,
            **{f"time_stats.{name}.median": ms * tokens / 8 for name, ms in OPERATIONS.items()},
        }
        for tokens in range(8, 520, 8)
    ]
    attention = [
        _attention(model, shape, 1, chunk, past) for chunk in (32, 64, 128, 256, 512) for past in (0, 512, 1024)
    ]
    attention += [
        _attention(model, shape, batch, 0, cached) for batch in (1, 2, 8, 16) for cached in range(64, 2112, 64)
    ]
    reduced = [
        {
            "num_workers": tensor,
            "devices_per_node": tensor,
            "size": 2 * model.hidden * tokens,
            "time_stats.all_reduce.median": 0.5,
        }
        for tokens in (8, 512)
    ]
    _write(folder, "a_mlp", mlp, packed=packed)
    _write(folder, "an_attention", attention, packed=packed)
    _write(folder, "an_all_reduce", reduced, packed=packed)


def _attention(model: ModelSpec, shape: dict, batch: int, chunk: int, cached: int) -> dict:
    return {
        **shape,
        "n_q_head": model.stack[0].mixer.heads,
        "batch_size": batch,
        "prefill_chunk_size": chunk,
        "kv_cache_size": cached,
        "time_stats.attn_kv_cache_save.median": WRITE_MS,
        "time_stats.attn_prefill.median": context_ms(chunk, cached) if chunk else 0.0,
        "time_stats.attn_decode.median": 0.0 if chunk else generation_ms(batch, cached),
    }


def _write(folder: Path, name: str, rows: list[dict], *, packed: bool) -> None:
    path = folder / f"{name}.csv{'.gz' if packed else ''}"
    with (gzip.open if packed else open)(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for _ in range(TIMES):
            writer.writerows(rows)
