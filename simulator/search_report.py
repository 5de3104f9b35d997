"""The console tables of a search, the answer first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.text import Text

from simulator.report import plain_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["render_search", "search_sentence"]

_RUNNERS_UP: Final = 6
#: Splits beside which there is room for words on one line.
_WIDE: Final = 2
_FRONT_ROWS: Final = 10
_WORTH: Final = {
    "goodput": "requests/s per\nchip within\nthe SLO",
    "cost": "cost per million\noutput tokens\nwithin the SLO",
    "chips": "chips",
    "pareto": "area under its front,\ntokens/s of a user\nx of a chip",
}
_LOADS: Final = {"rate": "requests/s", "users": "users", "units": "requests/s"}


def render_search(content: Mapping[str, Any]) -> Group:
    """Return the tables of a search for a rich console.

    Parameters
    ----------
    content
        The content of ``search.json``.
    """
    bounds = [f"{key.upper()} {bound:g} ms" for key, bound in content["slo_ms"].items() if bound is not None]
    headline = (
        f"{content['name']}: {content['model']} on up to {content['gpus']} chips, {content['objective_words']}, "
        f"{' and '.join(bounds)} for {100 * content['attainment']:g} % of the requests"
    )
    parts: list[RenderableType] = [Text(headline, style="bold"), Text(search_sentence(content), style="bold")]
    if content["best"] is not None:
        parts.append(_best(content))
    parts.append(_runners_up(content))
    if content["front"]:
        parts.append(_front(content))
    parts += [_counts(content), *([_pruned(content)] if content["pruned"] else [])]
    notes = [Text(note, style="yellow") for note in _notes(content)]
    return Group(*parts, *notes)


def search_sentence(content: Mapping[str, Any]) -> str:
    """Return the answer in words."""
    best = content["best"]
    if best is None:
        return "No deployment meets the SLO: allow more time, more chips, or other layouts and engines."
    others = [one for one in content["best_by_split"].values() if one is not None and one["split"] != best["split"]]
    return " ".join([f"Best: {best['deployment']}.", *(_beside(content, best, other) for other in others)])


def _beside(content: Mapping[str, Any], best: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    word = {
        "goodput": "load per chip within the SLO",
        "cost": "cost per token within the SLO",
        "chips": "number of chips",
        "pareto": "area under its front of tokens/s of a chip over those of a user",
    }
    ratio = best["worth"] / other["worth"]
    return f"Its {word[content['objective']]} is {ratio:.2f} times that of the best {other['split']}."


def _best(content: Mapping[str, Any]) -> Table:
    splits = [one for one in content["best_by_split"].values() if one is not None]
    table = plain_table("The best, all of it simulated", "", *(one["split"] for one in splits))
    table.columns[0].no_wrap = len(splits) <= _WIDE
    for column in table.columns[1:]:
        column.overflow = "fold"
    figures: dict[str, Callable[[Mapping[str, Any]], Text | str]] = {
        "deployment": lambda one: Text(one["deployment"]),
        "chips": lambda one: f"{one['chips']}",
        f"load, {_LOADS[content['axis']]}": lambda one: f"{one['load']:,.4g}",
        "SLO met, %": lambda one: f"{100 * one['slo_attainment']:.2f}",
        "goodput per chip, requests/s": lambda one: f"{one['goodput_per_chip']:.4g}",
        "output tokens/s per chip": lambda one: f"{one['tokens_per_s_per_chip']:,.1f}",
        "TTFT p50 / p99, ms": lambda one: f"{one['p50_ttft_ms']:,.1f} / {one['p99_ttft_ms']:,.1f}",
        "TPOT p50 / p99, ms": lambda one: f"{one['p50_tpot_ms']:,.2f} / {one['p99_tpot_ms']:,.2f}",
        "cost per million SLO-met output tokens": lambda one: _number(one["cost_per_million_slo_met_tokens"]),
        "time priced by extrapolation / roofline, %": lambda one: (
            f"{100 * one['extrapolated_share']:.1f} / {100 * one['roofline_share']:.1f}"
        ),
    }
    for label, shown in figures.items():
        table.add_row(label, *(shown(one) for one in splits))
    return table


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.4g}"


def _runners_up(content: Mapping[str, Any]) -> Table:
    table = plain_table("Why others lost", "deployment", _WORTH[content["objective"]], "why")
    table.columns[0].overflow = "fold"
    for split in content["best_by_split"]:
        lost = [one for one in content["deployments"] if one["split"] == split and one["why"]]
        for one in lost[:_RUNNERS_UP]:
            table.add_row(Text(one["deployment"]), _number(one["worth"]), Text(one["why"]))
    return table


def _front(content: Mapping[str, Any]) -> Table:
    title = "Pareto front of the runs that keep the SLO"
    table = plain_table(
        title, "deployment", f"load, {_LOADS[content['axis']]}", "tokens/s\nper user", "tokens/s\nper chip"
    )
    front = content["front"]
    # Where it was looked for, all of it is said.
    step = 1 if content["objective"] == "pareto" else max(1, -(-len(front) // _FRONT_ROWS))
    for row in front[::step]:
        user, chip = row["tokens_per_s_per_user"], row["tokens_per_s_per_chip"]
        table.add_row(Text(row["deployment"]), f"{row['load']:,.4g}", f"{user:,.1f}", f"{chip:,.1f}")
    return table


def _counts(content: Mapping[str, Any]) -> Text:
    counts = content["counts"]
    return Text(
        f"{counts['considered']:,} deployments considered: {counts['ruled_out']:,} ruled out, {counts['bounded']:,} by "
        f"bounds while searching, {counts['simulated']:,} simulated, {counts['finalists']:,} in longer runs; "
        f"{counts['runs']:,} runs of {counts['requests']:,} requests."
    )


def _pruned(content: Mapping[str, Any]) -> Table:
    table = plain_table("Ruled out before", "reason", "count", "for example")
    for one in content["pruned"]:
        table.add_row(Text(one["reason"]), f"{one['count']:,}", Text(one["example"]))
    return table


def _notes(content: Mapping[str, Any]) -> list[str]:
    notes = []
    if content["stopped"] is not None:
        notes.append(
            f"The time ended the search in its round {content['stopped']!r}; with more of it the answer may be another."
        )
    if content["best"] is not None and content["best"]["failed"]:
        notes.append(f"{content['best']['failed']} requests failed with the best; they count as missed.")
    return notes
