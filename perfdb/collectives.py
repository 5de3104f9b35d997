"""What a collective moves over which links: within the nodes that take part, and between them.

Hierarchical, as NCCL and DeepEP run them on nodes with a NIC per chip: chips of one node exchange over the scale-up
links, chips in the same place of different nodes over their NICs, one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hardware.catalogue import load_node

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.operators import AllReduce, Collective, PointToPoint

__all__ = ["MESSAGE_NS", "Group", "between_nodes_ns", "group_of", "hand_over_ns", "moved_bytes"]

#: Passes over the message: an all-reduce is a reduce-scatter and an all-gather.
_PASSES: Final[Mapping[str, int]] = MappingProxyType(
    {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
)
#: Latency of one message between chips or nodes: ``p2p_latency`` of aiconfigurator-core 0.12 (``systems/*.yaml``).
MESSAGE_NS: Final = 10_000.0


@dataclass(frozen=True, slots=True)
class Group:
    """How the chips of a collective are spread: ``inside`` of each of ``nodes`` nodes."""

    inside: int
    nodes: int


def group_of(chip: Chip, chips: int) -> Group:
    """Return the fewest nodes of a chip's usual kind that hold a group, filled evenly.

    Scale-up ports that reach beyond a node make one of several: those of a CloudMatrix384.
    """
    joined = chip.scale_up.domain if chip.scale_up else 0
    room = max(joined, load_node(chip.node).chips) if chip.node else joined or chips
    nodes = math.ceil(chips / room)
    return Group(math.ceil(chips / nodes), nodes)


def moved_bytes(operator: AllReduce | Collective, chips: int, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bytes that each of ``chips`` chips sends when they run the operator among themselves."""
    share = _PASSES[operator.kind] * (chips - 1) / chips
    return share * operator.element_bytes * operator.width * rows


def between_nodes_ns(chip: Chip, operator: AllReduce | Collective, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the time between the nodes of a collective, ns: 0 in a single one.

    Notes
    -----
    Of an all-gather, reduce-scatter or all-reduce each chip carries its node's share of the message; of an
    all-to-all all that it sends to other nodes. Messages between many nodes go in a tree. NICs run at line rate.
    """
    group = group_of(chip, operator.chips)
    if group.nodes == 1:
        return 0.0 * rows
    moved = moved_bytes(operator, group.nodes, rows)
    if operator.kind == "all_to_all":
        messages = 1
    else:
        moved = moved / group.inside
        messages = _PASSES[operator.kind] * math.ceil(math.log2(group.nodes))
    rate = chip.nic_bytes_per_s or chip.pcie.bytes_per_s
    return messages * MESSAGE_NS + 1e9 * moved / rate


def hand_over_ns(chip: Chip, operator: PointToPoint, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean time of the hand-overs between pipeline stages, ns.

    Notes
    -----
    Stages fill nodes in turn, so that there is one hand-over less between nodes than there are nodes. Within a node the
    whole message takes the links of a chip; between nodes each chip of a stage sends its share of it, and those that
    receive gather the others' (``send_tensor_dict`` of vLLM's ``distributed/parallel_state.py``).
    """
    near = MESSAGE_NS + 1e9 * rows * operator.bytes_per_row / chip.link_bytes_per_s
    apart = group_of(chip, operator.chips * (operator.count + 1)).nodes - 1
    rate = operator.chips * (chip.nic_bytes_per_s or chip.pcie.bytes_per_s)
    return near + apart / operator.count * (MESSAGE_NS + 1e9 * rows * operator.bytes_per_row / rate)
