"""The topology: a NetworkX graph of nodes and clusters, and the path between any two of their chips.

Links are addressed by small integers, in a fixed order, so that flows can share a vector of
capacities. The two directions of a cable are links 2k and 2k+1: the other way of link i is ``i ^ 1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from hardware.catalogue import load_chip
from hardware.errors import CatalogueError, ScenarioError, suggest
from hardware.wiring import LinkKind, Vertex, Wiring, wire_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hardware.node import Node

__all__ = ["Link", "Path", "Topology", "build_cluster", "build_topology", "shares_link"]

# One hop outweighs any latency a path can have: fewest hops first, then the lowest latency.
_HOP = 10**12


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a cable: capacity in bytes/s, latency in nanoseconds."""

    id: int
    source: str
    target: str
    kind: LinkKind
    capacity_bytes_per_s: float
    latency_ns: int


@dataclass(frozen=True, slots=True)
class Path:
    """A way through the topology.

    `links` are link ids in order and `vertices` the devices passed, ends included. A path from a
    device to itself has no links, no latency and an infinite bottleneck.
    """

    vertices: tuple[str, ...]
    links: tuple[int, ...]
    latency_ns: int
    bottleneck_bytes_per_s: float


class Topology:
    """Devices, the links between them, and paths along them.

    Attributes
    ----------
    graph : networkx.DiGraph
        Vertices carry ``kind`` and ``node``; edges carry ``id``, ``kind``, ``capacity_bytes_per_s``
        (in that direction) and ``latency_ns``.
    chips : tuple of str
        Names of the chips, in order of node and place.
    links : tuple of Link
        All links, ordered by id.
    capacity_bytes_per_s : numpy.ndarray
        Shape (links,), float64, read-only: the capacity of link i at index i.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._vertices = {vertex.name: vertex for vertex in wiring.vertices}
        self._rank = {name: rank for rank, name in enumerate(self._vertices)}
        self._passable = _passable(wiring)
        self._paths: dict[tuple[str, ...], Path] = {}
        self._exits: dict[tuple[str, str], tuple[str, ...]] = {}
        self.links = _links(wiring)
        self._link_between = {(link.source, link.target): link for link in self.links}
        self.graph = _graph(wiring, self.links)
        self.chips = tuple(vertex.name for vertex in wiring.vertices if vertex.kind == "chip")
        self._nics = _nics(wiring)
        self.capacity_bytes_per_s: NDArray[np.float64] = np.array(
            [link.capacity_bytes_per_s for link in self.links], dtype=np.float64
        )
        self.capacity_bytes_per_s.setflags(write=False)

    def path(self, source: str, target: str) -> Path:
        """Return the path data takes between two chips, or between a chip and a host.

        Chips of one scale-up fabric use it; others use PCIe within a node and their own NIC between
        nodes. Among these the path has the fewest hops, then the lowest latency. Equals (parallel
        spines) are taken in turn by the places of the two ends, as static hashing would. Chips and
        other chips' NICs are never passed through. The way back is the same way reversed.

        Parameters
        ----------
        source, target
            Names of chips (``n0/gpu3``) or hosts (``n0/cpu0``).

        Returns
        -------
        Path
            Computed once per pair.

        Raises
        ------
        CatalogueError
            A name is not a chip or host of this topology.
        ScenarioError
            Nothing joins the two.
        """
        known = self._paths.get((source, target))
        if known is None:
            low, high = self._ends(source, target)
            self._keep(self._along(self._route(low, high)), low.name, high.name)
            known = self._paths[source, target]
        return known

    def path_by(self, source: str, target: str, nics: tuple[str, str]) -> Path:
        """Return the path between chips or hosts of two nodes that leaves and enters by given NICs.

        Inside a node data reaches a NIC over PCIe (or C2C) switches and the host, as a NIC reads a chip's memory
        itself; no chip forwards it. Beyond the NICs the way is that of :meth:`path`.

        Parameters
        ----------
        source, target
            As for :meth:`path`.
        nics
            A NIC of the node of each (``n0/nic3``), in the same order.

        Raises
        ------
        CatalogueError
            A name is not a chip or host of this topology.
        ScenarioError
            A NIC is not in the node of its end, or nothing joins the two.
        """
        known = self._paths.get((source, target, *nics))
        if known is None:
            low, high = self._ends(source, target)
            by = nics if low.name == source else nics[::-1]
            for end, nic in zip((low, high), by, strict=True):
                if nic not in self.nics(end.name):
                    known_nics = ", ".join(self.nics(end.name))
                    raise ScenarioError(f"{nic!r} is no NIC that {end.name!r} reaches; expected one of {known_nics}")
            vertices = self._across(low, high, by)
            if vertices is None:
                raise ScenarioError(f"no network joins {nics[0]!r} and {nics[1]!r}; expected NICs of two nodes")
            self._keep(self._along(vertices), low.name, high.name, *by)
            known = self._paths[source, target, *nics]
        return known

    def link_between(self, source: str, target: str) -> Link:
        """Return the link from one device to the next.

        Raises
        ------
        ScenarioError
            There is none.
        """
        link = self._link_between.get((source, target))
        if link is None:
            there = [end for start, end in self._link_between if start == source]
            hint = f"{source!r} is joined to {', '.join(there)}" if there else suggest(source, self._vertices)
            raise ScenarioError(f"no link goes from {source!r} to {target!r}; {hint}")
        return link

    def nics(self, name: str) -> tuple[str, ...]:
        """Return the NICs that a chip or host reaches without NVLink, in order; none where there is no network."""
        end = self._endpoint(name)
        return tuple(nic for nic in self._nics.get(end.node, ()) if self._way_out(end, nic))

    def bottleneck(self, source: str, target: str) -> float:
        """Return the capacity of the narrowest link between two devices, bytes/s; see `path`."""
        return self.path(source, target).bottleneck_bytes_per_s

    def _endpoint(self, name: str) -> Vertex:
        vertex = self._vertices.get(name)
        if vertex is None or vertex.kind not in ("chip", "host"):
            raise CatalogueError(
                f"{name!r} is not a chip or host of this topology; "
                f"expected one of {self.chips[0]!r} to {self.chips[-1]!r}, or a host such as 'n0/cpu0'"
            )
        return vertex

    def _ends(self, source: str, target: str) -> tuple[Vertex, Vertex]:
        """Return the two ends, the one that was wired first before the other."""
        first, second = self._endpoint(source), self._endpoint(target)
        return (first, second) if self._rank[source] <= self._rank[target] else (second, first)

    def _keep(self, there: Path, low: str, high: str, *nics: str) -> None:
        """Remember a path and its way back."""
        self._paths[high, low, *nics[::-1]] = self._along(there.vertices[::-1])
        self._paths[low, high, *nics] = there

    def _along(self, vertices: Sequence[str]) -> Path:
        links = [self._link_between[pair] for pair in pairwise(vertices)]
        return Path(
            vertices=tuple(vertices),
            links=tuple(link.id for link in links),
            latency_ns=sum(link.latency_ns for link in links),
            bottleneck_bytes_per_s=min((link.capacity_bytes_per_s for link in links), default=math.inf),
        )

    def _route(self, source: Vertex, target: Vertex) -> list[str]:
        if source.node != target.node and len(source.gateways) == len(target.gateways) == 1:
            across = self._across(source, target, source.gateways + target.gateways)
            if across is not None:
                return across
        for allowed in (self._scale_up(source, target), self._scale_out(source, target)):
            ways = self.graph.subgraph(allowed)
            if nx.has_path(ways, source.name, target.name):
                best = nx.all_shortest_paths(ways, source.name, target.name, weight=_weight)
                return _in_turn(sorted(best), self._rank[source.name] + self._rank[target.name])
        raise ScenarioError(
            f"nothing joins {source.name!r} and {target.name!r}: give the nodes NICs, or name two devices "
            f"that a network or a host connects"
        )

    def _across(self, source: Vertex, target: Vertex, nics: Sequence[str]) -> list[str] | None:
        """Return the way between two nodes by two NICs: out to a leaf, over a spine if there are two, and in."""
        if source.node == target.node:
            return None
        out, back = self._way_out(source, nics[0]), self._way_out(target, nics[1])
        if not (out and back):
            return None
        if out[-1] == back[-1]:
            return [*out, *back[-2::-1]]
        spines = sorted(
            spine
            for spine in self._passable.get(None, ())
            if (out[-1], spine) in self._link_between and (spine, back[-1]) in self._link_between
        )
        if not spines:
            return None
        turn = self._rank[source.name] + self._rank[target.name]
        return [*out, spines[turn % len(spines)], *back[::-1]]

    def _way_out(self, end: Vertex, nic: str) -> tuple[str, ...]:
        """Return the way from a chip or host to the leaf switch behind a NIC of its node; nothing if there is none."""
        known = self._exits.get((end.name, nic))
        if known is None:
            leaves = [name for name in self.graph.successors(nic) if self._vertices[name].kind == "leaf"]
            ways = self.graph.subgraph([end.name, *self._passable[end.node], nic, *leaves])
            known = ()
            if leaves and nx.has_path(ways, end.name, leaves[0]):
                known = tuple(min(nx.all_shortest_paths(ways, end.name, leaves[0], weight=_weight)))
            self._exits[end.name, nic] = known
        return known

    @staticmethod
    def _scale_up(source: Vertex, target: Vertex) -> list[str]:
        """Return the devices that a path over NVLink may use; not every node has the switch."""
        return [source.name, target.name, f"n{source.node}/nvswitch"]

    def _scale_out(self, source: Vertex, target: Vertex) -> list[str]:
        """Return the devices that a path over PCIe and the network may use."""
        inside = [*self._passable[source.node], *self._passable[target.node]]
        gateways = [*source.gateways, *target.gateways]
        leaves = [name for nic in gateways for name in self.graph.successors(nic) if name.startswith("leaf")]
        spines = self._passable.get(None, ())
        return [source.name, target.name, *inside, *gateways, *leaves, *spines]


def build_topology(node: Node, nodes: int = 1, oversubscription: float = 1.0, spines: int = 1) -> Topology:
    """Build the topology of a number of equal nodes; see `build_cluster`."""
    return build_cluster([(node, nodes)], oversubscription, spines)


def build_cluster(groups: Sequence[tuple[Node, int]], oversubscription: float = 1.0, spines: int = 1) -> Topology:
    """Build the topology of a cluster.

    Parameters
    ----------
    groups
        Kinds of node and how many of each; nodes are numbered in this order.
    oversubscription
        How many times the leaf switches take in more from their nodes than they pass to the spines;
        1 is non-blocking.
    spines
        Spine switches that traffic is spread over; 1 stands for a whole layer of them.

    Returns
    -------
    Topology
        The graph, with paths.

    Raises
    ------
    ScenarioError
        A count or ratio is out of range, or several nodes are asked for and some have no NIC.
    CatalogueError
        The chip of a node is unknown.
    """
    if not groups:
        raise ScenarioError("the cluster has no nodes; expected at least one kind of node")
    for _, count in groups:
        _at_least_one("nodes", count)
    _at_least_one("spines", spines)
    if not (math.isfinite(oversubscription) and oversubscription >= 1):
        raise ScenarioError(f"oversubscription is {oversubscription}; expected a number of at least 1")
    lonely = [node.name for node, _ in groups if node.nics == 0]
    if sum(count for _, count in groups) > 1 and lonely:
        raise ScenarioError(f"node {lonely[0]!r} has nics = 0, so it cannot join others; expected nics > 0")
    return Topology(wire_cluster([(node, load_chip(node.chip), n) for node, n in groups], oversubscription, spines))


def shares_link(a: Path, b: Path) -> bool:
    """Tell whether two paths have a link in common, in the same direction."""
    return not set(a.links).isdisjoint(b.links)


def _at_least_one(key: str, count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ScenarioError(f"{key} is {count!r}; expected a whole number of at least 1")


def _links(wiring: Wiring) -> tuple[Link, ...]:
    ways = [(cable, ends) for cable in wiring.cables for ends in (cable.ends, cable.ends[::-1])]
    return tuple(
        Link(number, *ends, cable.kind, cable.capacity_bytes_per_s, cable.latency_ns)
        for number, (cable, ends) in enumerate(ways)
    )


def _graph(wiring: Wiring, links: Sequence[Link]) -> nx.DiGraph:
    graph = nx.DiGraph()
    for vertex in wiring.vertices:
        graph.add_node(vertex.name, kind=vertex.kind, node=vertex.node)
    for link in links:
        graph.add_edge(
            link.source,
            link.target,
            id=link.id,
            kind=link.kind,
            capacity_bytes_per_s=link.capacity_bytes_per_s,
            latency_ns=link.latency_ns,
        )
    return graph


def _passable(wiring: Wiring) -> dict[int | None, list[str]]:
    """Return the PCIe switches and hosts of each node, and under None the spine switches."""
    found: dict[int | None, list[str]] = {}
    for vertex in wiring.vertices:
        passable = found.setdefault(vertex.node, [])
        if vertex.kind in ("pcie", "host", "spine"):
            passable.append(vertex.name)
    return found


def _nics(wiring: Wiring) -> dict[int | None, list[str]]:
    """Return the NICs of each node."""
    found: dict[int | None, list[str]] = {}
    for vertex in wiring.vertices:
        if vertex.kind == "nic":
            found.setdefault(vertex.node, []).append(vertex.name)
    return found


def _weight(_source: str, _target: str, edge: dict[str, int]) -> int:
    return _HOP + edge["latency_ns"]


def _in_turn(ways: list[list[str]], turn: int) -> list[str]:
    return ways[turn % len(ways)]
