"""Prompt and token times of the engines of 2023, measured and ours.

``python -m benchmarks.phase_times --cases splitwise_phase_times_a100.csv [--by model,tp]``
scores the phase times that Splitwise measured with static batches on A100 80 GB (columns ``model,
tensor_parallel, prompt_size, batch_size, token_size, prompt_time_ms, token_time_ms``). Without ``--cases`` only what
was published as formulas is compared: the fits of DistServe's authors to their engine and to vLLM.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from hardware.catalogue import load_chip
from perfdb.compile import StepLimits, compile_costs
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import step_operators
from perfdb.sources import DEFAULT_SOURCES
from simulator.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from perfdb.step_prices import StepPrices

LIMITS = StepLimits(tokens=33_000, sequences=256, context=17_000)
MODELS = {"llama2-70b": "meta-llama/Llama-2-70b-hf", "bloom-176b": "bigscience/bloom"}
CHIPS = {"a100-80gb": "a100_80_sxm", "h100-80gb": "h100_sxm"}


@dataclass(frozen=True, slots=True)
class Fit:
    """Published times of a real engine on A100 80 GB, ms.

    Attributes
    ----------
    engine, model, tensor
        What ran.
    prompt
        Constant, per token, per squared length.
    token
        Constant, per cached token, per sequence; fitted to at most 95 sequences.
    """

    engine: str
    model: str
    tensor: int
    prompt: tuple[float, float, float]
    token: tuple[float, float, float]


#: ``simdistserve/estimators/profile_data`` of DistServe's repository (Apache-2.0): the coefficients its simulator
#: ships, with the 2 ms per step it adds for Ray to DistServe's own engine.
FITS = (
    Fit("distserve", "facebook/opt-13b", 1, (18.10, 0.1019, 7.12e-6), (21.93, 6.27e-4, 0.0385)),
    Fit("distserve", "facebook/opt-13b", 2, (14.74, 0.0686, 2.45e-6), (15.29, 3.41e-4, 0.0630)),
    Fit("distserve", "facebook/opt-66b", 4, (29.44, 0.1514, 8.32e-6), (32.76, 4.52e-4, 0.0633)),
    Fit("vllm@0.2", "facebook/opt-13b", 1, (22.05, 0.1405, 8.08e-6), (23.48, 5.93e-4, 0.0607)),
)
#: Single prompts, and (sequences, cached tokens of each), at which fits are compared.
PROMPTS = (128, 256, 512, 1024, 2000)
DECODES = ((1, 512), (8, 512), (32, 512), (64, 512), (90, 700))


@dataclass(frozen=True, slots=True)
class Score:
    """One time, measured and ours, ms, under the labels it can be grouped by."""

    labels: dict[str, str]
    measured_ms: float
    ours_ms: float

    @property
    def error(self) -> float:
        """Ours over measured, less one."""
        return self.ours_ms / self.measured_ms - 1


@cache
def prices(model: str, tensor: int, engine: str, chip: str) -> StepPrices:
    """Return the step prices of a model under an engine."""
    found, on = ENGINES[engine], load_chip(chip)
    operators = step_operators(load_model(model), Layout(tensor))
    return compile_costs(operators, found.cost_chain(on, DEFAULT_SOURCES), LIMITS, found.host_on(on, tensor)).prices


def prompt_ms(found: StepPrices, batch: int, tokens: int) -> float:
    """Return the time of a step over ``batch`` whole prompts of ``tokens`` tokens."""
    all_tokens = batch * tokens
    pairs = all_tokens * tokens
    shape = {"prompts": batch, "pairs": pairs, "reach": all_tokens, "decodes": 0, "context": 0}
    return found.mixed_ns(tokens=all_tokens, samples=batch, **shape) / 1e6


def token_ms(found: StepPrices, batch: int, context: int, steps: int) -> float:
    """Return the mean time of ``steps`` decode steps."""
    return found.decode_ns(batch, context, steps) / steps / 1e6


def scores_of_cases(path: Path) -> Iterator[Score]:
    """Yield the prompt and the token time of every row of a file of phase times."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            tensor, batch, length, produced = (
                int(row[name]) for name in ("tensor_parallel", "batch_size", "prompt_size", "token_size")
            )
            found = prices(MODELS[row["model"]], tensor, "vllm@0.2", CHIPS[row["hardware"]])
            size = "up to 2048 tokens" if batch * length <= 2048 else "beyond"
            labels = {
                "model": row["model"],
                "tp": str(tensor),
                "size": size,
                "batch": str(batch),
                "prompt": str(length),
            }
            yield Score(labels | {"phase": "prompt"}, float(row["prompt_time_ms"]), prompt_ms(found, batch, length))
            ours = token_ms(found, batch, length, produced - 1)
            yield Score(labels | {"phase": "token"}, float(row["token_time_ms"]), ours)


def scores_of_fits() -> Iterator[Score]:
    """Yield what the published fits say at a few sizes."""
    for fit in FITS:
        found = prices(fit.model, fit.tensor, fit.engine, "a100_80_sxm")
        labels = {"engine": fit.engine, "model": fit.model, "tp": str(fit.tensor)}
        a, b, c = fit.prompt
        for n in PROMPTS:
            yield Score(labels | {"phase": "prompt"}, a + b * n + c * n * n, prompt_ms(found, 1, n))
        a, b, c = fit.token
        for n, m in DECODES:
            yield Score(labels | {"phase": "token"}, a + b * n * m + c * n, token_ms(found, n, m, 1))


def print_groups(scores: Iterable[Score], by: Sequence[str]) -> None:
    """Print the errors of every group of equal labels, groups in the order they come."""
    groups: dict[tuple[str, ...], list[Score]] = defaultdict(list)
    for score in scores:
        groups[tuple(score.labels[name] for name in by)].append(score)
    wide = [max(len(name), *(len(key[i]) for key in groups)) + 2 for i, name in enumerate(by)]
    print("".join(f"{name:{width}}" for name, width in zip(by, wide, strict=True)), end="")
    print(f"{'times':>6}{'measured, ms':>18}{'ours, ms':>18}{'MAPE':>8}{'median':>9}{'within 10 %':>13}")
    for key, members in groups.items():
        errors = [member.error for member in members]
        spans = [
            f"{min(times):.1f} - {max(times):.1f}"
            for times in ([m.measured_ms for m in members], [m.ours_ms for m in members])
        ]
        close = sum(abs(error) <= 0.1 for error in errors)
        print("".join(f"{part:{width}}" for part, width in zip(key, wide, strict=True)), end="")
        print(f"{len(members):6}{spans[0]:>18}{spans[1]:>18}", end="")
        print(f"{fmean(map(abs, errors)):8.1%}{median(errors):+9.1%}{close:8} of {len(members)}")


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, help="file of phase times")
    parser.add_argument("--by", default="model,tp", help="labels to group cases by: model, tp, size, batch, prompt")
    arguments = parser.parse_args()
    if arguments.cases:
        print(f"{arguments.cases.name}, vllm@0.2")
        print_groups(scores_of_cases(arguments.cases), ["phase", "size", *arguments.by.split(",")])
        print()
    print("Fits of DistServe's authors, A100 80 GB")
    print_groups(scores_of_fits(), ["phase", "engine", "model", "tp"])


if __name__ == "__main__":
    main()
