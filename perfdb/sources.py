"""The cost sources there are, and the chain that asks them in turn."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from hardware.errors import CostError
from perfdb.borrowed import BorrowedSource
from perfdb.estimate import Estimate
from perfdb.measured import MeasuredSource
from perfdb.operators import Overlapped
from perfdb.roofline import RooflineSource
from perfdb.tables import TableChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.operators import Kernel, RowOperator
    from perfdb.source import CostSource

__all__ = ["COST_SOURCES", "DEFAULT_SOURCES", "SourceChain", "source_chain"]


def _silicon(chip: Chip, framework: str, choice: TableChoice) -> CostSource:
    return MeasuredSource(chip, framework, choice.root, choice.release)


def _roofline(chip: Chip, _framework: str, _choice: TableChoice) -> CostSource:
    return RooflineSource(chip)


#: Every cost source by name: (chip, framework, tables) -> source. A new one is a module and a line here.
COST_SOURCES: Mapping[str, Callable[[Chip, str, TableChoice], CostSource]] = MappingProxyType(
    {"silicon": _silicon, "borrowed": BorrowedSource, "roofline": _roofline}
)

#: Measured first, then as the nearest kin, then the roofline for what has none.
DEFAULT_SOURCES = ("silicon", "borrowed", "roofline")
#: The tables of the installed package, in the versions it calls current.
_CURRENT = TableChoice()


class SourceChain:
    """Asks each source in turn; the first that knows an operator prices it.

    Parameters
    ----------
    sources
        In order of trust.
    label
        What is priced, for messages: chip and framework.
    """

    def __init__(self, sources: Sequence[CostSource], label: str) -> None:
        self.sources = tuple(sources)
        self.label = label

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate:
        """Return the first source's cost of ``operator``.

        Raises
        ------
        CostError
            If no source prices it.
        """
        if isinstance(operator, Overlapped):
            return self._overlapped(operator, rows)
        return self._completed(operator.name, (source.rows(operator, rows) for source in self.sources))

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate:
        """Return the first source's cost of one layer's attention.

        Raises
        ------
        CostError
            If no source prices it.
        """
        answers = (source.attention(operator, batch, tokens) for source in self.sources)
        return self._completed(operator.name, answers)

    def launch_ns(self, operator: Kernel) -> float:
        """Return the time in which the host launches what runs over prompts, ns, where the kernels do not hide it."""
        return max(
            (source.launch_ns(operator) for source in self.sources if isinstance(source, MeasuredSource)), default=0.0
        )

    def _overlapped(self, operator: Overlapped, rows: NDArray[np.int64]) -> Estimate:
        experts = self.rows(operator.experts, rows)
        parts = [self.rows(part, rows) for part in operator.beside]
        beside = np.sum([part.ns for part in parts], axis=0)
        together = np.where(rows <= operator.most_rows, np.maximum(experts.ns, beside), experts.ns + beside)
        return Estimate(together, np.max([experts.origin, *(part.origin for part in parts)], axis=0))

    @property
    def files(self) -> tuple[Path, ...]:
        """The tables read so far."""
        return tuple(dict.fromkeys(path for source in self.sources for path in getattr(source, "files", ())))

    @property
    def set_aside(self) -> Mapping[Path, Mapping[str, int]]:
        """Rows screened of each of the framework's own tables, and set aside by reason."""
        counts: dict[Path, Mapping[str, int]] = {}
        for source in self.sources:
            counts |= getattr(source, "set_aside", {})
        return counts

    def _completed(self, name: str, answers: Iterator[Estimate | None]) -> Estimate:
        found: Estimate | None = None
        for answer in answers:
            if answer is not None:
                found = found.completed(answer) if found is not None else answer
            if found is not None and found.complete:
                return found
        raise CostError(
            f"pool.cost_sources: no source prices {name} on {self.label}; add 'borrowed' or 'roofline' to the list"
        )


def source_chain(
    chip: Chip, framework: str, names: Sequence[str] = DEFAULT_SOURCES, choice: TableChoice = _CURRENT
) -> SourceChain:
    """Return the chain of the named sources for one chip and framework, over the chosen tables."""
    return SourceChain([COST_SOURCES[name](chip, framework, choice) for name in names], f"{chip.name} with {framework}")
