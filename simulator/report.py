"""The console table of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType

__all__ = ["plain_table", "render"]

_COLUMNS = ("mean", "p50", "p90", "p95", "p99")
_LATENCIES = (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("E2E", "e2el"))


def render(summary: Mapping[str, Any], slo: Mapping[str, float | None]) -> Group:
    """Return the tables of a run for a rich console.

    Parameters
    ----------
    summary
        The content of ``summary.json``.
    slo
        Bounds by ``ttft``, ``tpot`` and ``e2el``, ms, None for no bound.
    """
    parts: list[RenderableType] = [
        _headline(summary),
        _latencies(summary, slo),
        _throughput(summary),
        _pools(summary),
        _origins(summary),
    ]
    if any(pool.get("rows_set_aside") for pool in summary["pools"].values()):
        parts.append(_set_aside(summary))
    if summary["transfers"]["count"]:
        parts.append(_transfers(summary))
    if any(summary["operations"].values()):
        parts.append(_operations(summary))
    if summary["skipped_rows"]:
        parts.append(_skipped(summary))
    if summary["requests_with_images"]:
        parts.append(_images(summary))
    return Group(*parts)


def _headline(summary: Mapping[str, Any]) -> Text:
    return Text(
        f"{summary['scenario']}: {summary['model_id']} on {summary['chips']} chips, "
        f"{summary['num_prompts']:,} requests over {summary['duration']:,.1f} s",
        style="bold",
    )


def plain_table(title: str, *columns: str) -> Table:
    """Return an empty table, its first column to the left and all others to the right."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column(columns[0])
    for column in columns[1:]:
        # As text: rich would take a pool named [b] for markup.
        table.add_column(Text(column), justify="right")
    return table


def _latencies(summary: Mapping[str, Any], slo: Mapping[str, float | None]) -> Table:
    table = plain_table("Latency, ms", "", *_COLUMNS, "SLO")
    for label, key in _LATENCIES:
        bound = slo.get(key)
        cells = [_milliseconds(summary[f"{column}_{key}_ms"]) for column in _COLUMNS]
        table.add_row(label, *cells, "" if bound is None else f"{bound:,.0f}")
    return table


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10_000 else f"{value:,.2f}"


