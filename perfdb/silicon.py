"""Cost source over measured kernel tables: those of the installed ``aiconfigurator-core``, or a folder like it."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from perfdb.collectives import between_nodes_ns, group_of
from perfdb.estimate import Estimate, Origin
from perfdb.expert_operators import ExpertExchange, RoutedExperts
from perfdb.interpolate import Curve, blend
from perfdb.operators import AllReduce, Attention, Collective, Gemm, Kernel, RowOperator, as_collective, as_nccl
from perfdb.points import Points
from perfdb.screening import Verdict, possible, screened, slowest_sibling
from perfdb.silicon_exchange import exchange_curve, exchange_tables
from perfdb.silicon_experts import ExpertCurves, expert_curves
from perfdb.sites import Sites
from perfdb.speed_of_light import attention_bound, attention_light, collective_light, gemm_bounds
from perfdb.tables import TableSet, installed_root, read_points, read_table, system_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from hardware.catalogue import Chip

__all__ = ["GEMM_FORMATS", "KV_FORMATS", "SiliconSource"]

#: Weight formats by the name the tables give them.
GEMM_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "bf16": "bfloat16",
        "fp8": "fp8",
        "fp8_block": "fp8_block",
        "nvfp4": "nvfp4",
        "int8": "int8_wo",
        "int4": "int4_wo",
    }
)
KV_FORMATS: Mapping[str, str] = MappingProxyType({"bf16": "bfloat16", "fp8": "fp8"})
#: Collectives by the name NCCL's tables give them; elements by their bytes.
_NCCL_KINDS = {"all_to_all": "alltoall"}
_NCCL_ELEMENTS = {2: "half", 1: "int8"}
_NS_PER_MS = 1e6


class SiliconSource:
    """Prices from measured tables, interpolated inside their grid and held in utilisation outside.

    Rows that cannot be (:mod:`perfdb.screening`) are set aside; what lies around them is not known.

    Parameters
    ----------
    chip
        The chip to price; one without tables prices nothing.
    framework
        Whose kernels: ``vllm``, ``sglang`` or ``trtllm``.
    root
        The ``systems`` folder; None takes the installed package's.
    release
        Release of the engine; None takes the version the database calls current.
    """

    def __init__(self, chip: Chip, framework: str, root: Path | None = None, release: str | None = None) -> None:
        self.chip = chip
        self.tables = TableSet(root or installed_root(), system_of(chip.name), framework, release)
        self.files: list[Path] = []
        self.set_aside: dict[Path, dict[str, int]] = {}
        self._sites: dict[str, Sites | None] = {}
        self._curves: dict[Attention, tuple[Attention, dict[int, Curve]] | None] = {}
        self._experts: list[ExpertCurves] = []
        self._messages: dict[tuple[str, str, int, int], Curve | None] = {}

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate | None:
        """Return measured projections, experts and collectives; None for every other operator."""
        if isinstance(operator, Gemm):
            return self._gemm(operator, rows)
        if isinstance(operator, RoutedExperts):
            return self._routed(operator, rows)
        if isinstance(operator, ExpertExchange):
            return self._exchange(operator, rows)
        if isinstance(operator, AllReduce | Collective):
            return self._collective(operator, rows)
        return None

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate | None:
        """Return measured attention, from the nearest head counts where the exact ones were not measured."""
        if not isinstance(operator, Attention):
            return None
        if operator not in self._curves:
            self._curves[operator] = self.attention_curves(operator)
        found = self._curves[operator]
        if found is None:
            return None
        nearest, curves = found
        alike = _sequences_alike(operator, nearest, batch)
        estimate = over_batches(self.chip, nearest, curves, alike, tokens)
        if nearest == operator:
            return estimate
        return as_utilised(self.chip, estimate, (nearest, alike), (operator, batch), tokens)

    def attention_curves(self, operator: Attention) -> tuple[Attention, dict[int, Curve]] | None:
        """Return the nearest operator that was measured and its curves by batch size, or None."""
        context = operator.name == "context_attention"
        path = self._find("attention", operator.name)
        points = path and read_points(
            path,
            ("num_heads", "num_key_value_heads", "window_size", "batch_size"),
            "isl" if context else "step",
            (("kv_cache_dtype", KV_FORMATS[operator.kv_cache]), ("head_dim", operator.head_dim)),
        )
        if not path or not points:
            return None
        nearest = _nearest_heads(operator, points.shape[:, :3])
        points = points.where((points.shape[:, :3] == (nearest.heads, nearest.kv_heads, nearest.window)).all(axis=1))
        verdict = screened(points, attention_light(self.chip, nearest, points.shape[:, 3], points.at))
        self._note(path, verdict)
        curves = {
            shape[-1]: Curve.sound(
                points.at[place], points.ns[place], verdict[place], quadratic=context, streams=not context
            )
            for shape, place in points.curves()
        }
        sound = {batch: curve for batch, curve in curves.items() if curve is not None}
        return (nearest, sound) if sound else None

    def _find(self, family: str, table: str, framework: str | None = None) -> Path | None:
        path = self.tables.find(family, table, framework)
        if path is not None and path not in self.files:
            self.files.append(path)
        return path

    def _note(self, path: Path, verdict: NDArray[np.uint8]) -> None:
        """Count what was screened of a table, and what was set aside for which reason."""
        counts = self.set_aside.setdefault(path, {"rows": 0})
        counts["rows"] += len(verdict)
        for kind in Verdict:
            rows = int((verdict == kind).sum())
            if rows and kind is not Verdict.SOUND:
                counts[kind.name.lower()] = counts.get(kind.name.lower(), 0) + rows

    def _gemm(self, gemm: Gemm, rows: NDArray[np.int64]) -> Estimate | None:
        if gemm.weights not in self._sites:
            self._sites[gemm.weights] = self._measured_sites(gemm.weights)
        sites = self._sites[gemm.weights]
        return sites.estimate(self.chip, gemm, rows) if sites else None

    def _measured_sites(self, weights: str) -> Sites | None:
        path = self._find("gemm", "gemm") if weights in GEMM_FORMATS else None
        siblings = tuple(table for one in self.tables.siblings if (table := one.find("gemm", "gemm")))
        if path is None or (sites := _sites(self.chip, weights, path, siblings)) is None:
            return None
        self.files.extend(table for table in siblings if table not in self.files)
        self._note(path, sites.verdict)
        return sites

    def _routed(self, experts: RoutedExperts, rows: NDArray[np.int64]) -> Estimate | None:
        if experts.dispatched and (found := self._dispatched(experts, rows)) is not None:
            return found
        curves = self._expert_curves("moe", experts)
        return curves.estimate(self.chip, experts, rows) if curves else None

    def _dispatched(self, experts: RoutedExperts, rows: NDArray[np.int64]) -> Estimate | None:
        """Return the cost of experts over tokens that DeepEP brought: padded per expert where they are few."""
        few, many = (self._expert_curves(f"wideep_{kind}_moe", experts) for kind in ("generation", "context"))
        if few is None or many is None:
            return None
        short, long = (curves.estimate(self.chip, experts, rows) for curves in (few, many))
        if short is None or long is None or experts.stage:
            return long if experts.stage == "prefill" else short
        is_short = experts.tokens(rows) <= few.reach(experts)
        return Estimate(np.where(is_short, short.ns, long.ns), np.where(is_short, short.origin, long.origin))

    def _expert_curves(self, table: str, experts: RoutedExperts) -> ExpertCurves | None:
        # The current release's, whichever is priced: earlier tables time the kernel their script called, not the one
        # the engine picks (docs/decisions/024-experts.md).
        path = self._find("moe", table, self.tables.framework)
        curves = expert_curves(self.chip, path, experts) if path else None
        if path is not None and curves is not None and curves not in self._experts:
            self._experts.append(curves)
            self._note(path, curves.verdict)
        return curves

    def _exchange(self, exchange: ExpertExchange, rows: NDArray[np.int64]) -> Estimate | None:
        """Return a measured exchange, or NCCL's all-to-all of as many bytes where none was measured at all."""
        if not exchange_tables(self.tables):
            return self._collective(as_collective(exchange), rows)
        return self.exchange_among(exchange, rows)

    def exchange_among(
        self, exchange: ExpertExchange, rows: NDArray[np.int64], *, fewer: bool = False
    ) -> Estimate | None:
        """Return a measured exchange among as many chips or, if asked, among another number of the same node."""
        curve = exchange_curve(self.chip, self.tables, exchange, among_fewer=fewer)
        if curve is None:
            return None
        self.files.extend(path for _, path in exchange_tables(self.tables) if path not in self.files)
        return curve.estimate(exchange, rows)

    def _collective(self, operator: AllReduce | Collective, rows: NDArray[np.int64]) -> Estimate | None:
        group = group_of(self.chip, operator.chips)
        inside = group.inside
        if group.nodes > 1 and isinstance(operator, AllReduce):
            # Engines' own all-reduces write to memory of peers, which ends with the node.
            operator = as_nccl(operator)
        table = "custom_allreduce" if isinstance(operator, AllReduce) else "nccl"
        key = table, operator.kind, inside, operator.element_bytes
        if key not in self._messages:
            self._messages[key] = self._measured_messages(*key)
        curve = self._messages[key]
        if curve is None:
            return None
        found = curve.estimate(rows * operator.width, lambda size: np.maximum(size, 1).astype(np.float64))
        if inside == operator.chips:
            return found
        between = between_nodes_ns(self.chip, operator, rows.astype(np.float64))
        return Estimate(found.ns + between, np.maximum(found.origin, Origin.EXTRAPOLATED).astype(np.uint8))

    def _measured_messages(self, name: str, kind: str, chips: int, element_bytes: int) -> Curve | None:
        """Return the time of a collective among the chips of a node over its elements."""
        path = self._find("comm", name, "nccl" if name == "nccl" else None)
        if path is None:
            return None
        columns = ("num_gpus", "message_size", "latency", "backend", "op_name", "nccl_dtype")
        table = read_table(path, columns)
        chosen = (table["num_gpus"] == chips) & _captured(table)
        if name == "nccl":
            chosen &= table["op_name"] == _NCCL_KINDS.get(kind, kind)
            chosen &= table["nccl_dtype"] == _NCCL_ELEMENTS[element_bytes]
        if not chosen.any():
            return None
        points = Points.of((), table["message_size"][chosen], table["latency"][chosen] * _NS_PER_MS)
        verdict = screened(points, collective_light(self.chip, kind, chips, points.at * element_bytes))
        self._note(path, verdict)
        return Curve.sound(points.at, points.ns, verdict)


