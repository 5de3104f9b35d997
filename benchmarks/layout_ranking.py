"""Which layout is best, measured and predicted: ``python -m benchmarks.layout_ranking VALIDATION CASES``.

VALIDATION is the folder that ``servesim validate --cases CASES`` left. A group holds runs of one model, chip, engine,
precision, prompt and answer length and number of users, in three layouts or more. In each, layouts are ranked by the
output tokens per second and chip that follow from the closed loop, users / (TTFT + (answer - 1) TPOT) / chips, and by
the speed of a user; regret is how much less the layout that is predicted to be the best was measured to yield than the
one that was. Fewer chips yield more each and make a user wait longer, so that layouts of equal size, two of them
or more, are a harder test.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table

from simulator.cases import read_cases

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulator.cases import Case

LEAST_LAYOUTS: Final = 3
_LAYOUT: Final = ("n_gpu", "tp_true", "pp_true", "dp_true", "ep_true", "moe_tp_true")


class Layout(NamedTuple):
    """One layout of a group: what was measured, and predicted."""

    name: tuple[float, ...]
    measured: float
    predicted: float


def tokens_per_chip(case: Case, ttft_ms: float, tpot_ms: float) -> float:
    """Return the output tokens per second and chip of a closed loop with such mean latencies."""
    answer = case.need("osl_mean")
    seconds = (ttft_ms + (answer - 1) * tpot_ms) / 1e3
    return case.need("concurrency") * answer / seconds / case.need("n_gpu")


def speed(case: Case, ttft_ms: float, tpot_ms: float) -> float:
    """Return the answers per second that a user gets."""
    return 1e3 / (ttft_ms + (case.need("osl_mean") - 1) * tpot_ms)


def groups_of(
    cases: Sequence[Case],
    predicted: Mapping[tuple[str, str], float],
    worth: Callable[[Case, float, float], float],
    *,
    equal_size: bool = False,
) -> dict[tuple[object, ...], list[Layout]]:
    """Return the layouts of each group that has enough of them; of one layout measured twice the last run counts."""
    found: dict[tuple[object, ...], dict[tuple[float, ...], Layout]] = defaultdict(dict)
    for case in sorted(cases, key=lambda case: (case.date or "", case.case_id)):
        latencies = [(case.case_id, f"{name}_mean") for name in ("ttft", "tpot")]
        if not all(key in predicted and key[1] in case.measured for key in latencies):
            continue
        texts = (case.model, case.texts.get("gpu"), case.engine, case.texts.get("precision"), case.origin)
        size = case.need("n_gpu") if equal_size else 0
        key = (*texts, case.need("isl_mean"), case.need("osl_mean"), case.need("concurrency"), size)
        layout = tuple(case.numbers.get(name, 1.0) for name in _LAYOUT)
        measured = worth(case, *(case.measured[name] for _, name in latencies))
        found[key][layout] = Layout(layout, measured, worth(case, *(predicted[name] for name in latencies)))
    least = 2 if equal_size else LEAST_LAYOUTS
    return {key: list(group.values()) for key, group in found.items() if len(group) >= least}


def regret(group: Sequence[Layout]) -> float:
    """Return the share of the best measured that is lost by the layout predicted to be the best."""
    chosen = max(group, key=lambda layout: layout.predicted)
    return 1 - chosen.measured / max(layout.measured for layout in group)


def main() -> None:
    """Print how often the best layout is found, and what is lost where it is not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("validation", type=Path)
    parser.add_argument("cases", type=Path)
    given = parser.parse_args()
    table = pd.read_csv(given.validation / "predictions.csv")
    predicted = {(case, metric): value for case, metric, value in table.itertuples(index=False)}
    cases = [
        case
        for case in read_cases(given.cases)
        if case.trusted and case.mode == "agg" and "concurrency" in case.numbers
    ]
    shown = Table("ranked by", "engine", "groups", "layouts", "best found, %", "mean regret, %", "largest, %")
    rankings = (
        ("tokens/s per chip", tokens_per_chip, False),
        ("speed of a user", speed, False),
        ("either, equal size", speed, True),
    )
    for label, worth, equal_size in rankings:
        groups = groups_of(cases, predicted, worth, equal_size=equal_size)
        engines = sorted({str(key[2]) for key in groups})
        for engine in ("all", *engines):
            chosen = [group for key, group in groups.items() if engine in {"all", key[2]}]
            losses = [regret(group) for group in chosen]
            shown.add_row(
                label,
                engine,
                f"{len(chosen)}",
                f"{sum(map(len, chosen))}",
                f"{100 * sum(loss == 0 for loss in losses) / len(losses):.1f}",
                f"{100 * statistics.fmean(losses):.2f}",
                f"{100 * max(losses):.1f}",
            )
    Console().print(shown)


if __name__ == "__main__":
    main()
