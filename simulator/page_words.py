"""A scenario and what came of it, in words for somebody who has not seen the file."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

__all__ = ["answer", "assumptions", "busiest", "changes", "deployment", "objective", "planned", "time_words"]

_BOUNDS: Final = (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("E2E", "e2e_ms"))
_PARALLEL: Final = (
    ("TP", "tensor_parallel"),
    ("PP", "pipeline_parallel"),
    ("DP", "data_parallel"),
    ("EP", "expert_parallel"),
)


def answer(summary: Mapping[str, Any], scenario: Mapping[str, Any]) -> tuple[str, bool | None]:
    """Return what came of a run in a sentence or two, and whether it meets its SLO; None where there is none."""
    served = (
        f"{summary['chips']:,} chips serve {summary['request_throughput']:.3g} requests/s of {summary['model_id']} "
        f"({summary['output_throughput']:,.0f} output tokens/s)"
    )
    wanted = objective(scenario["slo"])
    if not wanted:
        return f"{served}. No SLO was set.", None
    attained, target = summary["slo_attainment"], scenario["slo"]["attainment"]
    good = attained >= target
    verdict = "meets its SLO" if good else "misses its SLO"
    share = f"{_percent(attained)} of the requests have {wanted}, and {_percent(target)} must"
    return f"This deployment {verdict}: {share}. {served}.", good


def objective(slo: Mapping[str, Any]) -> str:
    """Return the bounds of an SLO in words; nothing, where there are none."""
    return ", ".join(f"{label} ≤ {slo[key]:,g} ms" for label, key in _BOUNDS if slo[key] is not None)


def assumptions(
    summary: Mapping[str, Any], manifest: Mapping[str, Any], requests: pd.DataFrame
) -> list[tuple[str, str]]:
    """Return a scenario in words: what each part of it is called, and what it says."""
    scenario = manifest["scenario"]
    rows = [
        ("model", _model(scenario["model"])),
        ("traffic", _traffic(scenario["workload"], summary)),
        ("lengths", _lengths(requests)),
    ]
    names = list(manifest["pools"])
    rows += [(f"pool {name}", deployment(pool)) for name, pool in zip(names, scenario["pool"], strict=True)]
    if summary["transfers"]["count"]:
        rows.append(("KV transfer", _transfer(scenario["network"], summary["transfers"])))
    rows.append(("SLO", f"{objective(scenario['slo']) or 'none'}, for {_percent(scenario['slo']['attainment'])}"))
    rows.append(("prices", _prices(scenario["cost"], summary["cost_per_hour"])))
    if any(summary["operations"].values()):
        happened = ", ".join(
            f"{name.replace('_', ' ')} {count:,}" for name, count in summary["operations"].items() if count
        )
        rows.append(("meanwhile", happened))
    return rows


def planned(scenario: Mapping[str, Any], requests: str, cost_per_hour: float | None) -> list[tuple[str, str]]:
    """Return a scenario in words before it is run: what each part of it is called, and what it says.

    Parameters
    ----------
    scenario
        As in ``manifest.json``.
    requests
        How many there are, and how long.
    cost_per_hour
        None without prices.
    """
    pools = scenario["pool"]
    rows = [("model", _model(scenario["model"])), ("traffic", f"{_kind(scenario['workload'])}; {requests}")]
    rows += [(f"pool {pool['name'] or number}", deployment(pool)) for number, pool in enumerate(pools)]
    if any(not {"prefill", "decode"} <= set(pool["stages"]) for pool in pools):
        rows.append(("KV transfer", _way(scenario["network"])))
    rows.append(("SLO", f"{objective(scenario['slo']) or 'none'}, for {_percent(scenario['slo']['attainment'])}"))
    return [*rows, ("prices", _prices(scenario["cost"], cost_per_hour))]


def changes(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what each candidate sets, in words."""
    return [
        (str(one["name"]), ", ".join(f"{key} = {value}" for key, value in one["set"].items()) or "as the scenario is")
        for one in candidates
    ]


