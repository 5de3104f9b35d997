"""Operators whose cost depends on a number of rows alone: projections, experts, element-wise kernels, collectives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from perfdb.expert_operators import ExpertExchange, RoutedExperts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfdb.latent import Latent

__all__ = [
    "AllReduce",
    "Collective",
    "Elementwise",
    "Gemm",
    "LatentProjections",
    "Overlapped",
    "PointToPoint",
    "RowOperator",
    "as_collective",
    "as_nccl",
    "joined",
]


@dataclass(frozen=True, slots=True)
class Gemm:
    """A projection: (rows, k) times (k, n).

    Attributes
    ----------
    name
        Which projection.
    n, k
        Columns of the result and of the input, on one chip.
    weights
        Format of the weights, a key of :data:`perfdb.formats.WEIGHT_BYTES`.
    count
        Times it runs in one step.
    """

    name: str
    n: int
    k: int
    weights: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A memory-bound kernel (norm, activation, embedding): ``bytes_per_row`` read and written per row."""

    name: str
    bytes_per_row: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class AllReduce:
    """A sum over ``chips`` chips of ``width`` 16-bit elements per row, by the engine's own kernel."""

    kind: ClassVar[str] = "all_reduce"
    element_bytes: ClassVar[int] = 2

    name: str
    width: int
    chips: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective of NCCL.

    Attributes
    ----------
    name
        Which one.
    kind
        ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``all_reduce``.
    width
        Elements per row of the whole message: what each chip holds after an all-gather, before a reduce-scatter or
        all-reduce, and sends (its own share included) in an all-to-all.
    chips
        Chips that take part.
    count
        Times it runs in one step.
    element_bytes
        Bytes of an element, 2 or 1.
    """

    name: str
    kind: str
    width: int
    chips: int
    count: int = 1
    element_bytes: int = 2


@dataclass(frozen=True, slots=True)
class PointToPoint:
    """Activations handed to the next pipeline stage: ``bytes_per_row`` per row, by the ``chips`` of a stage."""

    name: str
    bytes_per_row: int
    count: int = 1
    chips: int = 1


@dataclass(frozen=True, slots=True)
class LatentProjections:
    """All of latent attention but the attention: what tables measure as one module together with it.

    Attributes
    ----------
    name
        What to call it.
    latent
        With the heads of one chip.
    hidden
        Width of the model.
    weights, out_weights
        Formats of the projections, and of the one out.
    kv_cache
        ``bf16`` or ``fp8``.
    count
        Layers.

    Notes
    -----
    The expansion of the latent is counted for every row: a decoding token, which multiplies its queries and results
    by it instead, takes as much arithmetic and reads the same weights.
    """

    name: str
    latent: Latent
    hidden: int
    weights: str
    out_weights: str
    kv_cache: str
    count: int = 1

    @property
    def gemms(self) -> tuple[Gemm, ...]:
        """The projections one by one, of one layer."""
        return tuple(
            Gemm(name, n, k, self.out_weights if name == "attention_out" else self.weights)
            for name, n, k in self.latent.shapes(self.hidden)
        )

    @property
    def elementwise(self) -> Elementwise:
        """Norms of the latents, rotation, and the write to the cache: read and written once."""
        latent = self.latent
        return Elementwise("latent_norms", 4 * (latent.q_rank + latent.cached + latent.heads * latent.rope))


@dataclass(frozen=True, slots=True)
class Overlapped:
    """Routed experts, and what runs beside them on a stream of its own while the rows are few.

    Attributes
    ----------
    name
        What to call it.
    experts
        The longer part, as a rule.
    beside
        What runs meanwhile, one after another.
    most_rows
        Up to so many rows; over more, all run in turn.
    count
        Times it runs in one step.
    """

    name: str
    experts: RoutedExperts
    beside: tuple[RowOperator, ...]
    most_rows: int
    count: int = 1


#: An operator whose cost depends on a number of rows alone.
RowOperator = (
    Gemm
    | Elementwise
    | AllReduce
    | Collective
    | PointToPoint
    | RoutedExperts
    | ExpertExchange
    | Overlapped
    | LatentProjections
)


def as_collective(exchange: ExpertExchange) -> Collective:
    """Return an exchange as a plain all-to-all that sends as many bytes."""
    width = round(exchange.copies * exchange.hidden)
    return Collective(exchange.name, "all_to_all", width, exchange.chips, exchange.count, exchange.element_bytes)


def as_nccl(operator: AllReduce) -> Collective:
    """Return NCCL's all-reduce of as many bytes among as many chips."""
    return Collective(operator.name, operator.kind, operator.width, operator.chips, operator.count)


def joined(rows: Iterable[RowOperator]) -> list[RowOperator]:
    """Return the operators with those that differ in their counts alone as one."""
    counts: Counter[RowOperator] = Counter()
    for row in rows:
        counts[replace(row, count=1)] += row.count
    return [replace(row, count=count) for row, count in counts.items()]
