"""From a scenario's pools and its ``[network]`` to nodes, places and whatever carries KV between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardware.catalogue import default_node, load_node
from hardware.errors import ScenarioError
from hardware.topology import build_cluster
from simulator.carrier import KvCarrier
from simulator.lanes import Endpoint, Lanes
from simulator.placement import Demand, place
from simulator.transfer import Network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hardware.node import Node
    from hardware.topology import Topology
    from perfdb.model import ModelSpec
    from simulator.build import BuiltPool
    from simulator.instance import Clock
    from simulator.network import NetworkTable

__all__ = ["Fabric", "build_fabric"]


@dataclass(frozen=True, slots=True)
class Fabric:
    """The network of a deployment, ready to carry KV.

    Attributes
    ----------
    topology
        Nodes and links.
    lanes
        Every instance, and the ways from one to another.
    table
        The ``[network]`` table.
    """

    topology: Topology
    lanes: Lanes
    table: NetworkTable

    def carrier(self, env: Clock) -> KvCarrier:
        """Return what carries KV on this network in one simulation."""
        terms = self.table.kv_transfer
        network = Network(env, self.lanes.channels.capacity_bytes_per_s)
        return KvCarrier(env, network, self.lanes, round(terms.handshake_us * 1e3))


def build_fabric(table: NetworkTable, pools: Sequence[BuiltPool]) -> Fabric:
    """Return the network that joins the instances of some pools.

    Raises
    ------
    UserError
        If a node is unknown or holds other chips than a pool asks for, or there are too few nodes.
    """
    demands = [Demand(p.name, _node(table, p), p.layout.chips, p.parts.replicas) for p in pools]
    placement = place(demands, table.nodes)
    topology = build_cluster(placement.nodes, table.oversubscription)
    owners = [pool for pool in pools for _ in range(pool.parts.replicas)]
    endpoints = tuple(
        Endpoint(tuple(topology.chips[chip] for chip in chips), _kv_bytes_per_token(pool.model, pool.layout.tensor))
        for chips, pool in zip(placement.chips, owners, strict=True)
    )
    numbers = list(enumerate(owners))
    sources = [number for number, pool in numbers if pool.parts.prefills]
    routes = [(a, b) for a in sources for b, pool in numbers if pool.parts.decodes and a != b]
    capacity = topology.capacity_bytes_per_s * table.kv_transfer.efficiency
    return Fabric(topology, Lanes(topology, endpoints, routes, capacity_bytes_per_s=capacity), table)


def _node(table: NetworkTable, pool: BuiltPool) -> Node:
    if table.topology is None:
        return default_node(pool.chip.name)
    node = load_node(table.topology)
    if node.chip != pool.chip.name:
        raise ScenarioError(
            f"network.topology {node.name!r} has {node.chip} chips, but pool.{pool.name} runs on {pool.chip.name}; "
            "name another node, or leave network.topology out"
        )
    return node


def _kv_bytes_per_token(model: ModelSpec, tensor: int) -> int:
    """Return the KV bytes of a token that all ranks store: heads fewer than ranks are stored more than once."""
    return model.kv_bytes_per_token * max(1, tensor // model.kv_heads)
