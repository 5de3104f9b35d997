"""Cost source over the measured kernel tables of the installed ``aiconfigurator-core`` package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.interpolate import Curve, blend
from perfdb.operators import AllReduce, Attention, Gemm, Kernel, RowOperator
from perfdb.speed_of_light import attention_bound, gemm_bound
from perfdb.tables import find_table, installed_root, read_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from hardware.catalogue import Chip

__all__ = ["SiliconSource"]

#: Weight formats by the name the tables give them.
_GEMM_FORMATS = {
    "bf16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "int8": "int8_wo",
    "int4": "int4_wo",
}
_KV_FORMATS = {"bf16": "bfloat16", "fp8": "fp8"}
#: Chips whose folder in the database has another name.
_SYSTEMS = {"a100_80_sxm": "a100_sxm"}
_NS_PER_MS = 1e6


class SiliconSource:
    """Prices from measured tables, interpolated inside their grid and held in utilisation outside.

    Parameters
    ----------
    chip
        The chip to price; one without tables prices nothing.
    framework
        Whose kernels: ``vllm``, ``sglang`` or ``trtllm``.
    root
        The ``systems`` folder; None takes the installed package's.
    """

    def __init__(self, chip: Chip, framework: str, root: Path | None = None) -> None:
        self.chip = chip
        self.framework = framework
        self.root = root or installed_root()
        self.files: list[Path] = []
        self._sites: dict[str, _Sites | None] = {}
        self._curves: dict[Attention, tuple[Attention, dict[int, Curve]] | None] = {}

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate | None:
        """Return measured projections and all-reduces; None for every other operator."""
        if isinstance(operator, Gemm):
            return self._gemm(operator, rows)
        if isinstance(operator, AllReduce):
            return self._all_reduce(operator, rows)
        return None

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate | None:
        """Return measured attention, from the nearest head counts where the exact ones were not measured."""
        if not isinstance(operator, Attention):
            return None
        if operator not in self._curves:
            self._curves[operator] = self._measured_curves(operator)
        found = self._curves[operator]
        if found is None:
            return None
        nearest, curves = found
        estimate = _over_batches(self.chip, nearest, curves, batch, tokens)
        if nearest == operator:
            return estimate
        ratio = (
            attention_bound(self.chip, operator, batch, tokens).ns
            / attention_bound(self.chip, nearest, batch, tokens).ns
        )
        return Estimate.of(estimate.ns * ratio, Origin.EXTRAPOLATED)

    def _read(
        self, family: str, table: str, columns: tuple[str, ...], framework: str | None = None
    ) -> Mapping[str, NDArray[Any]] | None:
        if self.root is None:
            return None
        system = _SYSTEMS.get(self.chip.name, self.chip.name)
        path = find_table(self.root, system, family, framework or self.framework, table)
        if path is None:
            return None
        if path not in self.files:
            self.files.append(path)
        return read_table(path, columns)

    def _gemm(self, gemm: Gemm, rows: NDArray[np.int64]) -> Estimate | None:
        if gemm.weights not in self._sites:
            self._sites[gemm.weights] = self._measured_sites(gemm.weights)
        sites = self._sites[gemm.weights]
        return sites.estimate(self.chip, gemm, rows) if sites else None

    def _measured_sites(self, weights: str) -> _Sites | None:
        table = self._read("gemm", "gemm", ("gemm_dtype", "m", "n", "k", "latency"))
        if table is None or weights not in _GEMM_FORMATS:
            return None
        chosen = table["gemm_dtype"] == _GEMM_FORMATS[weights]
        if not chosen.any():
            return None
        n, k, m, latency = (table[name][chosen] for name in ("n", "k", "m", "latency"))
        return _Sites(n, k, m, latency * _NS_PER_MS)

    def _all_reduce(self, operator: AllReduce, rows: NDArray[np.int64]) -> Estimate | None:
        table = self._read("comm", "custom_allreduce", ("num_gpus", "message_size", "latency", "backend"))
        if table is None:
            return None
        chosen = (table["num_gpus"] == operator.chips) & _captured(table)
        if not chosen.any():
            return None
        curve = Curve.through(table["message_size"][chosen], table["latency"][chosen] * _NS_PER_MS)
        return curve.estimate(rows * operator.width, lambda size: np.maximum(size, 1).astype(np.float64))

    def _attention_table(self, name: str, length: str) -> Mapping[str, NDArray[Any]] | None:
        shape = ("num_heads", "num_key_value_heads", "head_dim", "window_size")
        table = self._read("attention", name, ("batch_size", length, *shape, "kv_cache_dtype", "latency"))
        if table is None or "window_size" in table:
            return table
        # Engine versions before sliding windows were measured: the A100 tables.
        return {**table, "window_size": np.zeros_like(table["head_dim"])}

    def _measured_curves(self, operator: Attention) -> tuple[Attention, dict[int, Curve]] | None:
        context = operator.name == "context_attention"
        length = "isl" if context else "step"
        table = self._attention_table(operator.name, length)
        if table is None:
            return None
        usable = (table["kv_cache_dtype"] == _KV_FORMATS[operator.kv_cache]) & (table["head_dim"] == operator.head_dim)
        nearest = _nearest_heads(operator, table, usable)
        if nearest is None:
            return None
        chosen = usable & (table["num_heads"] == nearest.heads)
        chosen &= (table["num_key_value_heads"] == nearest.kv_heads) & (table["window_size"] == nearest.window)
        batches, lengths, ns = (table[name][chosen] for name in ("batch_size", length, "latency"))
        return nearest, {
            int(b): Curve.through(
                lengths[batches == b], ns[batches == b] * _NS_PER_MS, quadratic=context, streams=not context
            )
            for b in np.unique(batches)
        }


def _captured(table: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Tell which all-reduces ran in a graph: eager ones hold launch time of the host, which engines hide."""
    if "backend" not in table:  # TensorRT-LLM's tables: one kind only
        return np.ones(len(table["latency"]), bool)
    return np.array([not str(name).endswith("_eager") for name in table["backend"]], bool)


