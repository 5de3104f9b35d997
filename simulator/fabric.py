"""From a scenario's pools and its ``[network]`` to nodes, places and whatever carries KV between them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from hardware.catalogue import default_node, load_node
from hardware.errors import ScenarioError, suggest
from hardware.topology import build_cluster
from simulator.built_pool import BuiltEncoder
from simulator.carrier import KvCarrier
from simulator.lanes import Endpoint, Lanes
from simulator.placement import Demand, place
from simulator.sharing import hosts_of
from simulator.transfer import Network

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hardware.node import Node
    from hardware.topology import Topology
    from simulator.built_pool import AnyPool
    from simulator.clock import Clock
    from simulator.network import NetworkTable
    from simulator.placement import Placement

__all__ = ["Fabric", "build_fabric"]


@dataclass(frozen=True, slots=True)
class Fabric:
    """The network of a deployment, ready to carry KV.

    Attributes
    ----------
    topology
        Nodes and links.
    lanes
        Every attention rank of every instance, and the ways from one to another.
    places
        Number of the endpoint of an instance of a pool on the chips of an instance of the beginning, both by number;
        those of its other attention ranks follow.
    changing
        Links whose capacity changes during the run, by the pattern that names them.
    layers
        Layers of the model.
    table
        The ``[network]`` table.
    """

    topology: Topology
    lanes: Lanes
    places: Mapping[tuple[int, int], int]
    changing: Mapping[str, tuple[int, ...]]
    layers: int
    table: NetworkTable

    def carrier(self, env: Clock) -> KvCarrier:
        """Return what carries KV on this network in one simulation."""
        network = Network(env, self.lanes.channels.capacity_bytes_per_s)
        return KvCarrier(
            env, network, self.lanes, places=self.places, transfer=self.table.kv_transfer, layers=self.layers
        )


def build_fabric(
    table: NetworkTable,
    pools: Sequence[AnyPool],
    *,
    switching: Sequence[tuple[str, str]] = (),
    changing: Sequence[str] = (),
) -> Fabric:
    """Return the network that joins the instances of some pools.

    Parameters
    ----------
    table
        ``[network]``.
    pools
        Whose instances it joins.
    switching
        Names of pools between which instances may change.
    changing
        Patterns of the names of links whose rate will change during the run (``n0/nic*>leaf*``).

    Raises
    ------
    UserError
        If a node is unknown or holds other chips than a pool asks for, there are too few nodes, or no such link.
    """
    placement, chips = _placed(table, pools)
    topology = build_cluster(placement.nodes, table.oversubscription)
    links = {pattern: _links_named(topology, pattern) for pattern in changing}
    owners = [number for number, pool in enumerate(pools) for _ in range(pool.parts.replicas)]
    numbers = {pool.name: number for number, pool in enumerate(pools)}
    roles = _roles(owners, [(numbers[one], numbers[other]) for one, other in switching])
    endpoints = [
        _endpoint(pools[pool], tuple(topology.chips[chip] for chip in rank))
        for slot, pool in roles
        for rank in _chips_of_ranks(chips[slot], _ranks(pools[pool]))
    ]
    ranks = [_ranks(pools[pool]) for _, pool in roles]
    places = dict(zip(roles, accumulate(ranks, initial=0), strict=False))
    terms = table.kv_transfer.terms
    efficiency = np.array([terms.efficiency(link.kind) for link in topology.links])
    lanes = Lanes(
        topology,
        endpoints,
        _routes(places, pools),
        capacity_bytes_per_s=topology.capacity_bytes_per_s * efficiency,
        rails=table.rails,
        messages_per_s=terms.messages_per_s,
        whole_runs=terms.message == "run",
        apart=[link for found in links.values() for link in found],
    )
    return Fabric(topology, lanes, places, links, pools[0].model.layers, table)


def _routes(places: Mapping[tuple[int, int], int], pools: Sequence[AnyPool]) -> list[tuple[int, int]]:
    """Return the endpoints between which anything may move.

    KV goes from every rank that computes prompts to every one that decodes; features go from encoders to prompts.
    """
    features = [
        (places[a], places[b])
        for a in places
        if pools[a[1]].parts.encodes
        for b in places
        if pools[b[1]].parts.prefills
    ]
    return features + [
        (places[a] + rank, places[b] + other)
        for a in places
        if pools[a[1]].parts.prefills and not pools[a[1]].parts.decodes
        for b in places
        if pools[b[1]].parts.decodes and a[0] != b[0]
        for rank in range(pools[a[1]].layout.data)
        for other in range(pools[b[1]].layout.data)
    ]


def _placed(table: NetworkTable, pools: Sequence[AnyPool]) -> tuple[Placement, list[tuple[int, ...]]]:
    """Return where pools are, and the chips of every instance, pool by pool: of a guest, those of its host."""
    own = [number for number, pool in enumerate(pools) if pool.shares is None]
    kept = [pools[number] for number in own]
    placement = place([Demand(p.name, _node(table, p), p.layout.chips, p.parts.replicas) for p in kept], table.nodes)
    first = dict(zip(own, accumulate((pool.parts.replicas for pool in kept), initial=0), strict=False))
    hosts = hosts_of(pools)
    return placement, [
        placement.chips[first[hosts[number]] + slot]
        for number, pool in enumerate(pools)
        for slot in range(pool.parts.replicas)
    ]


def _ranks(pool: AnyPool) -> int:
    """Return the attention ranks of an instance: encoders side by side send as one."""
    return 1 if isinstance(pool, BuiltEncoder) else pool.layout.data


def _roles(owners: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return each instance in each pool it may ever be in; it may change more than once."""
    roles = list(enumerate(owners))
    for slot, owner in roles:
        for pool in [pool for pair in pairs if owner in pair for pool in sorted(pair)]:
            if (slot, pool) not in roles:
                # The list grows while it is read.
                roles.append((slot, pool))
    return roles


