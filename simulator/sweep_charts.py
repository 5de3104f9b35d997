"""The charts of the report of a sweep: what comes of a deployment, or of several, by load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simulator.charts import Axis, Chart, Curve
from simulator.page_curves import span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["candidate_charts", "load_charts"]

_LOADS: Final = {"rate": "offered load, requests/s", "concurrency": "concurrent users"}
#: From here on latencies are in seconds.
_LONG_MS: Final = 10_000
_LATENCIES: Final = (("TTFT", "ttft", (50, 99)), ("TPOT", "tpot", (50, 99)), ("E2E", "e2el", (99,)))


def load_charts(content: Mapping[str, Any]) -> list[Chart]:
    """Return attainment, requests, utilisation and latencies of one deployment by load, its capacity marked.

    Parameters
    ----------
    content
        The content of the ``sweep.json`` of one scenario.
    """
    loads = _column(content["loads"], content["kind"])
    attained = [Curve("mean" if len(content["seeds"]) > 1 else "requests within", loads, _mean(content, _ATTAINED))]
    if len(content["seeds"]) > 1:
        ends = (("lowest seed", "lowest_attainment"), ("highest seed", "highest_attainment"))
        attained += [Curve(name, loads, _column(content["loads"], key)) for name, key in ends]
    done = {"all that finish": "request_throughput", "within the SLO": "request_goodput"}
    busy = {"instances": "utilisation", "busiest link": "busiest_link_utilisation"}
    x, capacity = _axis(content["kind"], loads), _capacity(content)
    return [
        _attainment("SLO attainment", x, attained, content["attainment"], capacity),
        _rising("Requests finished per second", "requests/s", x, _curves(content, done), capacity),
        Chart("Time busy", x, Axis("share", 0, 1, percent=True), _curves(content, busy), at_x=capacity),
        *(
            _latency(label, x, _curves(content, {f"p{q}": f"p{q}_{key}_ms" for q in shown}), content["slo_ms"][key])
            for label, key, shown in _LATENCIES
        ),
    ]


def candidate_charts(content: Mapping[str, Any]) -> list[Chart]:
    """Return attainment, and p99 of TTFT and TPOT, of several deployments by load, a curve for each.

    Where they have different numbers of chips, one more chart has the attainment by load per chip.

    Parameters
    ----------
    content
        The content of the ``sweep.json`` of several candidates.
    """
    candidates, kind = content["candidates"], content["kind"]
    whole = {one["name"]: _column(one["loads"], kind) for one in candidates}
    share = {one["name"]: whole[one["name"]] / one["chips"] for one in candidates}
    found = []
    sizes_differ = len({one["chips"] for one in candidates}) > 1
    for title, loads, per in (("", whole, ""), (" by load per chip", share, " per chip"))[: 1 + sizes_differ]:
        x = _axis(kind, np.concatenate([*loads.values()]), per)
        curves = [Curve(one["name"], loads[one["name"]], _mean(one, _ATTAINED)) for one in candidates]
        found.append(_attainment(f"SLO attainment{title}", x, curves, content["attainment"], []))
    x = _axis(kind, np.concatenate([*whole.values()]))
    for label, key, _ in _LATENCIES[:2]:
        curves = [Curve(one["name"], whole[one["name"]], _mean(one, f"p99_{key}_ms")) for one in candidates]
        found.append(_latency(f"{label}, p99", x, curves, content["slo_ms"][key]))
    return found


_ATTAINED: Final = "slo_attainment"


def _column(loads: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    return np.array([load[key] for load in loads], dtype=np.float64)


def _mean(content: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    return _column([load["mean"] for load in content["loads"]], key)


def _curves(content: Mapping[str, Any], names: Mapping[str, str]) -> list[Curve]:
    """Return curves by load by what they are called; none, of what is not there."""
    loads = _column(content["loads"], content["kind"])
    found = [Curve(name, loads, _mean(content, key)) for name, key in names.items()]
    return [curve for curve in found if np.isfinite(curve.y).any()]


def _axis(kind: str, loads: NDArray[np.float64], per: str = "") -> Axis:
    low, high = float(loads.min()), float(loads.max())
    return Axis(f"{_LOADS[kind]}{per}", low if high > low else 0.0, high)


def _capacity(content: Mapping[str, Any]) -> list[tuple[float, str]]:
    found = content["capacity"]
    return [] if found is None else [(found, f"capacity {found:g}")]


def _attainment(
    title: str, x: Axis, curves: Sequence[Curve], wanted: float, capacity: Sequence[tuple[float, str]]
) -> Chart:
    y = Axis("requests within", 0, 1, percent=True)
    return Chart(title, x, y, curves, at_x=capacity, at_y=[(wanted, f"{wanted * 100:.4g}% wanted")])


def _rising(title: str, unit: str, x: Axis, curves: Sequence[Curve], capacity: Sequence[tuple[float, str]]) -> Chart:
    top = max((float(np.nanmax(curve.y)) for curve in curves), default=0.0)
    return Chart(title, x, Axis(unit, 0, 1.08 * top or 1.0), curves, at_x=capacity)


def _latency(label: str, x: Axis, curves: Sequence[Curve], bound: float | None) -> Chart:
    top = max((float(np.nanmax(curve.y, initial=0.0)) for curve in curves), default=0.0)
    unit, scale = ("s", 1e-3) if top >= _LONG_MS else ("ms", 1.0)
    scaled = [Curve(curve.name, curve.x, curve.y * scale) for curve in curves]
    y = span(unit, [curve.y for curve in scaled], None if bound is None else bound * scale)
    shown = bound is not None and y.low <= bound * scale <= y.high
    at_y = [(bound * scale, f"SLO {bound * scale:,g} {unit}")] if shown and bound is not None else []
    return Chart(label, x, y, scaled, at_y=at_y)
