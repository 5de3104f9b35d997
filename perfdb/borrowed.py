"""Cost source that borrows from the nearest kin that was measured: utilisation carries over, times do not.

What a table lacks, and what screening set aside in it, is looked for in a fixed order, nearest first: another shape
(:mod:`perfdb.silicon` does most of that), another framework, another number format that multiplies alike, another chip
of the architecture. The first that knows a point prices it, with its utilisation: ``bound here * time there / bound
there``. What is further away than that is left to the roofline, which is closer (docs/decisions/023-kernel-tables.md).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from hardware.catalogue import chip_names, load_chip
from perfdb.collectives import group_of, moved_bytes
from perfdb.estimate import Estimate, Origin
from perfdb.expert_operators import ExpertExchange, RoutedExperts
from perfdb.formats import WEIGHT_BYTES
from perfdb.measured import MeasuredSource
from perfdb.operators import AllReduce, Collective, Gemm, Kernel, LatentProjections, RowOperator, as_collective, as_nccl
from perfdb.speed_of_light import attention_bound, compute_format, row_bound
from perfdb.tables import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.tables import TableChoice

__all__ = ["BorrowedSource"]

Product = Gemm | RoutedExperts | LatentProjections
#: Chips further apart than this in memory rate or arithmetic are no kin: a B200's projections from an RTX PRO 6000's
#: are 37 % off in the median, from a B300's 5 %.
_NEAR: Final = 2.0
_GROUPS: Final = (2, 4, 8, 16)


class BorrowedSource:
    """Prices of operators that were not measured, from the utilisation of kin that were.

    Parameters
    ----------
    chip, framework
        What to price.
    choice
        Which tables.
    """

    def __init__(self, chip: Chip, framework: str, choice: TableChoice) -> None:
        self.chip, self.framework, self.choice = chip, framework, choice
        self._sources: dict[tuple[str, str], MeasuredSource] = {}

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate | None:
        """Return projections, experts and collectives as kin run them; None for every other operator."""
        if isinstance(operator, Product):
            return _first_known(
                (source.rows(kin, rows), _bound_ns(self.chip, operator, rows), _bound_ns(source.chip, kin, rows))
                for source, kin in self._product_kin(operator)
            )
        if isinstance(operator, AllReduce | Collective):
            return _first_known(
                (source.rows(kin, rows), _on_links(self.chip, operator, rows), _on_links(source.chip, kin, rows))
                for source, kin in self._collective_kin(operator)
            )
        if isinstance(operator, ExpertExchange):
            return self._exchange(operator, rows)
        return None

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate | None:
        """Return one layer's attention as kin run it."""
        here = attention_bound(self.chip, operator, batch, tokens).ns
        return _first_known(
            (source.attention(kin, batch, tokens), here, attention_bound(source.chip, kin, batch, tokens).ns)
            for source, kin in self._attention_kin(operator)
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The tables read so far."""
        return tuple(path for source in self._sources.values() for path in source.files)

    @cached_property
    def _chips(self) -> tuple[Chip, ...]:
        """Other chips of the architecture that are near, nearest first."""
        others = [load_chip(name) for name in chip_names() if name != self.chip.name]
        near = [(_distance(self.chip, chip), chip.name, chip) for chip in others]
        return tuple(chip for distance, _, chip in sorted(near, key=lambda one: one[:2]) if distance <= np.log2(_NEAR))

    def _exchange(self, exchange: ExpertExchange, rows: NDArray[np.int64]) -> Estimate | None:
        """Return an exchange by the framework's own kernels on a near chip, among fewer chips, then by others'."""
        own = self._source(self.chip, self.framework)
        return (
            self._exchange_of((self._source(chip, self.framework) for chip in self._chips), exchange, rows)
            or own.exchange_among(exchange, rows, fewer=True)
            or self._exchange_of(self._elsewhere(own_chip=True, own_framework=False), exchange, rows)
            or self._exchange_of(self._elsewhere(own_chip=False, own_framework=True), exchange, rows)
            or own.rows(as_collective(exchange), rows)
        )

    def _exchange_of(
        self, sources: Iterable[MeasuredSource], exchange: ExpertExchange, rows: NDArray[np.int64]
    ) -> Estimate | None:
        """Return an exchange as others have it among as many chips over links of the same kind."""
        plain, group = as_collective(exchange), group_of(self.chip, exchange.chips)
        here = _on_links(self.chip, plain, rows)
        return _first_known(
            (source.exchange_among(exchange, rows), here, _on_links(source.chip, plain, rows))
            for source in sources
            if group_of(source.chip, exchange.chips) == group
        )

    def _source(self, chip: Chip, framework: str) -> MeasuredSource:
        key = chip.name, framework
        if key not in self._sources:
            release = self.choice.release if framework == self.framework else None
            self._sources[key] = MeasuredSource(chip, framework, self.choice.root, release)
        return self._sources[key]

    def _elsewhere(self, *, own_chip: bool, own_framework: bool) -> Iterator[MeasuredSource]:
        """Yield the sources of one step of the order; the framework's own first."""
        frameworks = [self.framework] * own_framework + [name for name in FRAMEWORKS if name != self.framework]
        for chip in (self.chip,) if own_chip else self._chips:
            for framework in frameworks:
                yield self._source(chip, framework)

    def _product_kin(self, product: Product) -> Iterator[tuple[MeasuredSource, Product]]:
        for source in self._elsewhere(own_chip=True, own_framework=False):
            yield source, product
        for weights in _alike(self.chip, product.weights):
            for source in self._elsewhere(own_chip=True, own_framework=True):
                yield source, replace(product, weights=weights)
        for source in self._elsewhere(own_chip=False, own_framework=True):
            yield source, product

    def _attention_kin(self, operator: Kernel) -> Iterator[tuple[MeasuredSource, Kernel]]:
        for source in self._elsewhere(own_chip=True, own_framework=False):
            yield source, operator
        for source in self._elsewhere(own_chip=False, own_framework=True):
            yield source, operator

    def _collective_kin(
        self, operator: AllReduce | Collective
    ) -> Iterator[tuple[MeasuredSource, AllReduce | Collective]]:
        group = group_of(self.chip, operator.chips)
        if group.nodes == 1:
            for chips in _nearest(_GROUPS, operator.chips):
                yield self._source(self.chip, self.framework), replace(operator, chips=chips)
        for source in self._elsewhere(own_chip=True, own_framework=False):
            yield source, operator
        if isinstance(operator, AllReduce):
            yield self._source(self.chip, self.framework), as_nccl(operator)
        for source in self._elsewhere(own_chip=False, own_framework=True):
            # NICs say nothing of NVLink, nor the other way round.
            if group_of(source.chip, operator.chips) == group:
                yield source, operator


def _first_known(
    answers: Iterator[tuple[Estimate | None, NDArray[np.float64], NDArray[np.float64]]],
) -> Estimate | None:
    """Return what the first to know each point says of it, in the utilisation it has there."""
    found: Estimate | None = None
    for there, here_ns, there_ns in answers:
        if there is None:
            continue
        borrowed = Estimate.of(there.ns * here_ns / there_ns, Origin.BORROWED)
        found = borrowed if found is None else found.completed(borrowed)
        if found.complete:
            break
    return found


def _bound_ns(chip: Chip, product: Product, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    bound = row_bound(chip, product, rows)
    return bound.ns if bound else np.zeros(len(rows))


def _on_links(chip: Chip, operator: AllReduce | Collective, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return moved_bytes(operator, operator.chips, rows.astype(np.float64)) / chip.group_link_bytes_per_s(operator.chips)


def _distance(one: Chip, other: Chip) -> float:
    """Return how many doublings lie between two chips, in memory rate or arithmetic; infinite between architectures."""
    if one.architecture != other.architecture:
        return np.inf
    rates = [(chip.memory_bytes_per_s, chip.peak_flops("bf16") or 1.0) for chip in (one, other)]
    return max(abs(float(np.log2(a / b))) for a, b in zip(*rates, strict=True))


def _alike(chip: Chip, weights: str) -> list[str]:
    """Return the formats that a chip multiplies in the same numbers and whose weights are about as large."""
    return [
        other
        for other in WEIGHT_BYTES
        if other != weights
        and compute_format(chip, other) == compute_format(chip, weights)
        and abs(np.log2(WEIGHT_BYTES[other] / WEIGHT_BYTES[weights])) < 0.25
    ]


def _nearest(sizes: tuple[int, ...], wanted: int) -> list[int]:
    """Return other sizes, nearest first, larger first."""
    return [-size for _, size in sorted((abs(np.log2(size / wanted)), -size) for size in sizes if size != wanted)]
