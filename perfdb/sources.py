"""The cost sources there are, and the chain that asks them in turn."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from hardware.errors import CostError
from perfdb.roofline import RooflineSource
from perfdb.silicon import SiliconSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.estimate import Estimate
    from perfdb.operators import Kernel, RowOperator
    from perfdb.source import CostSource

__all__ = ["COST_SOURCES", "DEFAULT_SOURCES", "SourceChain", "source_chain"]


def _roofline(chip: Chip, _framework: str) -> CostSource:
    return RooflineSource(chip)


#: Every cost source by name: (chip, framework) -> source. A new one is a module and a line here.
COST_SOURCES: Mapping[str, Callable[[Chip, str], CostSource]] = MappingProxyType(
    {"silicon": SiliconSource, "roofline": _roofline}
)

#: Measured first, then the roofline for what was not measured.
DEFAULT_SOURCES = ("silicon", "roofline")


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
        return self._first(operator.name, (source.rows(operator, rows) for source in self.sources))

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate:
        """Return the first source's cost of one layer's attention.

        Raises
        ------
        CostError
            If no source prices it.
        """
        answers = (source.attention(operator, batch, tokens) for source in self.sources)
        return self._first(operator.name, answers)

    @property
    def files(self) -> tuple[Path, ...]:
        """The tables read so far."""
        return tuple(path for source in self.sources for path in getattr(source, "files", ()))

    def _first(self, name: str, answers: Iterator[Estimate | None]) -> Estimate:
        for answer in answers:
            if answer is not None:
                return answer
        raise CostError(f"pool.cost_sources: no source prices {name} on {self.label}; add 'roofline' to the list")


def source_chain(chip: Chip, framework: str, names: Sequence[str] = DEFAULT_SOURCES) -> SourceChain:
    """Return the chain of the named sources for one chip and framework."""
    return SourceChain([COST_SOURCES[name](chip, framework) for name in names], f"{chip.name} with {framework}")
