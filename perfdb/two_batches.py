"""Two micro-batches of a step on a chip at once, so that neither computing nor the exchange with experts stands still.

A step is cut into two halves, which pass the layers with experts one behind the other: while one half is on its way to
experts and back, the other one computes. Two ways of it are built, which differ in what runs beside what.

*The exchange beside all that computes*: SGLang's ``--enable-two-batch-overlap`` and DeepSeek's own prompts on H800.
Kernels that send take units from those that compute, as long as they last (:data:`SENDING`).

*Experts and their exchange beside attention*, each on units of their own: CloudMatrix-Infer's decoding, which gives
16 of a die's 24 cube cores and 32 of its 48 vector cores to attention and the others to experts (arXiv 2506.12708,
Figure 14). What is bound by arithmetic, and the exchange, which vector cores send, take as much longer as there are
fewer cores; the memory is everybody's, and no faster for both than for one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from perfdb.by_origin import by_origin
from perfdb.expert_operators import ExpertExchange
from perfdb.operators import layer_operators, step_operators
from perfdb.roofline import STREAM_EFFICIENCY
from perfdb.speed_of_light import attention_bound, row_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.layout import Layout
    from perfdb.model import ModelSpec
    from perfdb.operators import Kernel, RowOperator, StepOperators
    from perfdb.sources import SourceChain

__all__ = ["SENDING", "TwoBatches", "Units", "chip_of_units", "two_batches", "units_of"]


@dataclass(frozen=True, slots=True)
class Units:
    """How two streams share the units of a chip.

    Attributes
    ----------
    main, beside
        Share of the units that computes in the first stream, and in the second.
    experts_beside
        The second stream computes experts as well as it sends; else it sends alone.
    taken
        Share of the units that the second stream takes from the first one while it lasts, on the average.
    """

    main: float = 1.0
    beside: float = 1.0
    experts_beside: bool = False
    taken: float = 0.0


#: By makers of chips, and by stage. Prompts: DeepEP's kernels for throughput take 20 multiprocessors (its ``num_sms``;
#: 20 of an H800's 132 in DeepSeek-V3, arXiv 2412.19437). Its kernels for latency take all while they send and receive
#: and none while they wait, 0.06 of the 0.17 ms of a dispatch (SGLang's report of 96 H100s, lmsys.org, 5 May 2025);
#: combining is taken to be alike. On Ascend prompts are sent by engines of their own (SDMA; arXiv 2506.12708, Figure
#: 18), and decoding shares cores as said above.
SENDING: Final[Mapping[tuple[str, str], Units]] = MappingProxyType(
    {
        ("gpu", "prefill"): Units(taken=20 / 132),
        ("gpu", "decode"): Units(taken=0.06 / 0.17),
        ("davinci", "prefill"): Units(),
        ("davinci", "decode"): Units(16 / 24, 8 / 24, experts_beside=True),
    }
)


def units_of(chip: Chip, stage: str) -> Units:
    """Return how two streams share a chip; instances of both stages use what prompts do."""
    return SENDING["davinci" if chip.architecture == "davinci" else "gpu", stage or "prefill"]


def chip_of_units(chip: Chip, share: float) -> Chip:
    """Return a chip with so much of its arithmetic, and slower exchanges, but all of its memory's rate."""
    if share == 1.0:
        return chip
    rates = {kind: rate and rate * share for kind, rate in chip.flops_per_s.model_dump().items()}
    slower = {
        way: tuple(row.model_copy(update={"latency_s": row.latency_s / share}) for row in getattr(chip.efficiency, way))
        for way in ("expert_dispatch", "expert_combine")
    }
    flops = chip.flops_per_s.model_copy(update=rates)
    return chip.model_copy(update={"flops_per_s": flops, "efficiency": chip.efficiency.model_copy(update=slower)})


