"""Which chips of which nodes each instance runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardware.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hardware.node import Node

__all__ = ["Demand", "Placement", "place"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What one pool asks for.

    Attributes
    ----------
    pool
        Its name.
    node
        The kind of node it runs on.
    chips
        Chips of one instance.
    replicas
        Instances.
    """

    pool: str
    node: Node
    chips: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Nodes in use, and the chips of every instance.

    Attributes
    ----------
    nodes
        Kinds of node and how many of each, in the order the cluster counts its chips.
    chips
        For each instance, pool by pool, the positions of its chips in that order.
    """

    nodes: tuple[tuple[Node, int], ...]
    chips: tuple[tuple[int, ...], ...]


def place(demands: Sequence[Demand], nodes: int | None = None) -> Placement:
    """Put instances on chips, one after the other, pool by pool.

    An instance that fits in one node is never split over two; pools on the same kind of node share nodes.

    Parameters
    ----------
    demands
        Pools in order.
    nodes
        Nodes there are, where the scenario says so; None takes as many as are needed.

    Raises
    ------
    ScenarioError
        If there are fewer nodes than the pools need.
    """
    kinds = list(dict.fromkeys(demand.node for demand in demands))
    used = dict.fromkeys(kinds, 0)
    starts: list[tuple[Node, int, int]] = []
    for demand in demands:
        for _ in range(demand.replicas):
            start = _next_start(used[demand.node], demand.chips, demand.node.chips)
            used[demand.node] = start + demand.chips
            starts.append((demand.node, start, demand.chips))
    counts = {kind: -(-used[kind] // kind.chips) for kind in kinds}
    if nodes is not None:
        counts = _as_many_as_there_are(counts, nodes)
    offset, first = 0, {}
    for kind in kinds:
        first[kind] = offset
        offset += counts[kind] * kind.chips
    chips = tuple(tuple(range(first[kind] + start, first[kind] + start + size)) for kind, start, size in starts)
    return Placement(tuple(counts.items()), chips)


def _next_start(used: int, chips: int, node_chips: int) -> int:
    left = -used % node_chips
    return used + left if left < chips and (chips <= node_chips or left) else used


def _as_many_as_there_are(counts: dict[Node, int], nodes: int) -> dict[Node, int]:
    needed = sum(counts.values())
    if needed > nodes:
        raise ScenarioError(
            f"network.nodes is {nodes}, but the pools need {needed} nodes of {', '.join(k.name for k in counts)}; "
            "raise it, or use fewer replicas"
        )
    last = list(counts)[-1]
    return counts | {last: counts[last] + nodes - needed}