def _nearest_heads(
    operator: Attention, table: Mapping[str, NDArray[Any]], usable: NDArray[np.bool_]
) -> Attention | None:
    """Return the operator itself if it was measured, else its nearest kin in head counts, or None."""
    columns = (table["num_heads"][usable], table["num_key_value_heads"][usable], table["window_size"][usable])
    shapes = np.unique(np.stack(columns, axis=1), axis=0)
    if not len(shapes):
        return None
    wanted = np.array([operator.heads, operator.kv_heads], float)
    # Doublings away in query heads and in KV heads; another window only when no other choice is left.
    distance = np.abs(np.log2(shapes[:, :2] / wanted)).sum(axis=1)
    distance += np.where(shapes[:, 2] == operator.window, 0.0, np.where(shapes[:, 2] == 0, 100.0, 1000.0))
    heads, kv_heads, window = (int(x) for x in shapes[np.argmin(distance)])
    return Attention(operator.name, heads, kv_heads, operator.head_dim, operator.kv_cache, window, operator.count)


def _over_batches(
    chip: Chip,
    operator: Attention,
    curves: Mapping[int, Curve],
    batch: NDArray[np.int64],
    tokens: NDArray[np.int64],
) -> Estimate:
    """Interpolate between the curves of the measured batch sizes; beyond the last hold its utilisation.

    Large batches were measured up to shorter lengths only. Where a batch's own curve has ended, a kernel over
    more sequences of one length is at least as well utilised as over fewer.
    """
    measured = np.array(sorted(curves), np.int64)
    inside = np.clip(batch, measured[0], measured[-1])
    high = np.searchsorted(measured, inside)
    low = np.where(measured[high] == inside, high, high - 1)
    rows = [_row(chip, operator, int(b), curves[int(b)], tokens) for b in measured]
    ns = np.stack([row.ns for row in rows])
    origin = np.stack([row.origin for row in rows])
    bound = np.stack([attention_bound(chip, operator, np.full(len(tokens), b), tokens).ns for b in measured])
    for i in range(1, len(measured)):
        ended = origin[i] == Origin.EXTRAPOLATED
        ns[i] = np.where(ended, np.minimum(ns[i], ns[i - 1] * bound[i] / bound[i - 1]), ns[i])
    point = np.arange(len(batch))
    span = np.maximum(measured[high] - measured[low], 1)
    found = blend(
        Estimate(ns[low, point], origin[low, point]),
        Estimate(ns[high, point], origin[high, point]),
        (inside - measured[low]) / span,
    )
    beyond = attention_bound(chip, operator, batch, tokens).ns / attention_bound(chip, operator, inside, tokens).ns
    return Estimate(found.ns * beyond, np.where(batch > inside, Origin.EXTRAPOLATED, found.origin).astype(np.uint8))


