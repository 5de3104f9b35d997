"""Screen every kernel table there is, whoever prices from it, and say what was found.

Projections, attention and collectives are held against the speed of light; every table against the other frameworks'
on the same chip, and against itself. What pricing sets aside is the same, by the same rules
(:mod:`perfdb.screening`), but for one: other kernels than projections may honestly be slower than elsewhere, so that
those are only named.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hardware.catalogue import chip_names, load_chip
from perfdb.encoder_operators import EncoderAttention
from perfdb.operators import Attention
from perfdb.points import Points
from perfdb.screening import Verdict, possible, screened, slowest_sibling
from perfdb.silicon import GEMM_FORMATS, KV_FORMATS
from perfdb.silicon_experts import EXPERT_FORMATS, EXPERT_SHAPE, experts_light
from perfdb.speed_of_light import attention_light, collective_light, gemm_bounds
from perfdb.tables import FRAMEWORKS, TableSet, system_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from hardware.catalogue import Chip

__all__ = ["AXES", "PROVENANCE", "Audited", "TableFile", "audit_table", "table_files"]

#: What goes along the curves of a table: the first of these that it has. ``step`` is the cached tokens of decoding
#: kernels, where prompts have one value of it.
AXES: Final = ("m", "message_size", "num_tokens", "num_token", "isl", "s", "seq_len", "step")
#: Who measured what with: not part of a shape.
PROVENANCE: Final = ("framework", "version", "device", "op_name", "kernel_source", "backend", "implementation")
#: Times are milliseconds, but for this table's.
_NS: Final[Mapping[str, float]] = MappingProxyType({"moe_a2a": 1e3})
_NS_PER_MS: Final = 1e6


@dataclass(frozen=True, slots=True)
class TableFile:
    """One table of a database: chip, family, framework, version and name, from its path."""

    path: Path
    system: str
    family: str
    framework: str
    version: str
    table: str


@dataclass(frozen=True, slots=True)
class Audited:
    """What screening says of a table.

    Attributes
    ----------
    file
        The table.
    columns
        Its shape columns and, last, the one along its curves.
    values
        Text or number of each shape, a tuple of arrays of shape (points,), in the order of ``columns``.
    ns
        Times, float64, shape (points,).
    bound_ns, siblings_ns
        Speed of light, and the slowest sibling's time; NaN where not known.
    verdict
        :class:`perfdb.screening.Verdict` of each.
    """

    file: TableFile
    columns: tuple[str, ...]
    values: tuple[NDArray[Any], ...]
    ns: NDArray[np.float64]
    bound_ns: NDArray[np.float64]
    siblings_ns: NDArray[np.float64]
    verdict: NDArray[np.uint8]

    def count(self, verdict: Verdict) -> int:
        """Return how many points have a verdict."""
        return int((self.verdict == verdict).sum())

    def worst(self) -> int | None:
        """Return the point that is furthest off, by the ratio that gave it away; None where all are sound."""
        found = np.flatnonzero(self.verdict != Verdict.SOUND)
        if not len(found):
            return None
        light = self.bound_ns / np.maximum(self.ns, 1e-3)
        off = np.where(self.verdict == Verdict.FASTER_THAN_LIGHT, light, self.ns / self.siblings_ns)
        return int(found[np.argmax(np.nan_to_num(off[found]))])

    def shape(self, point: int) -> str:
        """Return what one point is of."""
        return " ".join(f"{name}={column[point]}" for name, column in zip(self.columns, self.values, strict=True))

    def describe(self, point: int) -> str:
        """Return one point in words."""
        told = [f"{self.ns[point] / 1e3:,.1f} us"]
        if not np.isnan(self.bound_ns[point]):
            told.append(f"light {self.bound_ns[point] / 1e3:,.1f}")
        if not np.isnan(self.siblings_ns[point]):
            told.append(f"siblings {self.siblings_ns[point] / 1e3:,.1f}")
        return f"{self.shape(point)}: {', '.join(told)}"


def table_files(root: Path, system: str = "*", framework: str = "*", table: str = "*") -> Iterator[TableFile]:
    """Yield the tables of a database in the order of their paths."""
    for path in sorted((root / "data").glob(f"{system}/*/{framework}/*/{table}_perf.parquet")):
        chip, family, owner, version, _ = path.parts[-5:]
        yield TableFile(path, chip, family, owner, version, path.name.removesuffix("_perf.parquet"))


def audit_table(root: Path, file: TableFile) -> Audited | None:
    """Screen one table; None where it has no time, or nothing along which it could be a curve."""
    own = _read(file.path)
    axis = next((name for name in AXES if name in own.column_names), None)
    if axis == "isl" and "generation" in file.table and "step" in own.column_names:
        axis = "step"
    if axis is None or "latency" not in own.column_names:
        return None
    other = (*PROVENANCE, axis, "latency")
    shape = [name for name in own.column_names if name not in other and not name.endswith("_us")]
    shape += ["op_name"] if file.family == "comm" and "op_name" in own.column_names else []
    siblings = [
        table for path in _siblings(root, file) if {axis, "latency", *shape} <= {*(table := _read(path)).column_names}
    ]
    points, values = _coded([own, *siblings], (*shape, axis), _NS.get(file.table, _NS_PER_MS))
    at = [{name: values[name][code] for name, code in zip((*shape, axis), _codes(one), strict=True)} for one in points]
    bound = _light(file, at[0])
    others = [possible(one, _light(file, where)) for one, where in zip(points[1:], at[1:], strict=True)]
    sizes = [shape.index(name) for name in ("n", "k") if file.table == "gemm"]
    beside = slowest_sibling(points[0], others, sizes)
    verdict = screened(points[0], bound, beside)
    return Audited(file, (*shape, axis), tuple(at[0].values()), points[0].ns, bound, beside, verdict)


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq  # noqa: PLC0415 - 0.1 s that --help must not pay

    return pq.ParquetFile(path).read()


def _siblings(root: Path, file: TableFile) -> list[Path]:
    """Return the current tables of the same name of other frameworks on the same chip."""
    if file.framework not in FRAMEWORKS:
        return []
    others = TableSet(root, file.system, file.framework).siblings
    return [path for one in others if (path := one.find(file.family, file.table))]


def _coded(
    tables: Sequence[pa.Table], columns: Sequence[str], unit_ns: float
) -> tuple[list[Points], dict[str, NDArray[Any]]]:
    """Return the tables as points whose values are numbered alike, and the values behind the numbers."""
    values: dict[str, NDArray[Any]] = {}
    coded: list[list[NDArray[np.int64]]] = [[] for _ in tables]
    for name in columns:
        encoded = [table.column(name).combine_chunks().dictionary_encode() for table in tables]
        dictionaries = [np.asarray(one.dictionary.to_numpy(zero_copy_only=False)) for one in encoded]
        values[name] = np.unique(np.concatenate(dictionaries))
        for rows, one, dictionary in zip(coded, encoded, dictionaries, strict=True):
            numbered = np.searchsorted(values[name], dictionary)
            rows.append(numbered[one.indices.to_numpy(zero_copy_only=False)].astype(np.int64))
    times = [table.column("latency").to_numpy() * unit_ns for table in tables]
    return [Points.of(rows[:-1], rows[-1], ns) for rows, ns in zip(coded, times, strict=True)], values


def _codes(points: Points) -> list[NDArray[np.int64]]:
    return [*points.shape.T, points.at]


def _light(file: TableFile, at: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return the speed of light of each point, ns; NaN where nobody knows it."""
    found = np.full(len(next(iter(at.values()))), np.nan)
    chip = _chip_of(file.system)
    if chip is None:
        return found
    if file.table == "gemm":
        for weights, name in GEMM_FORMATS.items():
            rows = at["gemm_dtype"] == name
            found[rows] = gemm_bounds(chip, weights, at["n"][rows], at["k"][rows], at["m"][rows]).ns
    elif file.table == "moe":
        shape = np.stack([at[name] for name in EXPERT_SHAPE], axis=1)
        for weights, names in EXPERT_FORMATS.items():
            # Whether there is a gate, only the kernel's name says: without one there is less to do.
            rows = np.isin(at["moe_dtype"], names)
            found[rows] = experts_light(chip, weights, shape[rows], at["num_tokens"][rows], gated=False)
    elif file.table in ("context_attention", "generation_attention"):
        _attention_light(chip, file.table, at, found)
    elif file.table == "encoder_attention":
        _encoder_light(chip, at, found)
    elif file.table in ("custom_allreduce", "nccl"):
        _collective_light(chip, at, found)
    return found