def _throughput(summary: Mapping[str, Any]) -> Table:
    table = plain_table("Throughput", "", "value")
    cost = summary["cost_per_million_output_tokens"]
    rows = (
        ("requests completed", f"{summary['completed']:,}"),
        ("requests refused or lost", f"{summary['failed']:,}"),
        ("requests/s", f"{summary['request_throughput']:.3f}"),
        ("goodput, requests/s", f"{summary['request_goodput']:.3f}"),
        ("goodput per chip, requests/s", f"{summary['goodput_per_chip']:.4f}"),
        ("SLO attainment", f"{summary['slo_attainment']:.2%}"),
        ("output tokens/s", f"{summary['output_throughput']:,.1f}"),
        ("total tokens/s", f"{summary['total_token_throughput']:,.1f}"),
        ("peak concurrent requests", f"{summary['max_concurrent_requests']:,}"),
        ("cost per million output tokens", "no price given" if cost is None else f"{cost:.3f}"),
        ("energy per request, Wh", f"{summary['energy_wh_per_request']:.3f}"),
        ("power, kW: mean, peak, provided", _kilowatts(summary)),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _kilowatts(watts: Mapping[str, Any]) -> str:
    return ", ".join(f"{watts[f'{kind}_power_w'] / 1000:.2f}" for kind in ("mean", "peak", "provisioned"))


def _pools(summary: Mapping[str, Any]) -> Table:
    pools = summary["pools"]
    table = plain_table("Pools", "", *pools)
    rows: tuple[tuple[str, Callable[[Any], str]], ...] = (
        ("chip", lambda pool: pool["chip"]),
        ("chips", lambda pool: f"{pool['chips']}"),
        ("instances", lambda pool: f"{pool['replicas']}"),
        ("time busy", lambda pool: f"{pool['utilisation']:.1%}"),
        ("mean decode batch", lambda pool: f"{pool['mean_decode_batch']:.1f}"),
        ("KV blocks per instance", lambda pool: f"{pool['kv_blocks']:,}"),
        ("peak KV use", lambda pool: f"{pool['kv_peak']:.1%}"),
        ("preemptions", lambda pool: f"{pool['preemptions']:,}"),
        ("prefix cache hits, of prompt tokens", lambda pool: f"{pool['prefix_cache_hit_rate']:.1%}"),
        ("copied from the host, of prompt tokens", lambda pool: f"{pool['host_cache_hit_rate']:.1%}"),
        ("power cap, share of TDP", lambda pool: f"{pool['power_cap']:.0%}"),
        ("mean, peak, provided kW", _kilowatts),
    )
    for label, cell in rows:
        table.add_row(label, *(Text(cell(pool)) for pool in pools.values()))
    return table


def _origins(summary: Mapping[str, Any]) -> Text:
    names = ("measured", "interpolated", "extrapolated", "borrowed", "roofline", "host")
    shares = ", ".join(f"{name} {summary[f'{name}_share']:.1%}" for name in names)
    return Text(
        f"Step time by origin: {shares}.\n{summary['steps']:,} steps in {summary['events']:,} events{_effort(summary)}."
    )


def _set_aside(summary: Mapping[str, Any]) -> Text:
    rows = sum(pool.get("rows_set_aside", 0) for pool in summary["pools"].values())
    return Text(f"Kernel tables: {rows:,} rows cannot be and were set aside (servesim perf audit).", style="yellow")


def _effort(summary: Mapping[str, Any]) -> str:
    # Runs made many at a time keep no time of their own, so that equal runs are equal bytes.
    return f", {summary['cpu_s']:.2f} CPU s" if "cpu_s" in summary else ""


def _transfers(summary: Mapping[str, Any]) -> Text:
    found = summary["transfers"]
    return Text(
        f"KV hand-overs: {found['count']:,}, {found['bytes'] / 1e9:,.1f} GB; mean {found['mean_ms']:,.2f} ms, "
        f"p99 {found['p99_ms']:,.2f} ms. Busiest link: {summary['busiest_link']}, "
        f"{summary['busiest_link_utilisation']:.1%} in use, {summary['busiest_link_peak_utilisation']:.1%} at its peak."
    )


def _operations(summary: Mapping[str, Any]) -> Text:
    found = summary["operations"]
    return Text(
        f"Meanwhile: {found['instances_lost']:,} instances lost, {found['role_switches']:,} changed roles; "
        f"{found['requests_restarted']:,} requests started over; {found['transfers_given_up']:,} transfers given up, "
        f"{found['transfers_timed_out']:,} of them for their time."
    )


def _skipped(summary: Mapping[str, Any]) -> Text:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["skipped_rows"].items())
    return Text(f"Trace rows skipped: {reasons}.", style="yellow")


def _images(summary: Mapping[str, Any]) -> Text:
    told = f"{summary['requests_with_images']:,} requests carry images"
    found = summary.get("encoding")
    if found is None:
        return Text(f"{told}: their tokens are priced as prompt tokens, the encoder is not simulated.", style="yellow")
    told += f": {found['items']:,} images encoded in {found['runs']:,} runs"
    if found["feature_hit_rate"]:
        told += f", {found['feature_hit_rate']:.1%} found again"
    parts = {"queue": "encode_queue_ms", "encode": "encode_ms", "features": "feature_ms", "wait": "queue_ms"}
    times = ", ".join(f"{name} {found[f'mean_{key}']:,.1f}" for name, key in parts.items())
    return Text(f"{told}. Means to the first token, ms: {times}, prompt {found['mean_prefill_ms']:,.1f}.")
