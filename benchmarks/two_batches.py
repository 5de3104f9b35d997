"""What two halves of a step gain on H100s, beside SGLang's own figures: ``python -m benchmarks.two_batches``.

DeepSeek-V3 in block fp8, as in "Deploying DeepSeek with PD Disaggregation and Large-scale Expert Parallelism on 96 H100
GPUs" (lmsys.org, 5 May 2025): decoding on 72 ranks with answers to 2,000 tokens, prompts on 32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hardware.catalogue import load_chip
from perfdb.compile import HostTime, StepLimits, compile_costs
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import step_operators
from perfdb.sources import source_chain
from perfdb.two_batches import two_batches

if TYPE_CHECKING:
    from perfdb.step_prices import StepPrices

__all__ = ["decode_ms", "main", "prices", "prompt_ms"]

#: Sequences of a rank: how much faster halves are than the whole. "Between 64 and 128" they begin to pay.
DECODING = {32: -0.27, 256: 0.255}
#: Tokens/s of a device at 256 sequences, in halves.
DECODED_PER_S = 22_310 / 8
#: Of prompts, at 8,192 tokens of a rank.
PROMPTS = (0.27, 0.35)
_CONTEXT, _PROMPT, _TOKENS = 2_050, 2_048, 8_192


def prices(stage: str, ranks: int, *, halves: bool) -> StepPrices:
    """Return the prices of the steps of so many ranks."""
    model, chip = load_model("DeepSeek-V3", weights="fp8_block"), load_chip("h100_sxm")
    layout = Layout(data=ranks, expert=ranks, all_to_all=True, redundant=32, stage=stage)
    chain = partial(source_chain, framework="sglang")
    halved = two_batches(model, layout, chip, chain) if halves else None
    limits = StepLimits(_TOKENS, 256, 8_192)
    return compile_costs(step_operators(model, layout), chain(chip), limits, HostTime(500_000), batches=halved).prices


def decode_ms(sequences: int, *, halves: bool) -> float:
    """Return the time of a step of decoding with so many sequences of each rank."""
    return prices("decode", 72, halves=halves).decode_ns(sequences, _CONTEXT) / 1e6


def prompt_ms(*, halves: bool) -> float:
    """Return the time of a step of whole prompts."""
    prompts = _TOKENS // _PROMPT
    sums = {"samples": prompts, "decodes": 0, "context": 0, "prompts": prompts}
    found = prices("prefill", 32, halves=halves)
    return found.mixed_ns(tokens=_TOKENS, **sums, pairs=prompts * _PROMPT**2, reach=_TOKENS) / 1e6


def main() -> None:
    """Print gains, SGLang's and ours."""
    print("| sequences of a rank | whole, ms | in halves, ms | faster by | SGLang's |\n|---|---|---|---|---|")
    for sequences in (16, 32, 64, 128, 256):
        whole, halved = (decode_ms(sequences, halves=halves) for halves in (False, True))
        theirs = f"{DECODING[sequences]:+.0%}" if sequences in DECODING else ""
        print(f"| {sequences} | {whole:.1f} | {halved:.1f} | {whole / halved - 1:+.0%} | {theirs} |")
    halved = 256e3 / DECODED_PER_S
    print(f"SGLang's 256: {halved * (1 + DECODING[256]):.0f} ms whole, {halved:.0f} ms in halves")
    whole, halved = (prompt_ms(halves=halves) for halves in (False, True))
    print(f"prompts: {whole / halved - 1:+.0%}, SGLang's {PROMPTS[0]:+.0%} to {PROMPTS[1]:+.0%}")


if __name__ == "__main__":
    main()
