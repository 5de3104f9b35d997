"""Measured efficiency: which share of a chip's peak real kernels reach, and what an all-reduce costs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hardware.strict import Strict
from hardware.tables import Fraction, Pairs, Positive, PositiveInt

__all__ = ["AllReduce", "Efficiency", "ExpertExchange", "GemmEfficiency"]


class GemmEfficiency(Strict):
    """Fraction of the dense peak that large GEMMs (m, n, k >= 4096) reach."""

    median: Fraction
    best: Fraction


class AllReduce(Strict):
    """An all-reduce among `chips` chips: ``alpha_s + 2 (n-1)/n * bytes / bus_bytes_per_s``.

    `alpha_s` is the time of the smallest message and `bus_bytes_per_s` the bus bandwidth of a large
    one, in the convention of nccl-tests.
    """

    chips: Annotated[int, Field(ge=2)]
    alpha_s: Positive
    bus_bytes_per_s: Positive


class ExpertExchange(Strict):
    """A measured all-to-all of a mixture of experts: latency, and bytes/s per rank."""

    ranks: Annotated[int, Field(ge=2)]
    latency_s: Positive
    bytes_per_s: Positive


def _by(count: str) -> BeforeValidator:
    """Accept ``{2 = {...}, 4 = {...}}``: a table by group size becomes rows sorted by `count`."""

    def rows(table: Any) -> Any:  # noqa: ANN401  (whatever a file holds; pydantic checks what comes out)
        if not isinstance(table, dict):
            return table
        if not all(key.isdecimal() and isinstance(row, dict) for key, row in table.items()):
            raise ValueError(f"expected a table by number of {count}, such as 2 = {{ ... }}")
        return tuple({count: int(key), **table[key]} for key in sorted(table, key=int))

    return BeforeValidator(rows)


Points = Annotated[tuple[tuple[PositiveInt, Fraction], ...], Field(min_length=1)]


class Efficiency(Strict):
    """Measured shares of the peak of one chip.

    Attention is given as points (sequence length in tokens, fraction of the dense bf16 peak); fractions
    are between 0 and 1.
    """

    gemm_bf16: GemmEfficiency
    gemm_fp8: GemmEfficiency | None = None
    gemm_floor_s: Positive
    """Time of the smallest GEMM kernel, seconds."""
    hbm_decode_attention: Fraction
    """Fraction of the memory bandwidth at which decode attention streams its KV cache."""
    hbm_gemm: Fraction = 0.8
    """Fraction of the memory bandwidth at which a GEMM of a few tens of rows streams its weights."""
    prefill_attention_bf16: Points
    """Causal, head dimension 128, best over batch and heads."""
    vit_attention_bf16: Points
    """Bidirectional, head dimension 80."""
    all_reduce: Annotated[tuple[AllReduce, ...], _by("chips")] = ()
    mla_compute: Fraction | None = None
    """Fraction of the bf16 peak of multi-head latent attention."""
    mla_memory_bytes_per_s: Positive | None = None
    """Memory bandwidth that multi-head latent attention reaches."""
    expert_dispatch: Annotated[tuple[ExpertExchange, ...], _by("ranks")] = ()
    expert_combine: Annotated[tuple[ExpertExchange, ...], _by("ranks")] = ()
    borrowed: Pairs = ()
    """Keys that were not measured on this chip, each with the chip they were taken from."""

    def all_reduce_among(self, chips: int) -> AllReduce | None:
        """Return the cost of an all-reduce in a group of any size.

        Between two measured sizes both figures are linear in the number of chips. Beyond the largest,
        alpha keeps its last slope (a ring takes 2(n-1) steps) and the bus bandwidth stays as it is.

        Parameters
        ----------
        chips
            Chips in the group.

        Returns
        -------
        AllReduce or None
            None when there is nothing to reduce (fewer than two chips) or nothing was measured.
        """
        rows = self.all_reduce
        if chips < 2 or not rows:
            return None
        upper = next((i for i, row in enumerate(rows) if row.chips >= chips), len(rows) - 1)
        return _between(rows[max(upper - 1, 0)], rows[upper], chips)


def _between(low: AllReduce, high: AllReduce, chips: int) -> AllReduce:
    span = high.chips - low.chips
    part = (chips - low.chips) / span if span else 0.0
    rise_s = high.alpha_s - low.alpha_s
    return AllReduce(
        chips=chips,
        alpha_s=low.alpha_s + part * (rise_s if part <= 1 else max(rise_s, 0.0)),
        bus_bytes_per_s=low.bus_bytes_per_s + min(part, 1.0) * (high.bus_bytes_per_s - low.bus_bytes_per_s),
    )