@lru_cache(maxsize=64)
def _sites(chip: Chip, weights: str, path: Path, siblings: tuple[Path, ...]) -> Sites | None:
    """Return the screened sites of one weight format; every framework's projections do the same arithmetic."""
    where = (("gemm_dtype", GEMM_FORMATS[weights]),)
    points = read_points(path, ("n", "k"), "m", where)
    if points is None:
        return None
    others = [table for one in siblings if (table := read_points(one, ("n", "k"), "m", where))]

    def light(table: Points) -> NDArray[np.float64]:
        return gemm_bounds(chip, weights, table.shape[:, 0], table.shape[:, 1], table.at).ns

    beside = slowest_sibling(points, [possible(table, light(table)) for table in others], sizes=(0, 1))
    return Sites(points, screened(points, light(points), beside))


def _captured(table: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Tell which all-reduces ran in a graph: eager ones hold launch time of the host, which engines hide."""
    if "backend" not in table:  # TensorRT-LLM's and NCCL's tables: one kind only
        return np.ones(len(table["latency"]), bool)
    return np.array([not str(name).endswith("_eager") for name in table["backend"]], bool)


def _nearest_heads(operator: Attention, measured: NDArray[np.int64]) -> Attention:
    """Return the operator itself if it was measured, else its nearest kin in head counts and window."""
    shapes = _distinct(measured)
    wanted = np.array([operator.heads, operator.kv_heads], float)
    # Doublings away in query heads and in KV heads; another window only when no other choice is left.
    distance = np.abs(np.log2(shapes[:, :2] / wanted)).sum(axis=1)
    distance += np.where(shapes[:, 2] == operator.window, 0.0, np.where(shapes[:, 2] == 0, 100.0, 1000.0))
    heads, kv_heads, window = (int(x) for x in shapes[np.argmin(distance)])
    return Attention(operator.name, heads, kv_heads, operator.head_dim, operator.kv_cache, window, operator.count)


def _distinct(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that differ, as ``np.unique`` along the first axis does in twenty times as long."""
    ordered = rows[np.lexsort(rows.T[::-1])]
    first = np.append([True], (ordered[1:] != ordered[:-1]).any(axis=1))
    found: NDArray[np.int64] = ordered[first]
    return found


def _sequences_alike(operator: Attention, kin: Attention, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return over how many sequences a kernel of other head counts has as many heads to spread over the chip.

    Notes
    -----
    Over the cache a kernel has work for each KV head of each sequence, over prompts for each query head.
    """
    prompts = operator.name == "context_attention"
    more = operator.heads / kin.heads if prompts else operator.kv_heads / kin.kv_heads
    alike: NDArray[np.int64] = np.maximum(np.rint(sequences * more), 1).astype(np.int64)
    return alike


def as_utilised(
    chip: Chip,
    estimate: Estimate,
    measured: tuple[Kernel, NDArray[np.int64]],
    wanted: tuple[Kernel, NDArray[np.int64]],
    tokens: NDArray[np.int64],
) -> Estimate:
    """Return the time of attention that uses the chip as well as another one, each given with its batches."""
    own, its = (attention_bound(chip, operator, batch, tokens).ns for operator, batch in (wanted, measured))
    return Estimate.of(estimate.ns * own / its, Origin.EXTRAPOLATED)


def over_batches(
    chip: Chip,
    operator: Kernel,
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
    # Many sequences of few lengths are asked for.
    lengths, place = np.unique(tokens, return_inverse=True)
    rows = [_row(chip, operator, int(b), curves[int(b)], lengths) for b in measured]
    ns = np.stack([row.ns for row in rows])
    origin = np.stack([row.origin for row in rows])
    bound = np.stack([attention_bound(chip, operator, np.full(len(lengths), b), lengths).ns for b in measured])
    for i in range(1, len(measured)):
        ended = origin[i] == Origin.EXTRAPOLATED
        ns[i] = np.where(ended, np.fmin(ns[i], ns[i - 1] * bound[i] / bound[i - 1]), ns[i])
    span = np.maximum(measured[high] - measured[low], 1)
    found = blend(
        Estimate(ns[low, place], origin[low, place]),
        Estimate(ns[high, place], origin[high, place]),
        (inside - measured[low]) / span,
    )
    beyond = attention_bound(chip, operator, batch, tokens).ns / attention_bound(chip, operator, inside, tokens).ns
    return Estimate(found.ns * beyond, np.where(batch > inside, Origin.EXTRAPOLATED, found.origin).astype(np.uint8))


def _row(chip: Chip, operator: Kernel, batch: int, curve: Curve, tokens: NDArray[np.int64]) -> Estimate:
    return curve.estimate(tokens, lambda at: attention_bound(chip, operator, np.full(len(at), batch), at).ns)
