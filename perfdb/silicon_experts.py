"""The measured routed experts of one table: curves over the tokens, and the nearest one to a layer."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from perfdb.estimate import Estimate, Origin
from perfdb.expert_operators import RoutedExperts
from perfdb.formats import WEIGHT_BYTES
from perfdb.interpolate import Curve
from perfdb.points import Points
from perfdb.screening import screened
from perfdb.speed_of_light import compute_format, experts_bound
from perfdb.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from hardware.catalogue import Chip

__all__ = ["EXPERT_FORMATS", "EXPERT_SHAPE", "ExpertCurves", "expert_curves", "experts_light"]

#: Names that the tables give the formats; of several the first that was measured for the layer. On chips with 4-bit
#: arithmetic engines multiply mxfp4 weights with 8-bit activations, on others with 16-bit ones.
EXPERT_FORMATS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "bf16": ("bfloat16",),
        "fp8": ("fp8",),
        "fp8_block": ("fp8_block",),
        "nvfp4": ("nvfp4",),
        "int4": ("int4_wo",),
        "int4_group32": ("int4_wo",),
        "mxfp4": ("w4a8_mxfp4_mxfp8", "w4a16_mxfp4"),
        "mxfp4_mxfp8": ("w4a8_mxfp4_mxfp8",),
    }
)
#: How tokens choose experts in the tables: loads follow a power law. The exponents are those the owner of the
#: database takes for DeepSeek, whose router keeps loads even, and for other models. The former wakes about as many
#: experts as an independent choice would.
_EVEN, _UNEVEN = "power_law_1.01", "power_law_1.2"
#: Columns of a table that tell its curves apart.
EXPERT_SHAPE = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
_COLUMNS = (*EXPERT_SHAPE, "num_tokens", "latency", "moe_dtype", "distribution", "kernel_source")
#: Kernels without a gate are told by their names.
_UNGATED = "nongated"
#: Shapes so many doublings apart, summed over what one chip holds, are no kin; a different cut counts a quarter.
_NEAR: Final = 3.0
_CUT: Final = 0.25
_NS_PER_MS = 1e6


class ExpertCurves:
    """Curves of one format and one way to choose experts.

    Parameters
    ----------
    points
        Shapes (hidden, intermediate, per token, experts, tensor and expert parallelism), positions in tokens.
    verdict
        What screening says of each.
    """

    def __init__(self, points: Points, verdict: NDArray[np.uint8]) -> None:
        self.points, self.verdict = points, verdict
        self._places = dict(points.curves())
        self._shapes = np.array(list(self._places), np.int64)

    def has(self, experts: RoutedExperts) -> bool:
        """Return whether layers of this shape were measured, cut in any way."""
        return bool((self._shapes[:, :4] == _shape(experts)[:4]).all(axis=1).any())

    def nearest(self, experts: RoutedExperts) -> tuple[int, ...] | None:
        """Return the measured shape that is nearest; None where none is near."""
        distance = _distances(self._shapes, _shape(experts))
        if distance.min() > _NEAR:
            return None
        return tuple(int(size) for size in self._shapes[np.argmin(distance)])

    def reach(self, experts: RoutedExperts) -> int:
        """Return up to how many tokens the nearest shape was measured; 0 where none is near."""
        nearest = self.nearest(experts)
        return 0 if nearest is None else int(self.points.at[self._places[nearest]][-1])

    def estimate(self, chip: Chip, experts: RoutedExperts, rows: NDArray[np.int64]) -> Estimate | None:
        """Return the cost of the experts, or from the utilisation of their nearest kin; None where none is near."""
        shape, nearest = _shape(experts), self.nearest(experts)
        if nearest is None:
            return None
        place = self._places[nearest]
        curve = Curve.sound(self.points.at[place], self.points.ns[place], self.verdict[place])
        if curve is None:
            return None
        kin = _of_shape(experts, nearest)
        tokens = experts.tokens(rows)
        found = curve.estimate(tokens, lambda at: experts_bound(chip, kin, at).ns)
        if nearest == shape:
            return found
        ratio = experts_bound(chip, experts, rows).ns / experts_bound(chip, kin, tokens).ns
        return Estimate(found.ns * ratio, np.full(len(rows), Origin.EXTRAPOLATED, np.uint8))


def expert_curves(chip: Chip, path: Path, experts: RoutedExperts) -> ExpertCurves | None:
    """Return the curves a table has for such experts, or None."""
    found = [
        curves
        for name in EXPERT_FORMATS.get(experts.weights, ())
        if (curves := _read(chip, path, name, (experts.weights, experts.even, experts.gated)))
    ]
    return next((curves for curves in found if curves.has(experts)), found[0] if found else None)


@lru_cache(maxsize=64)
def _read(chip: Chip, path: Path, name: str, kind: tuple[str, bool, bool]) -> ExpertCurves | None:
    weights, even, gated = kind
    table = read_table(path, _COLUMNS)
    ungated = np.array([_UNGATED in str(source) for source in table["kernel_source"]])
    keep = (table["moe_dtype"] == name) & (table["distribution"] == (_EVEN if even else _UNEVEN)) & (ungated != gated)
    if not keep.any():
        return None
    # An engine can be told which of its kernels to use, so of several for one point the fastest counts.
    points = Points.of(
        [table[column][keep] for column in EXPERT_SHAPE], table["num_tokens"][keep], table["latency"][keep] * _NS_PER_MS
    )
    return ExpertCurves(points, screened(points, experts_light(chip, weights, points.shape, points.at, gated=gated)))


def experts_light(
    chip: Chip, weights: str, shape: NDArray[np.int64], tokens: NDArray[np.int64], *, gated: bool
) -> NDArray[np.float64]:
    """Return what no kernel can beat, however tokens choose, ns: an even share of the work, the weights of one expert.

    Parameters
    ----------
    weights
        Format, a key of :data:`perfdb.formats.WEIGHT_BYTES`.
    shape
        Columns :data:`EXPERT_SHAPE` of each point, shape (points, 6).
    tokens
        Of each point.
    gated
        Experts have three matrices, else two.
    """
    hidden, intermediate, per_token, _, tensor, expert = shape.T.astype(np.float64)
    of_one = hidden * intermediate * (3 if gated else 2) / tensor
    visits = tokens * per_token / expert
    peak = chip.peak_flops(compute_format(chip, weights)) or 1.0
    compute: NDArray[np.float64] = 1e9 * 2.0 * visits * of_one / peak
    memory: NDArray[np.float64] = 1e9 * of_one * WEIGHT_BYTES[weights] / chip.memory_bytes_per_s
    light: NDArray[np.float64] = np.maximum(compute, memory)
    return light


def _shape(experts: RoutedExperts) -> tuple[int, ...]:
    cut = experts.tensor_parallel, experts.expert_parallel
    return experts.hidden, experts.intermediate, experts.per_token, experts.experts, *cut


def _of_shape(experts: RoutedExperts, shape: tuple[int, ...]) -> RoutedExperts:
    """Return experts of a measured shape, whose rows are tokens."""
    hidden, intermediate, per_token, number, tensor, expert = shape
    return RoutedExperts(
        experts.name,
        hidden,
        intermediate,
        number,
        per_token,
        experts.weights,
        experts.gated,
        experts.even,
        tensor,
        expert,
    )


def _distances(shapes: NDArray[np.int64], wanted: tuple[int, ...]) -> NDArray[np.float64]:
    """Return how far measured shapes are from the wanted one, in doublings of what one chip holds and of the cut."""
    here, there = np.log2(np.array(wanted, float)), np.log2(shapes.astype(float))
    apart = np.abs(_held(there) - _held(here)).sum(axis=1)
    found: NDArray[np.float64] = apart + _CUT * np.abs(there[:, 4:] - here[4:]).sum(axis=1)
    return found


def _held(shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, in doublings, hidden size, width of one expert, choices per token and experts, as one chip has them."""
    hidden, intermediate, per_token, number, tensor, expert = np.moveaxis(shape, -1, 0)
    return np.stack([hidden, intermediate - tensor, per_token, number - expert], axis=-1)
