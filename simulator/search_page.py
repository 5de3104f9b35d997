"""``report.html`` of a search: the deployment to take, what it yields, and why the others fall short."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simulator.charts import Axis, Chart, Curve, Point
from simulator.page import Markup, charts, page, paragraph, section, table, tiles
from simulator.page_trust import errors_table
from simulator.page_words import deployment, objective
from simulator.search_report import search_sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["search_page"]

_MOST_DEPLOYMENTS: Final = 25
_SPLITS: Final = ("colocated", "disaggregated")
_KEYS: Final = {"ttft_ms": "ttft", "tpot_ms": "tpot", "e2e_ms": "e2el"}


def search_page(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], winner: Mapping[str, Any] | None) -> str:
    """Return the report of a search as one HTML page.

    Parameters
    ----------
    content
        The content of ``search.json``.
    rows
        The rows of ``points.parquet``.
    winner
        The scenario of the best deployment; None where nothing meets the SLO.
    """
    pools = [] if winner is None else winner["pool"]
    told = [(f"pool {pool['name'] or number}", deployment(pool)) for number, pool in enumerate(pools)]
    bounds = objective({key: content["slo_ms"][name] for key, name in _KEYS.items()})
    asked = [
        ("model", str(content["model"])),
        ("chips", f"at most {content['gpus']:,}"),
        ("SLO", f"{bounds or 'none'}, for {content['attainment']:.0%}"),
        ("looked for", str(content["objective_words"])),
    ]
    sections = (
        tiles(_figures(content["best"])) if content["best"] else Markup(""),
        section("What was asked, and what to take", table((), [*asked, *told])),
        section("What a chip yields, and what a user gets", charts([_front(content, rows)]), _front_note()),
        section("Why not the others", _others(content)),
        section("What was looked at", _counts(content), _pruned(content)),
        section("How sure this is", errors_table(pools)) if pools else Markup(""),
    )
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items() if number)
    good = content["best"] is not None
    return page(str(content["name"]), search_sentence(content), good, sections, f"{versions}.")


def _figures(best: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    cost = best["cost_per_million_slo_met_tokens"]
    return [
        (f"{best['chips']:,}", "chips", str(best["split"])),
        (f"{best['goodput_per_chip']:.3g}/s", "goodput per chip", f"{best['slo_attainment']:.2%} within the SLO"),
        (f"{best['tokens_per_s_per_chip']:,.0f}", "output tokens/s per chip", ""),
        (f"{best['p99_ttft_ms']:,.0f} ms", "TTFT, p99", f"median {best['p50_ttft_ms']:,.0f} ms"),
        (f"{best['p99_tpot_ms']:.3g} ms", "TPOT, p99", f"median {best['p50_tpot_ms']:.3g} ms"),
        ("no price" if cost is None else f"{cost:,.3g}", "per million tokens within the SLO", ""),
    ]


def _front(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the best runs of each split by what a chip yields and what a user gets, and the front."""
    # Runs of a stage alone are no deployments.
    whole = [row for row in rows if row["keeps_slo"] and row["round"] != "stage" and row["chips"] <= content["gpus"]]
    known = [row for row in whole if row["tokens_per_s_per_user"] is not None]
    front = sorted(content["front"], key=lambda row: row["tokens_per_s_per_user"])
    every = [*known, *front]
    x = Axis("tokens/s per user", 0.0, 1.1 * max((row["tokens_per_s_per_user"] for row in every), default=1.0))
    y = Axis("tokens/s per chip", 0.0, 1.1 * max((row["tokens_per_s_per_chip"] for row in every), default=1.0))
    curve = [np.array([row[key] for row in front]) for key in ("tokens_per_s_per_user", "tokens_per_s_per_chip")]
    points = []
    for split in _SPLITS:
        mine = [row for row in known if row["split"] == split]
        if mine:
            top = max(mine, key=lambda row: row["tokens_per_s_per_chip"])
            points.append(
                Point(f"most, {split}: {top['deployment']}", top["tokens_per_s_per_user"], top["tokens_per_s_per_chip"])
            )
    curves = [Curve("front", curve[0], curve[1])] if len(front) > 1 else []
    return Chart("Tokens per second of a chip and of a user", x, y, curves, points)


def _front_note() -> Markup:
    return paragraph("The line: runs within the SLO that no other surpasses in both; front.json has them.", "note")


def _others(content: Mapping[str, Any]) -> Markup:
    shown = content["deployments"][:_MOST_DEPLOYMENTS]
    rows = [
        (
            str(one["deployment"]),
            f"{one['chips']:,}",
            "none" if one["worth"] is None else f"{one['worth']:.4g}",
            f"{one['bound']:.4g}",
            _words(one["why"] or "the best of its kind"),
        )
        for one in shown
    ]
    left = len(content["deployments"]) - len(shown)
    more = paragraph(f"And {left:,} more, in search.json." if left > 0 else "", "note")
    return Markup(table(("", "chips", "worth", "at best", "why not"), rows) + more)


def _words(text: object) -> Markup:
    """Return a cell of words, which are broken into lines."""
    return Markup(f'<span class="why">{paragraph(str(text))}</span>')


def _counts(content: Mapping[str, Any]) -> Markup:
    counts = content["counts"]
    told = (
        f"{counts['considered']:,} deployments: {counts['ruled_out']:,} ruled out by what no deployment can surpass, "
        f"{counts['simulated']:,} simulated in {counts['runs']:,} runs of {counts['requests']:,} requests in all."
    )
    cut = f"The search was cut short by its budget ({content['stopped']}); more time may find better."
    return Markup(paragraph(told) + paragraph(cut if content["stopped"] else "", "warn"))


def _pruned(content: Mapping[str, Any]) -> Markup:
    rows = [(str(one["reason"]), f"{one['count']:,}", _words(one["example"])) for one in content["pruned"]]
    return table(("ruled out, because", "", "for example"), rows) if rows else Markup("")