def _row(chip: Chip, operator: Attention, batch: int, curve: Curve, tokens: NDArray[np.int64]) -> Estimate:
    return curve.estimate(tokens, lambda at: attention_bound(chip, operator, np.full(len(at), batch), at).ns)


class _Sites:
    """The (n, k) sites of a projection table; a shape between sites borrows their utilisation."""

    def __init__(
        self, n: NDArray[np.int64], k: NDArray[np.int64], m: NDArray[np.int64], ns: NDArray[np.float64]
    ) -> None:
        self.n, self.k, self.m, self.ns = n, k, m, ns

    def estimate(self, chip: Chip, gemm: Gemm, rows: NDArray[np.int64]) -> Estimate | None:
        """Return the projection's cost: its own curve if measured, else the sites around it."""
        if self._measured(gemm.n, gemm.k):
            return self._curve(gemm.n, gemm.k).estimate(rows, lambda at: gemm_bound(chip, gemm, at).ns)
        utilisation = np.zeros(len(rows))
        total, inside = 0.0, True
        for n, weight_n, inside_n in _around(np.unique(self.n), gemm.n):
            for k, weight_k, inside_k in _around(np.unique(self.k), gemm.k):
                weight = weight_n * weight_k
                inside &= inside_n and inside_k
                if weight and self._measured(n, k):
                    utilisation += weight * self._utilisation(chip, Gemm(gemm.name, n, k, gemm.weights), rows)
                    total += weight
        if not total:
            return None
        between = rows <= self.m.max() if inside and total > 0.999 else np.zeros(len(rows), bool)
        origin = np.where(between, Origin.INTERPOLATED, Origin.EXTRAPOLATED).astype(np.uint8)
        return Estimate(gemm_bound(chip, gemm, rows).ns * total / utilisation, origin)

    def _measured(self, n: int, k: int) -> bool:
        return bool(((self.n == n) & (self.k == k)).any())

    def _curve(self, n: int, k: int) -> Curve:
        site = (self.n == n) & (self.k == k)
        return Curve.through(self.m[site], self.ns[site]).without_slow_starts()

    def _utilisation(self, chip: Chip, site: Gemm, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        bound = gemm_bound(chip, site, rows).ns
        return bound / self._curve(site.n, site.k).estimate(rows, lambda at: gemm_bound(chip, site, at).ns).ns


def _around(measured: NDArray[np.int64], wanted: int) -> list[tuple[int, float, bool]]:
    """Return the measured sizes on both sides with their weight in log space, and whether both exist."""
    inside = bool(measured[0] <= wanted <= measured[-1])
    clipped = min(max(wanted, int(measured[0])), int(measured[-1]))
    high = int(np.searchsorted(measured, clipped))
    if measured[high] == clipped:
        return [(clipped, 1.0, inside)]
    low_size, high_size = int(measured[high - 1]), int(measured[high])
    weight = float(np.log2(clipped / low_size) / np.log2(high_size / low_size))
    return [(low_size, 1 - weight, inside), (high_size, weight, inside)]