def _attention_light(chip: Chip, name: str, at: Mapping[str, NDArray[Any]], found: NDArray[np.float64]) -> None:
    formats = {name: ours for ours, name in KV_FORMATS.items()}
    length = at["isl" if name == "context_attention" else "step"]
    kinds = ("num_heads", "num_key_value_heads", "head_dim", "window_size")
    columns = [at[kind] if kind in at else np.zeros(len(length), np.int64) for kind in kinds]
    for *shape, kv in sorted(set(zip(*columns, at["kv_cache_dtype"], strict=True))):
        rows = at["kv_cache_dtype"] == kv
        for column, value in zip(columns, shape, strict=True):
            rows &= column == value
        heads, kv_heads, head_dim, window = (int(value) for value in shape)
        operator = Attention(name, heads, kv_heads, head_dim, formats.get(kv, "bf16"), window, 1)
        found[rows] = attention_light(chip, operator, at["batch_size"][rows], length[rows])


def _encoder_light(chip: Chip, at: Mapping[str, NDArray[Any]], found: NDArray[np.float64]) -> None:
    for heads, head_dim in sorted(set(zip(at["num_heads"].tolist(), at["head_dim"].tolist(), strict=True))):
        rows = (at["num_heads"] == heads) & (at["head_dim"] == head_dim)
        operator = EncoderAttention("encoder_attention", heads, head_dim, 1)
        found[rows] = attention_light(chip, operator, at["batch_size"][rows], at["isl"][rows])


def _collective_light(chip: Chip, at: Mapping[str, NDArray[Any]], found: NDArray[np.float64]) -> None:
    for kind in np.unique(at["op_name"]):
        for chips in np.unique(at["num_gpus"]):
            rows = (at["op_name"] == kind) & (at["num_gpus"] == chips)
            width = np.where(at["nccl_dtype"][rows] == "int8", 1, 2) if "nccl_dtype" in at else 2
            found[rows] = collective_light(chip, str(kind), int(chips), at["message_size"][rows] * width)


def _chip_of(system: str) -> Chip | None:
    """Return the chip of the catalogue that a folder of the database is of."""
    return next((load_chip(name) for name in chip_names() if system_of(name) == system), None)
