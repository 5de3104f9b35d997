"""How sure a prediction is: where its milliseconds come from, and how far off such predictions were."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from simulator.page import Bar, Markup, bars, paragraph, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "ORIGINS",
    "ReplayedRuns",
    "cautions",
    "errors_table",
    "origin_bars",
    "origin_stretches",
    "outside",
    "replayed_runs",
]

#: Where step times come from, from the surest on, with a colour and what it means.
ORIGINS: Final = (
    ("measured", "#00664a", "a kernel was timed at this very size"),
    ("interpolated", "#009E73", "between sizes that were timed"),
    ("extrapolated", "#E69F00", "beyond the sizes that were timed"),
    ("borrowed", "#CC79A7", "timed on the nearest kin, of another chip, release or engine"),
    ("roofline", "#D55E00", "computed from what the chip can do at best, and published efficiencies"),
    ("host", "#56B4E9", "the engine's own time on the host: a few constants per engine"),
)


class ReplayedRuns(NamedTuple):
    """Public runs that were replayed, and how far off the predictions of the means were.

    Attributes
    ----------
    source
        Who measured.
    mode
        ``agg`` for instances of both stages, ``disagg`` for prefill and decode apart.
    engine, chip
        What served.
    runs
        How many.
    ttft_median, ttft_signed, tpot_median, tpot_signed
        Median and signed median of the relative errors, %.
    """

    source: str
    mode: str
    engine: str
    chip: str
    runs: int
    ttft_median: float
    ttft_signed: float
    tpot_median: float
    tpot_signed: float


@cache
def replayed_runs() -> tuple[ReplayedRuns, ...]:
    """Return the runs that predictions were compared with, by who measured."""
    text = files("simulator").joinpath("validation_errors.toml").read_text(encoding="utf-8")
    return tuple(ReplayedRuns(*row) for row in tomllib.loads(text)["rows"])


def origin_bars(summary: Mapping[str, Any]) -> Markup:
    """Return where the step times of every pool come from."""
    rows = {
        name: [(origin, pool["time_ms"][origin], colour) for origin, colour, _ in ORIGINS]
        for name, pool in summary["pools"].items()
    }
    shown = [(name, meaning) for name, _, meaning in ORIGINS if summary[f"{name}_share"] > 0]
    return Markup(bars(rows) + paragraph("; ".join(f"{name}: {meaning}" for name, meaning in shown) + ".", "note"))


def origin_stretches(summary: Mapping[str, Any]) -> list[Bar]:
    """Return the shares of a run's step time by origin."""
    return [(name, summary[f"{name}_share"], colour) for name, colour, _ in ORIGINS]


def errors_table(pools: Sequence[Mapping[str, Any]]) -> Markup:
    """Return how far off predictions of the same engines on the same chips were, for the pools of a scenario."""
    mode = "agg" if all({"prefill", "decode"} <= set(pool["stages"]) for pool in pools) else "disagg"
    wanted = {(str(pool["engine"]).partition("@")[0], pool["chip"]) for pool in pools}
    same = [runs for runs in replayed_runs() if (runs.engine, runs.chip) in wanted]
    found = sorted(same, key=lambda runs: (runs.mode != mode, runs.engine, runs.chip, -runs.runs))
    total = sum(runs.runs for runs in replayed_runs())
    if not found:
        names = " and ".join(sorted(f"{engine} on {chip}" for engine, chip in wanted))
        return paragraph(
            f"None of the {_about(total)} public runs that predictions were compared with was of {names}: take these "
            "figures for an estimate, and compare candidates by them rather than with a target.",
            "warn",
        )
    rows = [
        (
            f"{runs.engine}, {runs.chip}, {'colocated' if runs.mode == 'agg' else 'stages apart'}: {runs.source}",
            f"{runs.runs}",
            f"{runs.ttft_median:g} %",
            f"{runs.ttft_signed:+g} %",
            f"{runs.tpot_median:g} %",
            f"{runs.tpot_signed:+g} %",
        )
        for runs in found
    ]
    head = ("public runs replayed", "runs", "TTFT, median error", "signed", "TPOT, median error", "signed")
    says = (
        f"Predicted means against {_about(total)} public runs, of which these are of this engine and chip; below zero: "
        "too fast."
    )
    apart = mode == "disagg" and not any(runs.mode == mode for runs in found)
    lacks = "No public run of prefill and decode apart was of this engine and chip." if apart else ""
    return Markup(paragraph(lacks, "warn") + paragraph(says, "note") + table(head, rows))


def _about(count: int) -> str:
    return f"{count // 100 * 100:,} and more"


def outside(shares: Mapping[str, Any]) -> list[str]:
    """Return a sentence on how much of a run's step time was measured on nothing like it, if it is much."""
    share = shares["extrapolated_share"] + shares["borrowed_share"] + shares["roofline_share"]
    return [f"{share:.0%} of the step time was measured on nothing of this size and kind."] if share > 0.15 else []


def cautions(summary: Mapping[str, Any]) -> list[str]:
    """Return what somebody who reads the figures needs to know, one sentence each."""
    found = outside(summary)
    if summary["skipped_rows"]:
        rows = ", ".join(f"{count:,} {reason}" for reason, count in summary["skipped_rows"].items())
        found.append(f"Rows of the trace were skipped: {rows}.")
    if summary["failed"]:
        found.append(f"{summary['failed']:,} of {summary['num_prompts']:,} requests were refused or lost.")
    if summary["requests_with_images"] and "encoding" not in summary:
        found.append(
            f"{summary['requests_with_images']:,} requests carry images: their tokens are priced as prompt tokens."
        )
    return found
