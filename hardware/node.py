"""The node: how many chips of which kind, and how they are wired."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hardware.strict import Strict
from hardware.tables import Pairs, Positive, PositiveInt

__all__ = ["Fabric", "Latency", "Node"]

Count = Annotated[int, Field(ge=0)]
Fabric = Literal["nvswitch", "switch", "nvlink_pairs", "full_mesh", "pcie"]


class Latency(Strict):
    """Latency of one edge of each kind, nanoseconds; a path adds up its edges."""

    nvlink: Count
    nvswitch: Count
    pcie: Count
    c2c: Count
    nic: Count
    leaf: Count
    spine: Count


class Node(Strict):
    """Chips that share a scale-up fabric and a host: a server, or a rack of trays joined by NVLink."""

    name: str
    chip: str
    """Name of the chip, or the path of its file."""
    chips: PositiveInt
    fabric: Fabric
    """What joins the chips: a switch (NVSwitch, or another), bridges of two, a cable of its own between any two (HCCS,
    Infinity Fabric), or PCIe alone."""
    trays: PositiveInt = 1
    """Hosts that the chips and NICs are spread over, in order."""
    pcie_switches: Count
    """PCIe switches that the chips are spread over, in order; 0 when they hang on the host."""
    c2c_bytes_per_s: Positive | None = None
    """Chip to host, one direction, where that is not PCIe (Grace)."""
    nics: Count
    nic_bytes_per_s: Positive | None = None
    """Line rate of one NIC, one direction."""
    rails: Count = 0
    """NIC i connects to the leaf switch of rail ``i % rails``."""
    nodes_per_pod: PositiveInt = 32
    """Nodes whose NICs of one rail reach the same leaf switch."""
    host_w: Positive | None = None
    """Most that the whole node draws beside its chips: processors, NICs, switches, fans, power supplies."""
    latency_ns: Latency
    sources: Pairs = ()
    """Source of each figure by dotted key; a key covers all that lies below it."""

    @model_validator(mode="after")
    def _is_even(self) -> Self:
        for part, whole in (("trays", "chips"), ("pcie_switches", "chips"), ("nics", "chips")):
            if count := getattr(self, part):
                _divides(part, count, whole, getattr(self, whole))
        if self.nics:
            _divides("trays", self.trays, "nics", self.nics)
        if self.pcie_switches:
            _divides("trays", self.trays, "pcie_switches", self.pcie_switches)
        return self

    @model_validator(mode="after")
    def _network_is_whole(self) -> Self:
        if bool(self.nics) != (self.nic_bytes_per_s is not None):
            raise ValueError("keys 'nics' and 'nic_bytes_per_s' must both be given, or nics = 0 alone")
        if bool(self.nics) != bool(self.rails) or self.rails > self.nics:
            raise ValueError(f"key 'rails' is {self.rails}; expected 1 to {self.nics}, one leaf switch each")
        return self


def _divides(part: str, count: int, whole: str, total: int) -> None:
    if total % count:
        raise ValueError(f"key {part!r} is {count}, which does not divide {whole} = {total} evenly")
