"""The chip: what its datasheet says, what its driver shows, and what kernels were measured to reach."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hardware.efficiency import Efficiency
from hardware.errors import CatalogueError, suggest
from hardware.power import PowerShares
from hardware.strict import Strict
from hardware.tables import Pairs, Positive, PositiveInt

__all__ = ["Chip", "Datasheet", "Flops", "Pcie", "ScaleUp"]

_RATE_OF_DTYPE = {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "fp4": "fp4", "int8": "int8"}


class Flops(Strict):
    """Dense peak rates of the matrix units, FLOP/s; None where the chip has no such unit."""

    bf16: Positive
    fp8: Positive | None = None
    fp4: Positive | None = None
    int8: Positive | None = None


class ScaleUp(Strict):
    """The ports of one chip to its neighbours; rates are bytes/s in one direction, all links together."""

    kind: Literal["nvlink", "hccs", "ub", "infinity_fabric"]
    generation: PositiveInt | None = None
    bytes_per_s: Positive
    domain: Annotated[int, Field(ge=2)]
    """Most chips that they can join: 2 by a bridge, 8 on a board, 72 in a rack, 768 in a supernode."""
    links: PositiveInt | None = None
    bridge_pair_only: bool = False
    measured_bytes_per_s: Positive | None = None
    """Best one-way copy measured between two chips."""
    ucx_measured_bytes_per_s: Positive | None = None
    """The same through UCX, which falls short of the link."""

    @model_validator(mode="after")
    def _bridge_joins_two(self) -> Self:
        if self.bridge_pair_only and self.domain != 2:
            raise ValueError(f"domain is {self.domain} with bridge_pair_only; expected 2")
        return self


class Pcie(Strict):
    """The PCIe port of one chip; nominal bytes/s in one direction."""

    generation: PositiveInt
    bytes_per_s: Positive


class Datasheet(Strict):
    """What the maker says of one chip, and the memory its driver shows."""

    name: str
    vendor: Literal["nvidia", "amd", "huawei"]
    architecture: Literal["ampere", "ada", "hopper", "blackwell", "cdna3", "cdna4", "davinci"]
    sm: PositiveInt | None = None
    """CUDA compute capability, times ten; None for other makers' chips."""
    memory_bytes: PositiveInt
    """Nominal memory."""
    visible_memory_bytes: PositiveInt
    """Total memory as the driver shows it (``nvidia-smi``, ``npu-smi``)."""
    memory_bytes_per_s: Positive
    flops_per_s: Flops
    scale_up: ScaleUp | None = None
    pcie: Pcie
    nic_bytes_per_s: Positive | None = None
    """The chip's usual share of the scale-out network, one direction."""
    tdp_w: Positive
    node: str | None = None
    """Name of the node the chip normally comes in."""
    sources: Pairs = ()
    """Source of each figure by dotted key; a key covers all that lies below it."""

    @property
    def link_bytes_per_s(self) -> float:
        """Rate of the best link to another chip, one direction: that of its scale-up ports, else PCIe."""
        return self.scale_up.bytes_per_s if self.scale_up else self.pcie.bytes_per_s

    def on_scale_up(self, chips: int) -> bool:
        """Tell whether their scale-up ports can join a group of `chips` of these chips."""
        return self.scale_up is not None and chips <= self.scale_up.domain

    def group_link_bytes_per_s(self, chips: int) -> float:
        """Rate of the slowest link in a ring of `chips` chips, one direction."""
        return self.link_bytes_per_s if self.on_scale_up(chips) else self.pcie.bytes_per_s

    def peak_flops(self, dtype: str) -> float | None:
        """Return the dense peak of matrix products in `dtype`.

        Parameters
        ----------
        dtype
            ``bf16``, ``fp16`` (the rate of bf16), ``fp8``, ``fp4`` or ``int8``.

        Returns
        -------
        float or None
            FLOP/s; None when the chip cannot compute in `dtype`.

        Raises
        ------
        CatalogueError
            `dtype` is none of the above.
        """
        if dtype not in _RATE_OF_DTYPE:
            raise CatalogueError(f"unknown compute type {dtype!r}; {suggest(dtype, _RATE_OF_DTYPE)}")
        rate: float | None = getattr(self.flops_per_s, _RATE_OF_DTYPE[dtype])
        return rate


class Chip(Datasheet):
    """A chip of the catalogue: its datasheet, its measured efficiency, and what it draws."""

    efficiency: Efficiency
    power: PowerShares