def _chips_of_ranks(chips: Sequence[int], ranks: int) -> Iterator[Sequence[int]]:
    """Yield the chips of each attention rank of an instance."""
    size = len(chips) // ranks
    return (chips[start : start + size] for start in range(0, len(chips), size))


def _links_named(topology: Topology, pattern: str) -> tuple[int, ...]:
    """Return the ids of the links that a pattern names."""
    names = {f"{link.source}>{link.target}": link.id for link in topology.links}
    found = tuple(names[name] for name in names if fnmatchcase(name, pattern))
    if not found:
        raise ScenarioError(f"operations.incident: no link is named {pattern!r}; {suggest(pattern, names)}")
    return found


def _node(table: NetworkTable, pool: AnyPool) -> Node:
    if table.topology is None:
        return default_node(pool.chip.name)
    node = load_node(table.topology)
    if node.chip != pool.chip.name:
        raise ScenarioError(
            f"network.topology {node.name!r} has {node.chip} chips, but pool.{pool.name} runs on {pool.chip.name}; "
            "name another node, or leave network.topology out"
        )
    return node


def _endpoint(pool: AnyPool, chips: tuple[str, ...]) -> Endpoint:
    """Return an instance's place; all ranks store KV heads, and heads fewer than ranks are stored more than once."""
    model, layout = pool.model, pool.layout
    if isinstance(pool, BuiltEncoder):
        return Endpoint(chips, 0)
    stored = model.kv_bytes_on_chip(layout.tensor) * layout.tensor
    # Keys and values of a layer are an array of blocks each on every rank; latents are one.
    piece = stored / layout.tensor / model.kv_arrays
    layers = (model.layers // layout.pipeline,) * layout.pipeline
    return Endpoint(chips, stored, layers, piece_bytes_per_token=piece, block_tokens=pool.parts.block_tokens)