def time_words(value_ms: float) -> str:
    """Return a time to three digits, in the unit that suits it."""
    return f"{value_ms / 1000:,.3g} s" if value_ms >= 1000 else f"{value_ms:.3g} ms"


def deployment(pool: Mapping[str, Any]) -> str:
    """Return a ``[[pool]]`` in words."""
    layout = [f"{label}{pool[key]}" for label, key in _PARALLEL if pool[key] > 1] or ["one chip each"]
    stages = " and ".join(pool["stages"])
    extra = [f"{key} {value}" for key, value in _unusual(pool)]
    words = f"{pool['replicas']} x {pool['engine']} on {pool['chip']}, {' '.join(layout)}"
    return "; ".join([words, stages, f"router {pool['router']}", *extra])


def _unusual(pool: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in (pool.get("limits") or {}).items():
        if value is not None:
            yield f"limits.{name}", f"{value:,}"
    if pool["power_cap"] != 1:
        yield "power cap", f"{pool['power_cap']:.0%} of TDP"
    if pool["calibration"] is not None:
        yield "calibrated", "to measurements of a server"


def _model(model: Mapping[str, Any]) -> str:
    formats = [f"{model[key]} {word}" for key, word in (("weights", "weights"), ("kv_cache", "KV cache")) if model[key]]
    return ", ".join([str(model["name"]), *formats])


def _traffic(workload: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    requests = f"{summary['num_prompts']:,} requests over {summary['duration']:,.0f} s"
    kind = _kind(workload)
    if workload["closed_loop"] is not None:
        return f"{workload['closed_loop']['concurrency']:,} {kind}; {requests}"
    if workload["trace"] is not None:
        scaled = "" if workload["rate_scale"] == 1 else f", {workload['rate_scale']:g} times as fast"
        return f"{kind}{scaled}; {requests}"
    arrivals = workload["synthetic"]["arrivals"]
    rate = f" of {arrivals['rate_per_s'] * workload['rate_scale']:g}/s" if "rate_per_s" in arrivals else ""
    return f"{kind}{rate}; {requests}"


def _kind(workload: Mapping[str, Any]) -> str:
    if workload["closed_loop"] is not None:
        return "users, each of whom sends a request when the last is answered"
    if workload["trace"] is not None:
        return f"trace {PurePath(workload['trace']).name}"
    synthetic = workload["synthetic"]
    sessions = "conversations" if synthetic["sessions"] else "requests"
    return f"{sessions} that arrive at random ({synthetic['arrivals']['kind']})"


def _lengths(requests: pd.DataFrame) -> str:
    def span(column: str) -> str:
        found = requests[column]
        middle, high = found.quantile([0.5, 0.99])
        return f"{found.mean():,.0f} tokens on average, median {middle:,.0f}, p99 {high:,.0f}"

    return f"prompts {span('prompt_tokens')}; answers {span('output_tokens')}"


def _transfer(network: Mapping[str, Any], transfers: Mapping[str, Any]) -> str:
    mean = transfers["bytes"] / max(1, transfers["count"]) / 1e6
    return f"{_way(network)}; {transfers['count']:,} transfers of {mean:,.0f} MB on average"


def _way(network: Mapping[str, Any]) -> str:
    kv = network["kv_transfer"]
    where = network["topology"] or "the node its chips usually come in"
    return f"{kv['mode']}, connector {kv['connector']}, over {where}"


def _prices(cost: Mapping[str, Any], cost_per_hour: float | None) -> str:
    if cost_per_hour is None:
        return "none given"
    chips = ", ".join(f"{chip} {price:g} per hour" for chip, price in cost["chip_hour"].items())
    power = f", energy {cost['energy_kwh']:g} per kWh" if cost["energy_kwh"] else ""
    return f"{chips}{power}; {cost_per_hour:,.2f} per hour in all"


def _percent(share: float) -> str:
    return f"{share:.2%}" if 0.99 < share < 1 else f"{share * 100:.3g}%"


def busiest(links: Mapping[str, Mapping[str, Any]], most: int = 8) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return the links that were used most, the busiest first."""
    return sorted(links.items(), key=lambda link: (-link[1]["utilisation"], link[0]))[:most]
