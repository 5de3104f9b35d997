"""Cost source over all measured tables: those of :mod:`perfdb.silicon`, and those of other mixers than attention."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from perfdb.delta_net import DeltaRule
from perfdb.delta_tables import DeltaTables
from perfdb.encoder_operators import EncoderAttention
from perfdb.encoder_tables import EncoderTables
from perfdb.latent import IndexScan, LatentAttention
from perfdb.latent_tables import LatentTables
from perfdb.operators import Kernel, LatentProjections, RowOperator
from perfdb.silicon import SiliconSource
from perfdb.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from perfdb.estimate import Estimate

__all__ = ["MeasuredSource"]


class MeasuredSource(SiliconSource):
    """Prices of everything that was measured; see :class:`perfdb.silicon.SiliconSource`."""

    def rows(self, operator: RowOperator, rows: NDArray[np.int64]) -> Estimate | None:
        """Return what depends on rows alone: projections, collectives, the projections of latent attention."""
        if isinstance(operator, LatentProjections):
            return self._latent.rows(operator, rows)
        return super().rows(operator, rows)

    def attention(self, operator: Kernel, batch: NDArray[np.int64], tokens: NDArray[np.int64]) -> Estimate | None:
        """Return what mixes tokens: attention of any kind, delta rules, attention of encoders."""
        if isinstance(operator, LatentAttention | IndexScan):
            return self._latent.attention(operator, batch, tokens)
        if isinstance(operator, DeltaRule):
            return self._delta.attention(operator, batch, tokens)
        if isinstance(operator, EncoderAttention):
            return self._encoder.attention(operator, batch, tokens)
        return super().attention(operator, batch, tokens)

    def launch_ns(self, operator: Kernel) -> float:
        """Return the time in which the host launches a module over prompts, ns, where its kernels do not hide it."""
        return self._latent.launch_ns(operator) if isinstance(operator, LatentAttention) else 0.0

    @cached_property
    def _latent(self) -> LatentTables:
        return LatentTables(self.chip, self._read, super().rows, super().attention, self._latent_siblings)

    def _latent_siblings(self) -> Iterator[LatentTables]:
        for tables in self.tables.siblings:
            source = MeasuredSource(self.chip, tables.framework, tables.root)
            source.files = self.files
            yield source._latent

    @cached_property
    def _delta(self) -> DeltaTables:
        return DeltaTables(self.chip, self._read)

    @cached_property
    def _encoder(self) -> EncoderTables:
        return EncoderTables(self.chip, self._find("encoder_attention", "encoder_attention"), self._note)

    def _read(self, family: str, table: str, columns: tuple[str, ...]) -> Mapping[str, NDArray[Any]] | None:
        path = self._find(family, table)
        return read_table(path, columns) if path else None
