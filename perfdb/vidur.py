"""Profiles in Vidur's format: what its operations take in one layer.

A folder holds ``mlp.csv`` and ``attention.csv`` of a model on a chip and, for tensor parallelism, ``all_reduce.csv`` of
its links; names may begin with anything, and files may be compressed (``.csv.gz``). Times are milliseconds; the median
of a row counts. Columns are those of Vidur (Agrawal et al., MLSys 2024; ``sklearn_execution_time_predictor.py`` of
github.com/microsoft/vidur), and so is which operations make a layer: the embedding and the projection to the
vocabulary do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyarrow import ArrowInvalid, csv

from hardware.errors import CostError
from perfdb.parts import GroupedQuery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from perfdb.model import ModelSpec

__all__ = ["Samples", "VidurProfile", "read_vidur_profile"]

_OPERATIONS = (
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "add",
)


@dataclass(frozen=True, slots=True)
class Samples:
    """Times along one feature.

    Attributes
    ----------
    at
        Distinct values of the feature, increasing, float64, shape (positions,).
    rows
        Rows measured at each, float64, same shape.
    ms
        Mean of their medians, ms, same shape.
    """

    at: NDArray[np.float64]
    rows: NDArray[np.float64]
    ms: NDArray[np.float64]

    @classmethod
    def of(cls, at: NDArray[np.float64], ms: NDArray[np.float64]) -> Samples:
        """Return the samples of rows in any order."""
        positions, place, rows = np.unique(at, return_inverse=True, return_counts=True)
        return cls(positions, rows.astype(np.float64), np.bincount(place, ms) / rows)

    def along(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return times on straight lines between the positions, and beyond the last in proportion to the feature."""
        last = self.at[-1]
        inside = np.interp(np.minimum(at, last), self.at, self.ms)
        found: NDArray[np.float64] = np.where(at > last, inside * at / last, inside)
        return found


@dataclass(frozen=True, slots=True)
class VidurProfile:
    """What was measured of one layer of a model on one chip, or on several that share it.

    Attributes
    ----------
    layer
        All operations that go by the tokens of a step but the next two.
    all_reduce
        One all-reduce, by tokens; None on one chip.
    cache_write
        Writing keys and values to the cache, by tokens.
    generation
        Attention over the cache by the cached tokens of a sequence, for each number of sequences.
    context
        Attention over a chunk by the tokens cached before it, for each length of a chunk.
    files
        What was read.
    """

    layer: Samples
    all_reduce: Samples | None
    cache_write: Samples
    generation: Mapping[int, Samples]
    context: Mapping[int, Samples]
    files: tuple[Path, ...]


def read_vidur_profile(folder: str, model: ModelSpec, tensor: int) -> VidurProfile:
    """Return the profile of a model from a folder.

    Parameters
    ----------
    folder
        Where the files are.
    model
        Whose rows are meant: files may hold several.
    tensor
        Chips that share each layer.

    Raises
    ------
    CostError
        If a file is missing or not of this kind, or has no rows of the model on so many chips.
    """
    layer = model.stack[0]
    if not isinstance(layer.mixer, GroupedQuery):
        raise CostError(f"{folder}: Vidur's tables know plain attention only, which {model.name} does not have")
    heads, kv_heads = layer.mixer.heads, layer.mixer.kv_heads
    shape = {"n_embd": model.hidden, "n_kv_head": kv_heads, "num_tensor_parallel_workers": tensor}
    widths = {"n_expanded_embd": layer.feed_forward.intermediate, "n_head": heads}
    where = f"{model.name} at tensor_parallel = {tensor}"
    mlp = _Rows(folder, "mlp", shape | widths, where)
    attention = _Rows(folder, "attention", shape | {"n_q_head": heads}, where)
    chunk, batch, cached = (attention[name] for name in ("prefill_chunk_size", "batch_size", "kv_cache_size"))
    reduced = None
    files = [mlp.path, attention.path]
    if tensor > 1:
        sums = {"num_workers": tensor, "devices_per_node": tensor}
        links = _Rows(folder, "all_reduce", sums, f"{tensor} chips of one node")
        reduced = Samples.of(links["size"] / (2 * model.hidden), links.median("all_reduce"))
        files.append(links.path)
    return VidurProfile(
        Samples.of(mlp["num_tokens"], sum((mlp.median(name) for name in _OPERATIONS), np.zeros(1))),
        reduced,
        Samples.of(np.maximum(chunk, batch), attention.median("attn_kv_cache_save")),
        _by(batch, cached, attention.median("attn_decode"), chunk == 0),
        _by(chunk, cached, attention.median("attn_prefill"), chunk > 0),
        tuple(files),
    )


def _by(
    key: NDArray[np.float64], at: NDArray[np.float64], ms: NDArray[np.float64], kept: NDArray[np.bool_]
) -> dict[int, Samples]:
    return {int(k): Samples.of(at[kept & (key == k)], ms[kept & (key == k)]) for k in np.unique(key[kept])}


class _Rows:
    """The rows of one file that are about one model on so many chips."""

    def __init__(self, folder: str, kind: str, keys: Mapping[str, int], where: str) -> None:
        found = sorted(path for end in ("csv", "csv.gz") for path in Path(folder).glob(f"*{kind}.{end}"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise CostError(
                f"step_profile {folder!r}: expected one file whose name ends with {kind}.csv or {kind}.csv.gz, "
                f"in Vidur's format, found {names}"
            )
        self.path = found[0]
        try:
            self._table = csv.read_csv(self.path)
        except (ArrowInvalid, OSError) as problem:
            raise CostError(f"{self.path}: cannot be read as CSV ({str(problem).splitlines()[0]})") from problem
        self._kept = np.ones(self._table.num_rows, bool)
        self._kept = np.logical_and.reduce([self[name] == value for name, value in keys.items()])
        if not self._kept.any():
            asked = ", ".join(f"{name} = {value}" for name, value in keys.items())
            raise CostError(f"{self.path}: has no rows of {where} ({asked})")

    def __getitem__(self, column: str) -> NDArray[np.float64]:
        if column not in self._table.column_names:
            raise CostError(f"{self.path}: column {column!r} is missing; expected a profile in Vidur's format")
        try:
            values = self._table[column].to_numpy().astype(np.float64)
        except ValueError as problem:
            raise CostError(f"{self.path}: column {column!r} holds something other than numbers") from problem
        kept: NDArray[np.float64] = values[self._kept]
        return kept

    def median(self, operation: str) -> NDArray[np.float64]:
        """Return the medians of an operation, ms."""
        return self[f"time_stats.{operation}.median"]
