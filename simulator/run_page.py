"""``report.html`` of a run: the answer first, then what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from simulator.page import Bar, Markup, charts, details, heading, page, paragraph, section, table, tiles, waterfall
from simulator.page_curves import cdf_charts, slack_chart, time_charts, within
from simulator.page_trust import cautions, errors_table, origin_bars
from simulator.page_words import answer, assumptions, busiest, time_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["made_by", "run_page", "stage_times"]

_LATENCIES: Final = (
    ("TTFT", "ttft", "ttft_ms"),
    ("TPOT", "tpot", "tpot_ms"),
    ("ITL", "itl", None),
    ("E2E", "e2el", "e2e_ms"),
)
_STAGES: Final = (
    ("waits for an encoder", "encode_queue_ms", "#b9c2ca"),
    ("images encoded", "encode_ms", "#CC79A7"),
    ("features move", "feature_ms", "#56B4E9"),
    ("waits in the queue", "queue_ms", "#9aa5b0"),
    ("prompt computed", "prefill_ms", "#0072B2"),
    ("KV moves", "transfer_ms", "#E69F00"),
)


def run_page(
    summary: Mapping[str, Any], manifest: Mapping[str, Any], requests: pd.DataFrame, timeline: pd.DataFrame
) -> str:
    """Return the report of a run as one HTML page.

    Parameters
    ----------
    summary, manifest
        The contents of ``summary.json`` and ``manifest.json``.
    requests, timeline
        The tables of ``requests.parquet`` and ``timeline.parquet``.
    """
    scenario = manifest["scenario"]
    slo = scenario["slo"]
    slo_ms = {"ttft": slo["ttft_ms"], "tpot": slo["tpot_ms"], "e2el": slo["e2e_ms"]}
    text, good = answer(summary, scenario)
    curves = {"this run": requests}
    slack = slack_chart(curves, slo_ms, slo["attainment"])
    sections = (
        tiles(_figures(summary)),
        section("What was assumed", table((), assumptions(summary, manifest, requests)), _options(manifest)),
        section(
            "Latency",
            _latency_table(summary, requests, slo_ms),
            _room(within(requests, slo_ms, slo["attainment"])),
            charts([*cdf_charts(curves, slo_ms), *([slack] if slack else [])]),
        ),
        section("Where the time of a request goes", *_falls(requests)),
        section("Over time", charts(time_charts(timeline, slo_ms, scenario["workload"]["warmup_s"])), _told(timeline)),
        section("Pools and links", _pools(summary), _links(summary)),
        section(
            "How sure this is",
            *(paragraph(sentence, "warn") for sentence in cautions(summary)),
            heading("What step times rest on, by pool"),
            origin_bars(summary),
            heading("How far off such predictions were"),
            errors_table(scenario["pool"]),
        ),
    )
    return page(str(scenario["name"]), text, good, sections, made_by(manifest))


def made_by(manifest: Mapping[str, Any]) -> str:
    """Return what made a result, for the foot of its page."""
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items() if number)
    return f"Scenario {manifest['scenario_sha256']}, seed {manifest['seed']}. {versions}."


def stage_times(requests: pd.DataFrame) -> list[Bar]:
    """Return the mean time of some requests by stage, in order, ms: together their E2E."""
    mean = requests[[column for _, column, _ in _STAGES] + ["ttft_ms", "e2e_ms"]].mean()
    # An engine that encodes itself does it within the steps of the prompt.
    within = requests["encode_pool"].isna() if "encode_pool" in requests else pd.Series(data=True, index=requests.index)
    mean["prefill_ms"] -= requests["encode_ms"].where(within, 0.0).mean()
    stages = [(name, float(mean[column]), colour) for name, column, colour in _STAGES if mean[column] > 0]
    before = sum(length for _, length, _ in stages)
    # The first token is told before its KV has moved, or after, as the engine has it.
    told = max(0.0, float(mean["ttft_ms"]) - before)
    besides = [("front end, first step after", told, "#D55E00")] if told > 0.05 else []
    rest = float(mean["e2e_ms"]) - before - sum(length for _, length, _ in besides)
    return [*stages, *besides, ("answer decoded", max(0.0, rest), "#009E73")]


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    cost = summary["cost_per_million_output_tokens"]
    return [
        (f"{summary['slo_attainment'] * 100:.4g}%", "of requests within the SLO", f"{summary['completed']:,} finished"),
        (f"{summary['request_goodput']:.3g}/s", "goodput", f"{summary['goodput_per_chip']:.3g}/s per chip"),
        (time_words(summary["p99_ttft_ms"]), "TTFT, p99", f"median {time_words(summary['p50_ttft_ms'])}"),
        (time_words(summary["p99_tpot_ms"]), "TPOT, p99", f"median {time_words(summary['p50_tpot_ms'])}"),
        (
            f"{summary['output_throughput'] / summary['chips']:,.0f}",
            "output tokens/s per chip",
            f"{summary['chips']} chips",
        ),
        (
            "no price" if cost is None else f"{cost:,.3g}",
            "per million output tokens",
            "",
        ),
    ]


def _options(manifest: Mapping[str, Any]) -> Markup:
    """Return what every engine was told, defaults filled in."""
    columns = {name: _flat(pool["engine_options"]) for name, pool in manifest["pools"].items()}
    keys = sorted({key for column in columns.values() for key in column})
    rows = [(key, *(_written(column.get(key)) for column in columns.values())) for key in keys]
    return details("Every engine option, defaults filled in", table(("", *columns), rows))


def _flat(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in options.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def _written(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _latency_table(summary: Mapping[str, Any], requests: pd.DataFrame, slo_ms: Mapping[str, float | None]) -> Markup:
    """Return the percentiles, a column for each latency: as narrow as a phone."""
    measured = requests[requests["measured"]]
    rows = [
        (kind, *(f"{summary[f'{kind}_{key}_ms']:,.4g}" for _, key, _ in _LATENCIES))
        for kind in ("mean", "p50", "p90", "p95", "p99")
    ]
    bounds = {key: slo_ms.get(key) for _, key, _ in _LATENCIES}
    if any(bounds.values()):
        rows.append(("SLO", *("" if bound is None else f"{bound:,g}" for bound in bounds.values())))
        rows.append(("within", *(_held(measured, column, bounds[key]) for _, key, column in _LATENCIES)))
    return table(("ms", *(label for label, _, _ in _LATENCIES)), rows)


def _held(measured: pd.DataFrame, column: str | None, bound: float | None) -> str:
    if bound is None or column is None:
        return ""
    return f"{((measured[column].fillna(0.0) <= bound) & measured['completed']).mean():.2%}"


def _room(factor: float | None) -> Markup:
    if factor is None:
        return Markup("")
    if factor <= 1:
        return paragraph(f"The SLO would still be met if all its bounds were {factor:.2f} times as wide.")
    return paragraph(f"The SLO would be met if all its bounds were {factor:.2f} times as wide.")


def _falls(requests: pd.DataFrame) -> Sequence[Markup]:
    counted = requests[requests["measured"] & requests["completed"]]
    if counted.empty:
        return ()
    slow = counted[counted["ttft_ms"] >= np.quantile(counted["ttft_ms"], 0.99)]
    return (
        heading("On average"),
        waterfall(stage_times(counted)),
        heading("Of the hundredth that waited longest for its first token"),
        waterfall(stage_times(slow)),
    )


def _told(timeline: pd.DataFrame) -> Markup:
    happened = timeline[timeline["incidents"] != ""]
    if happened.empty:
        return Markup("")
    rows = [(f"{row['start_s']:,.6g} s", str(row["incidents"])) for _, row in happened.head(12).iterrows()]
    return table((), rows)


def _pools(summary: Mapping[str, Any]) -> Markup:
    pools = summary["pools"]
    rows = (
        ("chips", *(f"{pool['chips']} x {pool['chip']}" for pool in pools.values())),
        ("instances", *(f"{pool['replicas']:,}" for pool in pools.values())),
        ("requests", *(f"{pool['requests']:,}" for pool in pools.values())),
        ("time busy", *(f"{pool['utilisation']:.1%}" for pool in pools.values())),
        ("sequences decoded together, mean", *(f"{pool['mean_decode_batch']:.3g}" for pool in pools.values())),
        ("KV blocks per instance", *(f"{pool['kv_blocks']:,}" for pool in pools.values())),
        ("KV cache in use at its peak", *(f"{pool['kv_peak']:.1%}" for pool in pools.values())),
        ("preemptions", *(f"{pool['preemptions']:,}" for pool in pools.values())),
        (
            "prompt tokens found in the prefix cache",
            *(f"{pool['prefix_cache_hit_rate']:.1%}" for pool in pools.values()),
        ),
        ("prompt tokens copied from host memory", *(f"{pool['host_cache_hit_rate']:.1%}" for pool in pools.values())),
        ("power, mean and peak", *(_kilowatts(pool) for pool in pools.values())),
        ("energy per request", *(f"{pool['energy_wh'] / max(1, pool['requests']):.3g} Wh" for pool in pools.values())),
    )
    return table(("", *pools), rows)


def _kilowatts(pool: Mapping[str, Any]) -> str:
    return f"{pool['mean_power_w'] / 1000:.3g}, {pool['peak_power_w'] / 1000:.3g} kW"


def _links(summary: Mapping[str, Any]) -> Markup:
    if not summary["transfers"]["count"]:
        return Markup("")
    rows = [
        (name, f"{link['bytes'] / 1e9:,.4g} GB", f"{link['utilisation']:.2%}", f"{link['peak_flows']:,}")
        for name, link in busiest(summary["links"])
    ]
    moved = summary["transfers"]
    took = f"{moved['mean_ms']:.3g} ms on average, p99 {moved['p99_ms']:.3g} ms"
    says = (
        f"KV was handed over {moved['count']:,} times in {took}; "
        f"the busiest link was in use {summary['busiest_link_peak_utilisation']:.1%} of its busiest window."
    )
    return Markup(paragraph(says) + table(("link", "carried", "in use", "transfers at once, most"), rows))
