"""Measured attention of encoders, from the nearest heads where the exact ones were not measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from perfdb.interpolate import Curve
from perfdb.screening import screened
from perfdb.silicon import as_utilised, over_batches
from perfdb.speed_of_light import attention_bound
from perfdb.tables import read_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.encoder_operators import EncoderAttention
    from perfdb.estimate import Estimate

__all__ = ["EncoderTables"]

#: Doublings in the width of a head count so many times those in the number of heads: a kernel is made for one width.
_WIDTH_WEIGHT = 4.0


class EncoderTables:
    """The table ``encoder_attention`` of one chip and framework.

    Parameters
    ----------
    chip
        The chip to price.
    path
        The file; None where there is none.
    note
        Told of the verdict of screening on rows of a file.
    """

    def __init__(self, chip: Chip, path: Path | None, note: Callable[[Path, NDArray[np.uint8]], None]) -> None:
        self.chip, self.path, self.note = chip, path, note
        self._curves: dict[EncoderAttention, tuple[EncoderAttention, Mapping[int, Curve]] | None] = {}

    def attention(
        self, operator: EncoderAttention, batch: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> Estimate | None:
        """Return the time of one layer over ``batch`` sequences of ``tokens`` patches each; None if not measured."""
        if operator not in self._curves:
            self._curves[operator] = self._nearest(operator)
        found = self._curves[operator]
        if found is None:
            return None
        nearest, curves = found
        # As many heads over all sequences: that is what a kernel spreads over the chip.
        alike = np.maximum(np.rint(batch * operator.heads / nearest.heads), 1).astype(np.int64)
        estimate = over_batches(self.chip, nearest, curves, alike, tokens)
        if nearest == operator:
            return estimate
        return as_utilised(self.chip, estimate, (nearest, alike), (operator, batch), tokens)

    def _nearest(self, operator: EncoderAttention) -> tuple[EncoderAttention, Mapping[int, Curve]] | None:
        if self.path is None:
            return None
        points = read_points(self.path, ("head_dim", "num_heads", "batch_size"), "isl")
        if points is None:
            return None
        shapes = np.unique(points.shape[:, :2], axis=0)
        away = np.abs(np.log2(shapes / np.array([operator.head_dim, operator.heads], float)))
        head_dim, heads = (int(x) for x in shapes[np.argmin(away @ np.array([_WIDTH_WEIGHT, 1.0]))])
        nearest = replace(operator, heads=heads, head_dim=head_dim, multiple=1)
        points = points.where((points.shape[:, :2] == (head_dim, heads)).all(axis=1))
        verdict = screened(points, attention_bound(self.chip, nearest, points.shape[:, 2], points.at).ns)
        self.note(self.path, verdict)
        curves = {
            shape[-1]: Curve.sound(points.at[place], points.ns[place], verdict[place], quadratic=True)
            for shape, place in points.curves()
        }
        sound = {size: curve for size, curve in curves.items() if curve is not None}
        return (nearest, sound) if sound else None
