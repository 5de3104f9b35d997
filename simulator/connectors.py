"""What the software that moves KV takes and leaves: presets, each from published measurements.

A transfer begins with a set-up. Then its bytes go at the share of a link's nominal rate that the connector reaches,
and a NIC handles only so many messages per second: one that is shorter than what the NIC could pass in the time
of a message keeps it busy as long as a longer one would.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hardware.wiring import LinkKind

__all__ = ["CONNECTORS", "Connector", "Message", "Rails"]

Message = Literal["block", "run"]
"""What is sent at once, of one layer, K and V apart: a block, or all blocks of a transfer (next to each other)."""

Rails = Literal["own", "all"]
"""Whether a chip uses the NIC nearest to it, or all NICs of its node at once."""

_NETWORK: Final = frozenset({"nic", "leaf", "spine"})


@dataclass(frozen=True, slots=True)
class Connector:
    """How a connector moves KV.

    Attributes
    ----------
    handshake_us
        Set-up of a transfer before its first byte.
    network_efficiency, local_efficiency
        Share of the nominal rate reached on NICs and beyond, and on links inside a node.
    message
        What is sent at once.
    messages_per_s
        Most messages one NIC handles; None where nobody found a limit.
    source
        Where the figures come from, and what is assumed.
    """

    handshake_us: float
    network_efficiency: float
    local_efficiency: float
    source: str
    message: Message = "run"
    messages_per_s: float | None = None

    def efficiency(self, kind: LinkKind) -> float:
        """Return the share of the nominal rate of a kind of link that is reached."""
        return self.network_efficiency if kind in _NETWORK else self.local_efficiency


CONNECTORS: Final[Mapping[str, Connector]] = MappingProxyType(
    {
        "typical": Connector(
            380.0,
            0.85,
            0.85,
            "Set-up of mooncake_vllm; 171 of 200 GB/s between H20 nodes, 380 of 450 GB/s over NVLink "
            "(NVIDIA/nccl#1264)",
        ),
        "mooncake_vllm": Connector(
            380.0,
            146.1 / 200,
            0.85,
            "Mooncake documentation, vllm-v1-pd-performance: Qwen3-8B TP8 between two H800 nodes of eight 200 Gb/s "
            "NICs, concurrency 1; least squares in relative error over nine lengths. An idle cache: blocks adjacent",
        ),
        "mooncake_sglang": Connector(
            1840.0,
            171.1 / 200,
            0.85,
            "Mooncake documentation, sglang-benchmark-results-v1: Qwen3-235B TP8 between two H20 nodes of four "
            "400 Gb/s NICs; least squares in relative error. An idle cache: blocks adjacent",
        ),
        "mooncake_efa": Connector(
            380.0,
            358 / 400,
            0.85,
            "Mooncake documentation, EFA: p5en (H200), 16 x 200 Gb/s: 97, 191, 325, 358, 353 GB/s of 400 at 64 KiB to "
            "1 MiB. Two cards are one NIC here; 97e9 / 65536 / 8 messages/s. Set-up of mooncake_vllm",
            messages_per_s=185_000.0,
        ),
        "nixl_ucx": Connector(
            380.0,
            12.23 / 12.5,
            80 / 450,
            "LMCache/LMCache#4161, NIXL over UCX on one 100 Gb/s rail, from host memory: 4.69 GB/s in parts of 4 KiB, "
            "12.2 GB/s in large ones; in a node 80 of 450 GB/s of NVLink (openucx/ucx#10936, H20). One part per block "
            "and layer, as vLLM's connector has it. Set-up of mooncake_vllm",
            message="block",
            messages_per_s=1_140_000.0,
        ),
        "splitwise_a100": Connector(
            8000.0,
            0.85,
            0.85,
            "Splitwise, section VI-A: about 8 ms that per-layer transfer leaves visible, A100, 200 Gb/s, MSCCL++. "
            "Rates as typical",
        ),
        "splitwise_h100": Connector(
            5000.0,
            0.85,
            0.85,
            "Splitwise, section VI-A: about 5 ms that per-layer transfer leaves visible, H100, 400 Gb/s, MSCCL++. "
            "Rates as typical",
        ),
        "ascend_hccs": Connector(
            120.0,
            0.47,
            0.47,
            "EPD-Serve, Table 4: 12.6 to 13.5 GB/s in grouped transfers, of 28 GB/s that one HCCS link gives (25 of a "
            "RoCE port); layer-wise took 412 and 152 ms longer over 64 requests of 36 layers, 66 to 179 us each",
        ),
    }
)
"""Connectors by the name a scenario gives them."""
