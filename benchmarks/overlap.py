"""What a prompt's KV costs when it leaves after the prompt, and when it leaves layer by layer.

``python -m benchmarks.overlap`` serves single requests of one prompt and one decode instance, as Splitwise measured
them (A100 with 200 Gb/s and H100 with 400 Gb/s InfiniBand per chip): Llama-2-70B and BLOOM-176B, TP8. The residue that
the paper found is the set-up of the connectors ``splitwise_a100`` and ``splitwise_h100``; what the simulation adds is
that nothing else stays visible, whatever the length, and how much a serial transfer of the same bytes takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.run import run_scenario
from simulator.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTHS = (512, 1024, 2048, 4096)
MODELS = ("meta-llama/Llama-2-70b-hf", "bigscience/bloom")
#: Chip, connector, and the residue that Splitwise reports for layer-wise transfers, ms (section VI-A of the paper).
MACHINES = (("a100_80_sxm", "splitwise_a100", 8.0), ("h100_sxm", "splitwise_h100", 5.0))


def scenario(model: str, chip: str, prompt_tokens: int, transfer: dict[str, Any]) -> Scenario:
    """Return one request at a time over a prompt and a decode instance on two nodes."""
    pool = {"chip": chip, "tensor_parallel": 8, "engine": "splitwise"}
    return Scenario.model_validate(
        {
            "name": "overlap",
            "model": {"name": model, "max_tokens": 8192},
            "workload": {
                "synthetic": {
                    "requests": 4,
                    "arrivals": {"kind": "constant", "rate_per_s": 0.05},
                    "prompt_tokens": {"kind": "fixed", "value": prompt_tokens},
                    "output_tokens": {"kind": "fixed", "value": 4},
                }
            },
            "pool": [pool | {"name": stage, "stages": [stage]} for stage in ("prefill", "decode")],
            "network": {"kv_transfer": transfer},
        }
    )


def exposed_ms(found: Scenario) -> tuple[float, float]:
    """Return the time of a prompt, and the time from its first token to the arrival of its KV, ms."""
    requests = run_scenario(found).requests
    return float(requests["prefill_ms"].iloc[-1]), float(requests["transfer_ms"].iloc[-1])


def rows() -> Iterator[tuple[str, str, int, float, float, float, float]]:
    """Yield model, chip, prompt, prompt ms, serial ms, layer-wise ms, and the paper's residue, ms."""
    for model in MODELS:
        for chip, connector, residue in MACHINES:
            for tokens in LENGTHS:
                prompt, serial = exposed_ms(scenario(model, chip, tokens, {"handshake_us": 0.0}))
                layerwise = {"mode": "layerwise", "connector": connector}
                yield (
                    model,
                    chip,
                    tokens,
                    prompt,
                    serial,
                    exposed_ms(scenario(model, chip, tokens, layerwise))[1],
                    residue,
                )


def main() -> None:
    """Print the table."""
    head = f"{'model':28}{'chip':>13}{'prompt':>8}{'prompt ms':>11}{'serial ms':>11}{'share':>7}"
    print(f"{head}{'layer-wise':>12}{'paper':>7}")
    for model, chip, tokens, prompt, serial, layerwise, residue in rows():
        share = serial / prompt
        print(f"{model:28}{chip:>13}{tokens:8}{prompt:11.1f}{serial:11.2f}{share:7.1%}{layerwise:12.2f}{residue:7.1f}")


if __name__ == "__main__":
    main()
