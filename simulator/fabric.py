"""From a scenario's pools and its ``[network]`` to nodes, places and whatever carries KV between them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from hardware.catalogue import default_node, load_node
from hardware.errors import ScenarioError, suggest
from hardware.topology import build_cluster
from simulator.carrier import Endpoint, KvCarrier
from simulator.placement import Demand, place
from simulator.transfer import Network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hardware.node import Node
    from hardware.topology import Topology
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
    endpoints
        Where each instance is, by number.
    table
        The ``[network]`` table.
    layers
        Layers of the model.
    """

    topology: Topology
    endpoints: tuple[Endpoint, ...]
    table: NetworkTable
    layers: int

    def carrier(self, env: Clock) -> KvCarrier:
        """Return what carries KV on this network in one simulation."""
        terms = self.table.kv_transfer
        network = Network(env, self.topology.capacity_bytes_per_s * terms.efficiency)
        return KvCarrier(env, network, self.topology, self.endpoints, terms=terms, layers=self.layers)

    def links_named(self, pattern: str) -> list[int]:
        """Return the ids of the links that a pattern names, as ``n0/nic*>leaf*``.

        Raises
        ------
        ScenarioError
            If there is none.
        """
        names = {f"{link.source}>{link.target}": link.id for link in self.topology.links}
        found = [names[name] for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise ScenarioError(f"operations.incident: no link is named {pattern!r}; {suggest(pattern, names)}")
        return found


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
        Endpoint(tuple(topology.chips[chip] for chip in chips), pool.parts.kv_bytes_per_token)
        for chips, pool in zip(placement.chips, owners, strict=True)
    )
    return Fabric(topology, endpoints, table, pools[0].model.layers)


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
