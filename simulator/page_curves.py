"""The charts of a report: distributions, the share of requests within an SLO, and a run over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from simulator.charts import Axis, Chart, Curve
from simulator.timeline import LINK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["cdf_charts", "slack_chart", "span", "time_charts", "within"]

LATENCIES: Final = (("TTFT", "ttft_ms", "ttft"), ("TPOT", "tpot_ms", "tpot"), ("E2E", "e2e_ms", "e2el"))
#: Shares at which a distribution is drawn: closer where the tail is.
_SHARES: Final = np.concatenate([np.linspace(0, 0.96, 97), np.linspace(0.965, 1, 36)])
_MOST_POOLS: Final = 6
_WIDEST: Final = 16.0


def cdf_charts(tables: Mapping[str, pd.DataFrame], slo_ms: Mapping[str, float | None]) -> list[Chart]:
    """Return the distributions of TTFT, TPOT and E2E of the measured requests that finished, of one run or several.

    Parameters
    ----------
    tables
        Tables of requests, by what their curves are called.
    slo_ms
        Bounds by ``ttft``, ``tpot`` and ``e2el``, ms, None for no bound.
    """
    found = []
    for label, column, key in LATENCIES:
        sorted_ms = {name: _counted(table, column) for name, table in tables.items()}
        curves = [
            Curve(name, np.quantile(values, _SHARES), _SHARES) for name, values in sorted_ms.items() if len(values)
        ]
        bound = slo_ms.get(key)
        axis = span(f"{label}, ms", [curve.x for curve in curves], bound)
        at_x = [] if bound is None else [(bound, f"SLO {bound:,g} ms")]
        found.append(Chart(f"{label}: share of requests", axis, Axis("share", 0, 1, percent=True), curves, at_x=at_x))
    return found


def slack_chart(
    tables: Mapping[str, pd.DataFrame], slo_ms: Mapping[str, float | None], attainment: float
) -> Chart | None:
    """Return the share of requests within the SLO if all its bounds were so many times as wide; None without bounds."""
    if not any(slo_ms.values()):
        return None
    needed = {name: _needed(table, slo_ms) for name, table in tables.items()}
    every = np.concatenate([[0.5, 2.0], *(values[np.isfinite(values)] for values in needed.values())])
    low, high = np.clip([every.min(), np.quantile(every, 0.9995)], 1 / _WIDEST, _WIDEST)
    factors = np.geomspace(low, max(high, 2.0), 161)
    curves = [
        Curve(name, factors, np.searchsorted(values, factors, side="right") / max(1, len(_measured(tables[name]))))
        for name, values in needed.items()
    ]
    return Chart(
        "SLO attainment, were all bounds wider or narrower",
        Axis("bounds, times those of the SLO", float(factors[0]), float(factors[-1]), log=True),
        Axis("requests within", 0, 1, percent=True),
        curves,
        at_x=[(1.0, "the SLO")],
        at_y=[(attainment, f"{attainment:.0%} wanted")],
    )


def within(table: pd.DataFrame, slo_ms: Mapping[str, float | None], attainment: float) -> float | None:
    """Return how many times as wide the bounds need to be for the wanted share of requests; None if none is enough."""
    if not any(slo_ms.values()):
        return None
    needed, measured = _needed(table, slo_ms), len(_measured(table))
    rank = int(np.ceil(attainment * measured)) - 1
    return float(needed[rank]) if 0 <= rank < len(needed) and np.isfinite(needed[rank]) else None


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["measured"]]


def _counted(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return np.sort(table.loc[table["measured"] & table["completed"], column].dropna().to_numpy(np.float64))


def _needed(table: pd.DataFrame, slo_ms: Mapping[str, float | None]) -> NDArray[np.float64]:
    """Return, sorted, how many times as wide the bounds need to be for each measured request that finished."""
    done = table[table["measured"] & table["completed"]]
    ratios = [
        done[column].fillna(0.0).to_numpy(np.float64) / bound
        for _, column, key in LATENCIES
        if (bound := slo_ms.get(key)) is not None
    ]
    return np.sort(np.max(ratios, axis=0))


def span(label: str, values: Sequence[NDArray[np.float64]], bound: float | None) -> Axis:
    """Return an axis for some values, and for their bound if it is not far away; logarithmic, if they lie far apart.

    Parameters
    ----------
    label
        What it measures, with its unit.
    values
        What is drawn; NaN and 0 are not.
    bound
        None for no bound.
    """
    every = np.concatenate([[], *values])
    positive = every[every > 0]
    if not len(positive):
        return Axis(label, 0, bound or 1.0)
    low, high = float(positive.min()), float(positive.max())
    if bound is not None and bound < 4 * high:
        low, high = min(low, 0.95 * bound), max(high, 1.05 * bound)
    if high > 20 * low:
        return Axis(label, low, high, log=True)
    margin = 0.03 * (high - low) or 0.05 * high
    return Axis(label, max(0.0, low - margin), high + margin)


def time_charts(table: pd.DataFrame, slo_ms: Mapping[str, float | None], warmup_s: float) -> list[Chart]:
    """Return requests, queues, latencies, pools, KV and links over the windows of a run.

    Parameters
    ----------
    table
        The columns of ``timeline.parquet``.
    slo_ms
        Bounds by ``ttft``, ``tpot`` and ``e2el``, ms, None for no bound.
    warmup_s
        The warm-up, shaded.
    """
    lengths = (table["end_s"] - table["start_s"]).to_numpy(np.float64)
    rates = {name: table[name].to_numpy(np.float64) / lengths for name in ("arrived", "finished")}
    if table["failed"].any():
        rates["refused or failed"] = table["failed"].to_numpy(np.float64) / lengths
    waiting = {f"{name} waiting": values for name, values in _by(table, "queued_").items()}
    running = {f"{name} running": values for name, values in _by(table, "running_").items()}
    drawn = [
        ("Requests arriving and finishing", "requests/s", rates, None),
        ("Requests waiting and running", "requests", running | waiting, None),
        ("TTFT", "ms", _columns(table, p50="p50_ttft_ms", p99="p99_ttft_ms"), slo_ms.get("ttft")),
        ("TPOT, p99", "ms", _columns(table, p99="p99_tpot_ms"), slo_ms.get("tpot")),
        ("Instances busy", "", _by(table, "utilisation_"), None),
        ("KV cache filled by requests in progress", "", _by(table, "kv_held_"), None),
    ]
    links = _by(table, LINK)
    if links:
        drawn.append(("Busiest links in use", "", links, None))
    return [_over_time(table, *one, warmup_s=warmup_s) for one in drawn]


def _columns(table: pd.DataFrame, **names: str) -> dict[str, NDArray[np.float64]]:
    return {label: table[name].to_numpy(np.float64) for label, name in names.items()}


def _by(table: pd.DataFrame, measure: str) -> dict[str, NDArray[np.float64]]:
    """Return a measure of every pool or link, by its name; of very many, the first ones."""
    found = [str(name) for name in table.columns if str(name).startswith(measure)]
    return {name.removeprefix(measure): table[name].to_numpy(np.float64) for name in found[:_MOST_POOLS]}


def _over_time(  # noqa: PLR0913 - what a chart shows
    table: pd.DataFrame,
    title: str,
    unit: str,
    values: Mapping[str, NDArray[np.float64]],
    bound: float | None,
    *,
    warmup_s: float,
) -> Chart:
    edges = np.append(table["start_s"].to_numpy(np.float64), float(table["end_s"].iloc[-1]))
    curves = [Curve(name, edges, np.append(column, column[-1]), steps=True) for name, column in values.items()]
    highest = max((float(np.nanmax(column, initial=0.0)) for column in values.values()), default=0.0)
    shown = bound is not None and bound < 4 * highest
    top = max(highest, bound or 0.0) if shown else highest
    share = not unit
    high = 1.0 if share and top > 0.4 else 1.08 * top or 1.0
    return Chart(
        title,
        Axis("time, s", 0.0, float(edges[-1])),
        Axis(unit or "share", 0.0, high, percent=share),
        curves,
        at_y=[(bound, f"SLO {bound:,g} ms")] if shown and bound is not None else [],
        shaded=[(0.0, warmup_s)] if warmup_s > 0 else [],
    )
