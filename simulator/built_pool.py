"""A pool of a scenario once its names are objects, and what of it others are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self, TypeAlias

from hardware.errors import CatalogueError
from perfdb.calibrated import calibrated_chain
from perfdb.layout import Layout
from perfdb.power_cap import capped_chain
from perfdb.tables import tables_root
from perfdb.two_batches import two_batches
from simulator.calibration import Calibration, read_calibration
from simulator.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hardware.catalogue import Chip
    from perfdb.communication import Communication
    from perfdb.compile import CompiledCosts
    from perfdb.encoder_operators import EncoderOperators
    from perfdb.encoder_prices import EncoderCosts
    from perfdb.memory import MemoryPlan
    from perfdb.model import ModelSpec
    from perfdb.operators import StepOperators
    from perfdb.sources import SourceChain
    from perfdb.step_profile import ProfiledCosts
    from perfdb.two_batches import TwoBatches
    from simulator.encode_instance import EncodeParts
    from simulator.engine_options import EngineOptions
    from simulator.engine_parts import EngineParts
    from simulator.pool_table import Pool

__all__ = [
    "AnyPool",
    "BuiltEncoder",
    "BuiltPool",
    "calibration_of",
    "cost_chain",
    "halves_of",
    "in_database",
    "layout_of",
]


@dataclass(frozen=True, slots=True)
class BuiltPool:
    """A pool ready to run.

    Attributes
    ----------
    name
        Its name in results.
    model
        What it serves.
    chip, layout
        What one instance runs on.
    options
        Engine options with every default filled in.
    memory
        Where the memory of a chip goes.
    costs
        Compiled prices and their origins.
    parts
        What its instances are made of.
    tables
        SHA-256 of every table read, by its path inside the database.
    set_aside
        Rows screened of the engine's own tables and set aside by reason, by the same paths.
    operators
        What one step runs on one chip.
    power_cap
        Share of its TDP that a chip may draw.
    encoder
        Prices of the runs of the encoder, where its instances have one.
    shares
        The pool whose chips its instances run on, each beside one of those; None where it has its own.
    exchange
        How much of a step is communication, where it shares chips; None where nothing is, or it has its own.
    host_w
        Most that the node draws beside its chips, per chip; 0 where nobody says.
    """

    name: str
    model: ModelSpec
    chip: Chip
    layout: Layout
    options: EngineOptions
    memory: MemoryPlan
    costs: CompiledCosts | ProfiledCosts
    parts: EngineParts
    tables: Mapping[str, str]
    set_aside: Mapping[str, Mapping[str, int]]
    operators: StepOperators
    power_cap: float
    host_w: float
    encoder: EncoderCosts | None = None
    shares: str | None = None
    exchange: Communication | None = None

    @property
    def chips(self) -> int:
        """Chips of all instances, but for those that are counted in another pool."""
        return 0 if self.shares else self.parts.replicas * self.layout.chips

    def of_replicas(self, replicas: int) -> Self:
        """Return the pool with so many instances."""
        return replace(self, parts=replace(self.parts, replicas=replicas))

    @property
    def micro_batches(self) -> int:
        """Micro-batches that pass the stages of a pipeline apart, each with a log; 1 where rounds are priced whole."""
        return self.layout.pipeline if self.parts.prefills else 1


@dataclass(frozen=True, slots=True)
class BuiltEncoder:
    """A pool ready to encode and to do nothing else; what :class:`BuiltPool` says of its attributes holds here.

    Attributes
    ----------
    costs
        Prices of its runs.
    operators
        What one run takes on one chip.
    """

    name: str
    model: ModelSpec
    chip: Chip
    layout: Layout
    options: EngineOptions
    memory: MemoryPlan
    costs: EncoderCosts
    parts: EncodeParts
    tables: Mapping[str, str]
    set_aside: Mapping[str, Mapping[str, int]]
    operators: EncoderOperators
    power_cap: float
    host_w: float
    shares: str | None = None
    exchange: Communication | None = None

    @property
    def encoder(self) -> EncoderCosts:
        """Prices of its runs."""
        return self.costs

    @property
    def chips(self) -> int:
        """Chips of all instances, but for those that are counted in another pool."""
        return 0 if self.shares else self.parts.replicas * self.layout.chips

    def of_replicas(self, replicas: int) -> Self:
        """Return the pool with so many instances."""
        return replace(self, parts=replace(self.parts, replicas=replicas))


AnyPool: TypeAlias = BuiltPool | BuiltEncoder
"""A pool ready to run."""


def cost_chain(pool: Pool, name: str, chip: Chip) -> SourceChain:
    """Return what prices the operators of a pool.

    Raises
    ------
    CatalogueError
        If ``pool.tables`` is no folder of kernel tables.
    """
    try:
        tables = None if pool.tables is None else tables_root(pool.tables)
    except CatalogueError as problem:
        raise CatalogueError(f"pool.{name}.tables: {problem}") from None
    chain = ENGINES[pool.engine].cost_chain(chip, pool.cost_sources, tables)
    return capped_chain(calibrated_chain(chain, calibration_of(pool).factors), chip, pool.power_cap)


def halves_of(pool: Pool, name: str, model: ModelSpec, chip: Chip) -> TwoBatches | None:
    """Return how steps of a pool pass the layers in two halves; None where they pass them whole."""
    wanted = pool.engine_options.two_batches
    return two_batches(model, layout_of(pool), chip, partial(cost_chain, pool, name)) if wanted else None


def in_database(path: Path) -> str:
    """Return the place of a table below ``data``."""
    return "/".join(path.parts[-5:])


def layout_of(pool: Pool) -> Layout:
    """Return how the model is cut over the chips of an instance."""
    return Layout(
        pool.tensor_parallel,
        pool.pipeline_parallel,
        pool.data_parallel,
        pool.expert_parallel,
        all_to_all=pool.expert_exchange == "all_to_all",
        redundant=pool.redundant_experts,
        stage="" if pool.serves_both else pool.stages[-1],
    )


def calibration_of(pool: Pool) -> Calibration:
    """Return what was fitted to a pool's server; nothing, where it names no calibration."""
    found = pool.calibration
    return read_calibration(found) if isinstance(found, str) else found or Calibration()
