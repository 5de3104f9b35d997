"""Measured gated delta nets: convolution and delta rule, over prompts and over single tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.interpolate import Curve
from perfdb.silicon import over_batches
from perfdb.speed_of_light import attention_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.delta_net import DeltaRule

__all__ = ["DeltaTables"]

_NS_PER_MS: Final = 1e6
_SHAPE: Final = ("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")
_COLUMNS: Final = ("kernel_source", "phase", "batch_size", "seq_len", *_SHAPE, "latency")


@dataclass(frozen=True, slots=True)
class _Measured:
    """The nearest kin that was measured, and its curves over tokens by sequences."""

    kin: DeltaRule
    curves: Mapping[int, Curve]


class DeltaTables:
    """Prices delta rules from the tables of one framework on one chip.

    Parameters
    ----------
    chip
        The chip.
    read
        Returns columns of a table of the framework by family and name, or None.
    """

    def __init__(
        self, chip: Chip, read: Callable[[str, str, tuple[str, ...]], Mapping[str, NDArray[Any]] | None]
    ) -> None:
        self.chip, self._read = chip, read
        self._found: dict[DeltaRule, _Measured | None] = {}

    def attention(self, operator: DeltaRule, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate | None:
        """Return the cost in one layer; None where nothing alike was measured.

        Notes
        -----
        A decoding token costs the same at every length. Heads that were not measured scale with the bound.
        """
        if operator not in self._found:
            self._found[operator] = self._measured(operator)
        found = self._found[operator]
        if found is None:
            return None
        at = tokens if operator.name.startswith("context") else np.ones_like(tokens)
        estimate = over_batches(self.chip, found.kin, found.curves, batch, at)
        if found.kin == operator:
            return estimate
        ratio = attention_bound(self.chip, operator, batch, at).ns / attention_bound(self.chip, found.kin, batch, at).ns
        return Estimate.of(estimate.ns * ratio, Origin.EXTRAPOLATED)

    def _measured(self, operator: DeltaRule) -> _Measured | None:
        table = self._read("linear_attention", "gdn", _COLUMNS)
        if table is None:
            return None
        net, phase = operator.net, operator.name.partition("_")[0]
        alike = (table["head_k_dim"] == net.key_dim) & (table["head_v_dim"] == net.value_dim)
        alike &= table["phase"] == phase
        if not alike.any():
            return None
        heads = np.unique(np.stack([table[name][alike] for name in _SHAPE[:2]], axis=1), axis=0)
        distance = np.abs(np.log2(heads / np.array([net.key_heads, net.value_heads], float))).sum(axis=1)
        keys, values = (int(size) for size in heads[np.argmin(distance)])
        alike &= (table["num_k_heads"] == keys) & (table["num_v_heads"] == values)
        kin = replace(operator, net=replace(net, key_heads=keys, value_heads=values))
        batches, lengths = table["batch_size"][alike], table["seq_len"][alike]
        times = _of_both_kernels(table["kernel_source"][alike], batches, lengths, table["latency"][alike] * _NS_PER_MS)
        columns = {n: [np.array(column) for column in zip(*points, strict=True)] for n, points in times.items()}
        return _Measured(kin, {n: Curve.through(lengths, ns) for n, (lengths, ns) in columns.items()})


def _of_both_kernels(
    kernels: NDArray[Any], batches: NDArray[np.int64], lengths: NDArray[np.int64], ns: NDArray[np.float64]
) -> dict[int, list[tuple[int, float]]]:
    """Return (length, time) by sequences where both the convolution and the rule were measured; the fastest count."""
    best: dict[tuple[int, int], dict[bool, float]] = {}
    for kernel, batch, length, time in zip(kernels, batches.tolist(), lengths.tolist(), ns.tolist(), strict=True):
        kinds = best.setdefault((batch, length), {})
        convolves = "conv1d" in str(kernel)
        kinds[convolves] = min(time, kinds.get(convolves, np.inf))
    found: dict[int, list[tuple[int, float]]] = {}
    for (batch, length), kinds in sorted(best.items()):
        if len(kinds) > 1:
            found.setdefault(batch, []).append((length, sum(kinds.values())))
    return found
