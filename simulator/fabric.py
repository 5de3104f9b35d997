"""From a scenario's pools and its ``[network]`` to nodes, places and whatever carries KV between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
        network = Network(env, self.lanes.channels.capacity_bytes_per_s)
        return KvCarrier(env, network, self.lanes, round(self.table.kv_transfer.terms.handshake_us * 1e3))


def build_fabric(table: NetworkTable, pools: Sequence[BuiltPool], changing: Sequence[tuple[str, str]] = ()) -> Fabric:
    """Return the network that joins the instances of some pools.

    Parameters
    ----------
    table
        ``[network]``.
    pools
        Whose instances it joins.
    changing
        Links, from one device to the next, whose rate will change during the run.

    Raises
    ------
    UserError
        If a node is unknown or holds other chips than a pool asks for, there are too few nodes, or no such link.
    """
    demands = [Demand(p.name, _node(table, p), p.layout.chips, p.parts.replicas) for p in pools]
    placement = place(demands, table.nodes)
    topology = build_cluster(placement.nodes, table.oversubscription)
    owners = [pool for pool in pools for _ in range(pool.parts.replicas)]
    endpoints = tuple(
        _endpoint(pool, tuple(topology.chips[chip] for chip in chips))
        for chips, pool in zip(placement.chips, owners, strict=True)
    )
    numbers = list(enumerate(owners))
    sources = [number for number, pool in numbers if pool.parts.prefills]
    routes = [(a, b) for a in sources for b, pool in numbers if pool.parts.decodes and a != b]
    terms = table.kv_transfer.terms
    efficiency = np.array([terms.efficiency(link.kind) for link in topology.links])
    lanes = Lanes(
        topology,
        endpoints,
        routes,
        capacity_bytes_per_s=topology.capacity_bytes_per_s * efficiency,
        rails=table.rails,
        messages_per_s=terms.messages_per_s,
        whole_runs=terms.message == "run",
        apart=[topology.link_between(*ends).id for ends in changing],
    )
    return Fabric(topology, lanes, table)


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


def _endpoint(pool: BuiltPool, chips: tuple[str, ...]) -> Endpoint:
    """Return an instance's place; all ranks store KV heads, and heads fewer than ranks are stored more than once."""
    model, layout = pool.model, pool.layout
    stored = model.kv_bytes_per_token * max(1, layout.tensor // model.kv_heads)
    # K and V of a layer are two arrays of blocks on each rank.
    piece = stored / layout.tensor / model.layers / 2
    layers = (model.layers // layout.pipeline,) * layout.pipeline
    return Endpoint(chips, stored, layers, piece_bytes_per_token=piece, block_tokens=pool.parts.block_tokens)
