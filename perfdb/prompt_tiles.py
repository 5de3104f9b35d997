"""What sequences that decode cost in a kernel made for prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perfdb.linear_curve import linear_curve
from perfdb.operators import Attention
from perfdb.speed_of_light import attention_peak
from perfdb.step_prices import FRACTION_BITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hardware.catalogue import Chip
    from perfdb.operators import Kernel
    from perfdb.step_prices import DecodeCurve

__all__ = ["tile_curve"]

#: Queries and keys that one block of FlashAttention 2 multiplies where KV is in pages (``kBlockM`` and ``kBlockN`` of
#: ``run_mha_fwd_splitkv_dispatch`` in ``csrc/flash_attn/src/flash_fwd_launch_template.h``, heads of 128).
_TILE_QUERIES: Final = 64
_TILE_KEYS: Final = 128

#: Compute capabilities on which vLLM's own choice is FlashAttention 2: Hopper has version 3, and the larger Blackwell
#: kernels that take decoding sequences apart (``vllm/platforms/cuda.py``, ``vllm/v1/attention/backends/fa_utils.py``).
_CAPABILITIES: Final = (80, 86, 89, 120)


def tile_curve(kernels: Sequence[Kernel], chip: Chip, contexts: Sequence[int]) -> DecodeCurve | None:
    """Return what one sequence costs that decodes in a step with prompts, all layers, by its context.

    Parameters
    ----------
    kernels
        Those over the caches of sequences that decode.
    chip
        Where they run.
    contexts
        Knots of the curve, tokens, increasing, the first 0.

    Returns
    -------
    DecodeCurve or None
        None where decoding sequences have a kernel of their own whatever is beside them.

    Notes
    -----
    One call serves prompts and decoding sequences alike. For it to put the heads that share KV together, or to split a
    context among blocks, no sequence may have more than one new token; so beside a prompt each head of a decoding
    sequence is a tile of 64 rows, one of them real, that is multiplied with the whole context, in tiles of 128 keys of
    which the last is half full on average. They run at the share of the peak that a prompt of 1,024 tokens reaches.
    """
    plain = [kernel for kernel in kernels if isinstance(kernel, Attention) and kernel.kv_cache != "fp8"]
    if chip.sm not in _CAPABILITIES or len(plain) != len(kernels) or not plain:
        return None
    knots = [int(context) for context in contexts]
    first = [round(sum(_tiles_ns(kernel, chip, x) for kernel in plain) * (1 << FRACTION_BITS)) for x in knots]
    return linear_curve(knots, first)


def _tiles_ns(kernel: Attention, chip: Chip, context: int) -> float:
    keys = (min(context, kernel.window) if kernel.window else context) + _TILE_KEYS / 2
    rate = chip.efficiency.prefill_attention_bf16[0][1] * attention_peak(chip, kernel)
    return 1e9 * kernel.count * kernel.pair_flops * _TILE_QUERIES * keys / rate
