"""What runs are compared by: a few numbers of each summary."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from simulator.scenario import Slo

__all__ = ["BUSIEST_LINK", "MEASURES", "Measure", "means", "point_row", "slo_ms"]


class Measure(NamedTuple):
    """A number of a run.

    Attributes
    ----------
    key
        Its name in results.
    label
        Its name for a person.
    digits
        Decimals shown of a number below a thousand.
    scale
        What the number is multiplied by to be shown.
    """

    key: str
    label: str
    digits: int
    scale: float = 1.0


_LATENCIES: Final = (("TTFT", "ttft"), ("TPOT", "tpot"), ("E2E", "e2el"))

MEASURES: Final[tuple[Measure, ...]] = (
    *(
        Measure(f"p{q}_{key}_ms", f"{label} p{q}, ms", 2 if key == "tpot" else 1)
        for label, key in _LATENCIES
        for q in (50, 99)
    ),
    Measure("request_goodput", "goodput, requests/s", 3),
    Measure("slo_attainment", "SLO attainment, %", 2, 100.0),
    Measure("goodput_per_chip", "goodput per chip", 4),
    Measure("cost_per_million_output_tokens", "cost per million output tokens", 3),
    Measure("cost_per_slo_met_request", "cost per 1,000 SLO-met requests", 3, 1000.0),
    Measure("cost_per_hour", "cost per hour", 2),
    Measure("provisioned_power_w", "provisioned power, kW", 2, 1e-3),
    Measure("mean_power_w", "mean power, kW", 2, 1e-3),
    Measure("peak_power_w", "peak power, kW", 2, 1e-3),
    Measure("energy_wh_per_request", "energy per request, Wh", 3),
)
"""What candidates are compared by, in the order shown."""


BUSIEST_LINK: Final = ("busiest_link_utilisation", "busiest_link_peak_utilisation")
"""How busy the busiest link was, on average and in its busiest window; None where nothing is handed over."""


def point_row(summary: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Return a run as one row: every plain number of its summary, and what follows from them.

    ``utilisation`` is the share of time all chips are busy, ``utilisation_NAME`` that of one pool;
    ``cost_per_slo_met_request`` is the cost per second over the goodput, None without prices or goodput;
    ``skipped_trace_rows`` is how many rows of a trace could not be used.
    """
    row: dict[str, float | int | None] = {
        key: value for key, value in summary.items() if isinstance(value, int | float)
    }
    row |= {key: summary[key] for key in ("cost_per_hour", "cost_per_million_output_tokens")}
    row["cost_per_slo_met_request"] = _cost_per_good_request(summary)
    row["utilisation"] = _utilisation(summary)
    row["skipped_trace_rows"] = sum(summary["skipped_rows"].values())
    row |= {key: summary[key] for key in BUSIEST_LINK}
    return row | {f"utilisation_{name}": pool["utilisation"] for name, pool in summary["pools"].items()}


def _utilisation(summary: Mapping[str, Any]) -> float:
    """Return the pools' shares of time busy, weighted by their chips."""
    pools = summary["pools"].values()
    return float(sum(pool["utilisation"] * pool["chips"] for pool in pools) / sum(pool["chips"] for pool in pools))


def slo_ms(slo: Slo) -> dict[str, float | None]:
    """Return the latency bounds of an SLO, ms, by metric; None for no bound."""
    return {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2el": slo.e2e_ms}


def means(rows: Sequence[Mapping[str, float | int | None]], keys: Sequence[str]) -> dict[str, float | None]:
    """Return the mean over seeds of some numbers; None where a seed has none."""
    found: dict[str, float | None] = {}
    for key in keys:
        values = [row[key] for row in rows]
        known = [value for value in values if value is not None]
        found[key] = statistics.fmean(known) if len(known) == len(values) else None
    return found


def _cost_per_good_request(summary: Mapping[str, Any]) -> float | None:
    per_million, goodput = summary["cost_per_million_output_tokens"], summary["request_goodput"]
    if per_million is None or not goodput:
        return None
    return float(per_million * summary["output_throughput"] / 1e6 / goodput)