@dataclass(frozen=True, slots=True)
class TwoBatches:
    """What of a step runs in which stream.

    Attributes
    ----------
    main, beside
        Operators over the rows of a micro-batch in each stream, of all layers with experts.
    context, generation
        The attention of those layers, in the first stream.
    rest
        What the whole step runs at once: layers without experts, and what is outside of layers.
    main_source, beside_source
        Price each on its units.
    chip, main_chip
        All of it, and what the first stream has of it.
    units
        How streams share it.
    """

    main: tuple[RowOperator, ...]
    beside: tuple[RowOperator, ...]
    context: tuple[Kernel, ...]
    generation: tuple[Kernel, ...]
    rest: StepOperators
    main_source: SourceChain
    beside_source: SourceChain
    chip: Chip
    main_chip: Chip
    units: Units

    def over_rows(self, source: SourceChain, most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what operators over the rows of a step cost by origin, and for how much longer others take, ns.

        Parameters
        ----------
        source
            Prices what both halves run at once.
        most
            Rows of the largest step.

        Returns
        -------
        tuple
            The first of shape (most + 1, origins): the rest, and the first stream of both halves. The second of shape
            (2, most + 1), by how much the second stream and the reading of weights take longer than the first stream
            without its attention, negative where they take less.
        """
        half = -(-np.arange(most + 1) // 2)
        sizes = np.arange(half[-1] + 1)
        beside = by_origin(self.beside, self.beside_source, int(half[-1]))
        main = by_origin(self.main, self.main_source, int(half[-1])) + self.units.taken * beside
        others = np.stack([beside.sum(axis=1), self.reading_ns(sizes)])
        return by_origin(self.rest.per_token, source, most) + 2 * main[half], 2 * (others - main.sum(axis=1))[:, half]

    def reading_ns(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how long a micro-batch of some rows reads weights, ns, if streams take turns at the memory; else 0."""
        found = np.zeros(len(rows))
        for operator in (*self.main, *self.beside) if self.units.experts_beside else ():
            if (bound := row_bound(self.chip, operator, rows)) is not None:
                found += operator.count * bound.memory_ns / STREAM_EFFICIENCY
        return found

    def looking_ns(self, sequences: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how long one reads its cache, ns, in the same way."""
        found = np.zeros(len(tokens))
        for kernel in self.generation if self.units.experts_beside else ():
            memory_ns = attention_bound(self.chip, kernel, sequences, tokens).memory_ns
            found += kernel.count * memory_ns / self.chip.efficiency.hbm_decode_attention
        return found


def two_batches(model: ModelSpec, layout: Layout, chip: Chip, chain: Callable[[Chip], SourceChain]) -> TwoBatches:
    """Return how the two micro-batches of a step pass its layers.

    Parameters
    ----------
    model, layout
        As :func:`perfdb.operators.step_operators` has them; the layout sends tokens to experts.
    chip
        What one rank runs on.
    chain
        What prices operators on a chip.
    """
    units = units_of(chip, layout.stage)
    main_chip = chip_of_units(chip, units.main)
    groups = [(group, layer_operators(model, group, layout)) for group in model.stack]
    parts = [part for _, found in groups for part in found if any(one.shared for one in found)]
    rows = [row for part in parts for row in part.rows]
    of_experts = [row for part in parts if part.shared for row in part.rows]
    sent = {row for row in of_experts if units.experts_beside or isinstance(row, ExpertExchange)}
    alone = tuple(group for group, found in groups if not any(one.shared for one in found))
    return TwoBatches(
        main=tuple(row for row in rows if row not in sent),
        beside=tuple(row for row in rows if row in sent),
        context=tuple(kernel for part in parts for kernel in part.context),
        generation=tuple(kernel for part in parts for kernel in part.generation),
        rest=step_operators(replace(model, stack=alone), layout),
        main_source=chain(main_chip),
        beside_source=chain(chip_of_units(chip, units.beside)),
        chip=chip,
        main_chip=main_chip,
        units=units,
    )
