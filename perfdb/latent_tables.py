"""Measured latent attention: modules with their projections, or kernels alone.

vLLM and TensorRT-LLM are measured by modules: everything between two norms, over prompts (sequences, length) and over
the cache (sequences, context). A module is divided into what goes by rows, which is the least that any sequences of so
many rows leave once attention at the speed of light is taken off, and what attention adds, so that any mixture of
prompts and decoding sequences can be put together again; a step of one kind alone costs what was measured. SGLang's
dense attention is measured by kernels, and its projections are priced one by one. Sparse attention is measured by
modules everywhere; over prompts some are no faster than the host launches them, which is told apart
(:meth:`LatentTables.launch_ns`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.formats import WEIGHT_BYTES
from perfdb.interpolate import Curve
from perfdb.latent import IndexScan, LatentAttention
from perfdb.operators import Attention, Gemm, LatentProjections
from perfdb.roofline import RooflineSource
from perfdb.screening import STILL_SLOWER
from perfdb.silicon import GEMM_FORMATS, KV_FORMATS, as_utilised, over_batches
from perfdb.speed_of_light import attention_light, gemm_bound, row_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.latent import Latent

__all__ = ["LatentTables"]

_NS_PER_MS: Final = 1e6
#: Where the fastest module over prompts takes so many times as long as the fastest over the cache, which is captured in
#: a graph, the host takes so long to launch it; modules within as much of that time show an upper bound alone.
_HOST_BOUND: Final = 1.25
#: Modules are held against each other over 1 to 512 rows, which steps that decode have.
_DECODE_DOUBLINGS: Final = 10
_COLUMNS: Final = (
    *("num_heads", "batch_size", "isl", "step", "kv_cache_dtype", "gemm_type", "architecture", "op_name"),
    "latency",
)
#: What the tables measured, by architecture: width, and shape with the heads of one chip left open.
_MEASURED: Final = {
    "DeepseekV3ForCausalLM": (7168, 1536, 128, 128),
    "DeepseekV32ForCausalLM": (7168, 1536, 128, 128),
    "GlmMoeDsaForCausalLM": (6144, 2048, 192, 256),
}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is priced: shape on one chip, and formats."""

    latent: Latent
    hidden: int
    weights: str
    kv_cache: str

    def projections(self) -> LatentProjections:
        return LatentProjections("", self.latent, self.hidden, self.weights, self.weights, self.kv_cache)

    def attention(self, phase: str) -> LatentAttention:
        shape = (self.latent, self.hidden, self.weights, self.kv_cache, 1)
        return LatentAttention(f"{phase}_latent_attention", *shape)


@dataclass(frozen=True, slots=True)
class _Measured:
    """The nearest kin that was measured.

    Attributes
    ----------
    kin
        Its shape.
    rows
        Its cost by rows, None where projections are priced one by one.
    attention
        What attention adds, by phase and sequences, over tokens.
    launch_ns
        Time in which the host launches one module over prompts; 0 where kernels hide it.
    """

    kin: _Shape
    rows: Curve | None
    attention: Mapping[str, Mapping[int, Curve]]
    launch_ns: float = 0.0


@dataclass(frozen=True, slots=True)
class _Points:
    """Times, ns, at sequences and their tokens, and the rows of such a step; each array has shape (points,)."""

    sequences: NDArray[np.int64]
    tokens: NDArray[np.int64]
    rows: NDArray[np.int64]
    ns: NDArray[np.float64]


class LatentTables:
    """Prices latent attention from the tables of one framework on one chip.

    Parameters
    ----------
    chip
        The chip.
    read
        Returns columns of a table of the framework by family and name, or None.
    gemm
        Prices a projection from the tables, or returns None.
    plain
        Prices attention of the common kind from them, or returns None.
    siblings
        Returns the tables of other frameworks on the chip, which modules are held against.
    """

    def __init__(
        self,
        chip: Chip,
        read: Callable[[str, str, tuple[str, ...]], Mapping[str, NDArray[Any]] | None],
        gemm: Callable[[Gemm, NDArray[np.int64]], Estimate | None],
        plain: Callable[[Attention, NDArray[np.int64], NDArray[np.int64]], Estimate | None],
        siblings: Callable[[], Iterable[LatentTables]] = tuple,
    ) -> None:
        self.chip, self._read, self._gemm, self._plain = chip, read, gemm, plain
        self._roofline = RooflineSource(chip)
        self._siblings = siblings
        self._found: dict[_Shape, _Measured | None] = {}
        self._lenders: dict[_Shape, LatentTables] = {}

    def rows(self, operator: LatentProjections, rows: NDArray[np.int64]) -> Estimate | None:
        """Return the cost of the projections and what goes with them; None where they were not measured."""
        wanted = _Shape(operator.latent, operator.hidden, operator.weights, operator.kv_cache)
        if wanted not in self._lenders:
            self._lenders[wanted] = self._lender(wanted)
        lender = self._lenders[wanted]
        found = lender.own_rows(operator, rows)
        return found if lender is self or found is None else Estimate.of(found.ns, Origin.BORROWED)

    def own_rows(self, operator: LatentProjections, rows: NDArray[np.int64]) -> Estimate | None:
        """Return what :meth:`rows` does, from the framework's own tables, however slow they are."""
        wanted = _Shape(operator.latent, operator.hidden, operator.weights, operator.kv_cache)
        found = self._measured(wanted)
        if found is None:
            return None
        if found.rows is None:
            return self._one_by_one(operator, rows)
        estimate = found.rows.estimate(rows, lambda at: self._rows_ns(found.kin, at))
        if found.kin != wanted:
            ratio = self._rows_ns(wanted, rows) / self._rows_ns(found.kin, rows)
            estimate = Estimate.of(estimate.ns * ratio, Origin.EXTRAPOLATED)
        return estimate if operator.out_weights == operator.weights else self._out_changed(operator, rows, estimate)

    def attention(
        self, operator: LatentAttention | IndexScan, batch: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> Estimate | None:
        """Return what attention adds to the projections; None where it was not measured."""
        if isinstance(operator, IndexScan):
            # Measured with the attention it picks for, from which as much is taken off.
            known = self._read("sparse_attention", "dsa_context_module", _COLUMNS) is not None
            return Estimate.of(self._scan_ns(operator, batch, tokens), Origin.INTERPOLATED) if known else None
        wanted = _Shape(operator.latent, operator.hidden, operator.weights, operator.kv_cache)
        found = self._measured(wanted)
        if found is None:
            return None
        phase = operator.name.partition("_")[0]
        kin = found.kin.attention(phase)
        estimate = over_batches(self.chip, kin, found.attention[phase], batch, tokens)
        if found.kin == wanted:
            return estimate
        return as_utilised(self.chip, estimate, (kin, batch), (operator, batch), tokens)

    def launch_ns(self, operator: LatentAttention) -> float:
        """Return the time in which the host launches one module over prompts, ns; 0 where kernels hide it."""
        found = self._measured(_Shape(operator.latent, operator.hidden, operator.weights, operator.kv_cache))
        return found.launch_ns if found and operator.name.startswith("context") else 0.0

    def _measured(self, wanted: _Shape) -> _Measured | None:
        if wanted not in self._found:
            if wanted.latent.indexer:
                found = self._modules(wanted, "sparse_attention", "dsa_{}_module")
            else:
                found = self._modules(wanted, "mla", "mla_{}_module") or self._kernels(wanted)
            self._found[wanted] = found
        return self._found[wanted]

    def _lender(self, wanted: _Shape) -> LatentTables:
        """Return whose projections to believe: the framework's own, or those of a sibling that is far faster.

        Notes
        -----
        Frameworks multiply the same matrices and do little between them: timed as a step runs it, the part of a dense
        module that goes by rows is within a half of the others'. Beyond that, norms and rotations were launched one by
        one, which engines fuse or capture. It shows where there is least work, with one head.
        """
        least = replace(wanted, latent=replace(wanted.latent, heads=1))
        own = None if wanted.latent.indexer else self.decode_rows(least)
        if own is None:
            return self
        others = {one: takes for one in self._siblings() if (takes := one.decode_rows(least)) and takes[0] == own[0]}
        slowest = max(others, key=lambda one: others[one][1], default=self)
        return slowest if own[1] > STILL_SLOWER * others.get(slowest, own)[1] else self

    def decode_rows(self, shape: _Shape) -> tuple[_Shape, float] | None:
        """Return the nearest kin measured as a module, and the median time of its rows where sequences decode, ns."""
        found = self._measured(shape)
        if found is None or found.rows is None:
            return None
        kin, at = found.kin, 2 ** np.arange(_DECODE_DOUBLINGS)
        return kin, float(np.median(found.rows.estimate(at, lambda n: self._rows_ns(kin, n)).ns))

    def _one_by_one(self, operator: LatentProjections, rows: NDArray[np.int64]) -> Estimate | None:
        known = [part for gemm in operator.gemms if (part := self._gemm(gemm, rows)) is not None]
        if len(known) < len(operator.gemms):
            return None
        ns = self._roofline.streamed_ns(operator.elementwise, rows.astype(np.float64)) + sum(part.ns for part in known)
        return Estimate(ns, np.max([part.origin for part in known], axis=0).astype(np.uint8))

    def _out_changed(self, operator: LatentProjections, rows: NDArray[np.int64], found: Estimate) -> Estimate:
        """Return the cost with the projection out in its own format: modules have one format throughout."""
        out = next(gemm for gemm in operator.gemms if gemm.name == "attention_out")
        measured, own = (self._gemm(one, rows) for one in (replace(out, weights=operator.weights), out))
        if measured is None or own is None:
            return found
        least = row_bound(self.chip, operator, rows)
        return Estimate.of(np.maximum(found.ns + own.ns - measured.ns, least.ns if least else 0.0), Origin.EXTRAPOLATED)

    def _rows_ns(self, shape: _Shape, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        bound = row_bound(self.chip, shape.projections(), rows)
        return bound.ns if bound else np.ones(len(rows))

    def _scan_ns(self, scan: IndexScan, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._roofline.attention(scan, batch, tokens).ns

    def _modules(self, wanted: _Shape, family: str, name: str) -> _Measured | None:
        """Return the nearest kin measured as a module, divided into rows and attention."""
        found = self._points(wanted, family, name)
        if found is None:
            return None
        kin, points = found
        floor = float(points["context"].ns.min())
        launch_ns = floor if floor > _HOST_BOUND * points["generation"].ns.min() else 0.0
        hidden = points["context"].ns <= _HOST_BOUND * launch_ns
        rows = self._by_rows(kin, points, hidden)
        attention = {}
        for phase, at in points.items():
            by_rows = rows.estimate(at.rows, lambda n: self._rows_ns(kin, n)).ns
            left = at.ns - by_rows - self._scan_of(kin, phase, at)
            if phase == "context" and hidden.any():
                kernels = self._roofline.attention(kin.attention(phase), at.sequences, at.tokens).ns
                left = np.where(hidden, np.minimum(left, kernels), left)
            attention[phase] = self._curves(kin, phase, at, left)
        return _Measured(kin, rows, attention, launch_ns)

    def _kernels(self, wanted: _Shape) -> _Measured | None:
        """Return the nearest kin measured as attention kernels; decoding is charged what absorbing costs extra."""
        found = self._points(wanted, "mla", "{}_mla", "mla_{}")
        if found is None:
            return None
        kin, points = found
        context, generation = points["context"], points["generation"]
        expanded = np.fmin(context.ns, self._expanded_ns(kin, context))
        absorbed = generation.ns + self._absorbing(kin, generation.rows)
        attention = {
            "context": self._curves(kin, "context", context, expanded),
            "generation": self._curves(kin, "generation", generation, absorbed),
        }
        return _Measured(kin, None, attention)

    def _points(
        self, wanted: _Shape, family: str, name: str, operator: str | None = None
    ) -> tuple[_Shape, dict[str, _Points]] | None:
        """Return the nearest kin and its points by phase, from tables and rows that are called after the phase."""
        tables = {phase: self._read(family, name.format(phase), _COLUMNS) for phase in ("context", "generation")}
        known = {phase: table for phase, table in tables.items() if table is not None}
        kin = _nearest(wanted, known["generation"]) if len(known) == len(tables) else None
        if kin is None:
            return None
        points = {phase: _points(kin, table, phase, (operator or name).format(phase)) for phase, table in known.items()}
        return (kin, points) if all(len(at.ns) for at in points.values()) else None

    def _expanded_ns(self, kin: _Shape, points: _Points) -> NDArray[np.float64]:
        """Return the time of plain attention over prompts with keys and values of each head, ns; NaN if not known.

        Notes
        -----
        That is what SGLang runs over a prompt without a past; on Hopper its table holds the absorbed kernel, which
        takes 3.4 times the arithmetic.
        """
        heads, width = kin.latent.heads, kin.latent.value
        plain = Attention("context_attention", heads, heads, width, "bf16", 0, 1)
        found = self._plain(plain, points.sequences, points.tokens)
        if found is None:
            return np.full(len(points.ns), np.nan)
        return found.ns * kin.attention("context").pair_flops / plain.pair_flops

    def _absorbing(self, kin: _Shape, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what the products with queries and results take longer than the expansion they stand for, ns."""
        expansion = next(gemm for gemm in kin.projections().gemms if gemm.name == "keys_values")
        table = self._read("mla_bmm", "mla_bmm", ("op_name", "bmm_dtype", "num_tokens", "num_heads", "latency"))
        expanded = self._gemm(expansion, rows)
        if table is None or expanded is None:
            return np.zeros(len(rows))
        total = np.zeros(len(rows))
        for product in ("mla_gen_pre", "mla_gen_post"):
            chosen = (table["op_name"] == product) & (table["bmm_dtype"] == "bfloat16")
            chosen &= table["num_heads"] == kin.latent.heads
            if not chosen.any():
                return np.zeros(len(rows))
            curve = Curve.through(table["num_tokens"][chosen], table["latency"][chosen] * _NS_PER_MS)
            total += curve.estimate(rows, lambda at: gemm_bound(self.chip, expansion, at).ns).ns
        return np.maximum(total - expanded.ns, 0.0)

    def _by_rows(self, kin: _Shape, points: Mapping[str, _Points], hidden: NDArray[np.bool_]) -> Curve:
        """Return the time of a module by rows; ``hidden`` tells which prompts show no more than an upper bound."""
        context, generation = points["context"], points["generation"]
        left = {p: at.ns - self._light_ns(kin, p, at) - self._scan_of(kin, p, at) for p, at in points.items()}
        # Beyond what an indexer picks, sparse kernels do work of their own for each row.
        prompts = ~hidden & (context.tokens <= (kin.latent.top_k or np.inf))
        rows = np.append(context.rows[prompts], generation.rows)
        ns = np.append(left["context"][prompts], left["generation"])
        curve = _rising(Curve.through(rows[ns > 0], ns[ns > 0], streams=True))
        if not hidden.any():
            return curve
        bounds = context.rows[hidden]
        least = np.minimum(curve.estimate(bounds, lambda n: self._rows_ns(kin, n)).ns, left["context"][hidden])
        return _rising(Curve.through(np.append(curve.at, bounds).astype(np.int64), np.append(curve.ns, least)))

    def _light_ns(self, kin: _Shape, phase: str, points: _Points) -> NDArray[np.float64]:
        return attention_light(self.chip, kin.attention(phase), points.sequences, points.tokens)

    def _scan_of(self, kin: _Shape, phase: str, points: _Points) -> NDArray[np.float64]:
        if not kin.latent.indexer:
            return np.zeros(len(points.ns))
        return self._scan_ns(IndexScan(f"{phase}_index_scan", kin.latent.indexer, 1), points.sequences, points.tokens)

    def _curves(self, kin: _Shape, phase: str, points: _Points, left: NDArray[np.float64]) -> Mapping[int, Curve]:
        """Return what attention adds, by sequences: no less than light needs."""
        left = np.maximum(left, self._light_ns(kin, phase, points))
        found = {}
        for sequences in np.unique(points.sequences):
            chosen, prompts = points.sequences == sequences, phase == "context"
            curve = Curve.through(points.tokens[chosen], left[chosen], quadratic=prompts, streams=not prompts)
            found[int(sequences)] = _rising(curve)
        return found


def _nearest(wanted: _Shape, table: Mapping[str, NDArray[Any]]) -> _Shape | None:
    """Return the measured shape nearest to the wanted one: formats first, then width, then heads."""
    formats = {ours: theirs for ours, theirs in GEMM_FORMATS.items() if theirs in set(table.get("gemm_type", ()))}
    caches = {ours: theirs for ours, theirs in KV_FORMATS.items() if theirs in set(table["kv_cache_dtype"])}
    if not caches:
        return None
    size = WEIGHT_BYTES[wanted.weights]
    weights = min(formats, key=lambda own: (own != wanted.weights, abs(WEIGHT_BYTES[own] - size)), default="")
    kv_cache = wanted.kv_cache if wanted.kv_cache in caches else next(iter(caches))
    chosen = table["kv_cache_dtype"] == caches[kv_cache]
    shape = wanted
    if formats:
        chosen &= table["gemm_type"] == formats[weights]
        architectures = [name for name in _MEASURED if name in set(table["architecture"][chosen])]
        if not architectures:
            return None
        nearest = min(architectures, key=lambda name: abs(_MEASURED[name][0] - wanted.hidden))
        chosen &= table["architecture"] == nearest
        hidden, q_rank, nope, value = _MEASURED[nearest]
        shape = replace(wanted, hidden=hidden, latent=replace(wanted.latent, q_rank=q_rank, nope=nope, value=value))
    heads = np.unique(table["num_heads"][chosen])
    if not len(heads):
        return None
    own = int(heads[np.argmin(np.abs(np.log2(heads / wanted.latent.heads)))])
    latent = replace(shape.latent, heads=own)
    return replace(shape, latent=latent, weights=weights or wanted.weights, kv_cache=kv_cache)


def _points(kin: _Shape, table: Mapping[str, NDArray[Any]], phase: str, name: str) -> _Points:
    """Return the rows of a shape."""
    chosen = (table["kv_cache_dtype"] == KV_FORMATS[kin.kv_cache]) & (table["num_heads"] == kin.latent.heads)
    chosen &= table["op_name"] == name
    if phase == "context":
        # Chunks with a past are measured by some frameworks only, whole prompts by all.
        chosen &= table["step"] == 0
    if "gemm_type" in table:
        alike = [name for name, shape in _MEASURED.items() if shape[0] == kin.hidden]
        chosen &= (table["gemm_type"] == GEMM_FORMATS[kin.weights]) & np.isin(table["architecture"].astype(str), alike)
    sequences, tokens = table["batch_size"][chosen], table["isl" if phase == "context" else "step"][chosen]
    rows = sequences * tokens if phase == "context" else sequences
    return _Points(sequences, tokens, rows, table["latency"][chosen] * _NS_PER_MS)


def _rising(curve: Curve) -> Curve:
    """Return the curve whose points cost no more than later ones: more rows or tokens hold the work of fewer."""
    return replace(curve, ns=np.minimum.accumulate(curve.ns[::-1])[::-1])
