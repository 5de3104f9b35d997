"""Laws of the topology that hold for every node of the catalogue, however many are joined."""

from __future__ import annotations

import math
import pickle
from collections import deque
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.catalogue import load_chip, load_node, node_names
from hardware.errors import ScenarioError
from hardware.topology import Topology, build_topology
from hardware.wiring import Wiring, wire_cluster

if TYPE_CHECKING:
    from hardware.topology import Path

VERTEX_KINDS = {"chip", "nvswitch", "pcie", "host", "nic", "leaf", "spine"}
LINK_KINDS = {"nvlink", "nvswitch", "pcie", "c2c", "nic", "leaf", "spine"}


@cache
def cluster(name: str, nodes: int = 1, oversubscription: float = 1.0, spines: int = 1) -> Topology:
    return build_topology(load_node(name), nodes, oversubscription, spines)


def kinds(topology: Topology, path: Path) -> list[str]:
    return [topology.links[link].kind for link in path.links]


def node_of(vertex: str) -> str:
    return vertex.split("/", maxsplit=1)[0]


@st.composite
def pairs(draw: st.DrawFn, most_nodes: int = 3) -> tuple[Topology, str, str]:
    name, nodes = draw(st.sampled_from(node_names())), draw(st.integers(1, most_nodes))
    oversubscription = draw(st.sampled_from([1.0, 2.0, 3.5]))
    topology = cluster(name, nodes, oversubscription, draw(st.sampled_from([1, 2, 5])))
    places = st.integers(0, len(topology.chips) - 1)
    return topology, topology.chips[draw(places)], topology.chips[draw(places)]


@settings(deadline=None)
@given(pairs())
def test_a_path_adds_up(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    path = topology.path(source, target)
    links = [topology.links[link] for link in path.links]
    assert path.vertices == (source, *(link.target for link in links))
    assert [link.source for link in links] == list(path.vertices[:-1])
    assert path.latency_ns == sum(link.latency_ns for link in links)
    assert path.bottleneck_bytes_per_s == min([math.inf, *(link.capacity_bytes_per_s for link in links)])
    assert len(set(path.vertices)) == len(path.vertices)


@settings(deadline=None)
@given(pairs())
def test_the_way_back_is_the_same_way(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    there, back = topology.path(source, target), topology.path(target, source)
    assert back.links == tuple(link ^ 1 for link in reversed(there.links))
    assert (back.latency_ns, back.bottleneck_bytes_per_s) == (there.latency_ns, there.bottleneck_bytes_per_s)


@settings(deadline=None)
@given(pairs())
def test_only_traffic_between_nodes_touches_nics_and_then_its_own(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    used = [v for v in topology.path(source, target).vertices if "nic" in v]
    if node_of(source) == node_of(target):
        assert used == []
    else:
        assert len(used) == 2
        for chip, nic in zip((source, target), used, strict=True):
            assert node_of(nic) == node_of(chip)
            own = [v for v in topology.chips if node_of(v) == node_of(chip)].index(chip)
            nics = [v for v in topology.graph if v.startswith(f"{node_of(chip)}/nic")]
            chips = len([v for v in topology.chips if node_of(v) == node_of(chip)])
            assert nic == nics[own * len(nics) // chips]


@settings(deadline=None)
@given(pairs())
def test_no_path_passes_through_another_chip(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    assert not set(topology.path(source, target).vertices[1:-1]) & set(topology.chips)


@settings(deadline=None)
@given(pairs())
def test_a_spine_is_crossed_only_between_leaves(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    path = topology.path(source, target)
    leaves = [v for v in path.vertices if v.startswith("leaf")]
    assert len(leaves) <= 2
    assert kinds(topology, path).count("spine") == (2 if len(leaves) == 2 else 0)


@settings(deadline=None)
@given(pairs())
def test_chips_of_one_nvlink_fabric_use_nothing_else(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    direct = topology.graph.has_edge(source, target)
    switch = f"{node_of(source)}/nvswitch"
    if direct or (switch in topology.graph and node_of(source) == node_of(target) and source != target):
        expected = ["nvlink"] if direct else ["nvswitch", "nvswitch"]
        assert kinds(topology, topology.path(source, target)) == expected


@settings(deadline=None)
@given(pairs(most_nodes=2))
def test_no_way_through_switches_is_shorter(drawn: tuple[Topology, str, str]) -> None:
    """A breadth-first search of our own, over everything but chips and NICs of others."""
    topology, source, target = drawn
    path = topology.path(source, target)
    if {"n0/nvswitch", "n0/switch"} & set(topology.graph) and node_of(source) == node_of(target):
        return
    barred = {v for v in topology.graph if "gpu" in v or "nic" in v} - set(path.vertices)
    hops, queue = {source: 0}, deque([source])
    while queue:
        here = queue.popleft()
        for link in topology.links:
            if link.source == here and link.target not in barred and link.target not in hops:
                hops[link.target] = hops[here] + 1
                queue.append(link.target)
    assert len(path.links) == hops[target]


@pytest.mark.parametrize("name", node_names())
def test_every_pair_of_chips_has_a_path(name: str) -> None:
    topology = cluster(name, 2)
    chips = topology.chips if len(topology.chips) < 20 else topology.chips[::7]
    assert all(topology.path(a, b).links for a in chips for b in chips if a != b)


@pytest.mark.parametrize("name", node_names())
@pytest.mark.parametrize("nodes", [1, 3])
def test_links_are_a_vector_in_pairs(name: str, nodes: int) -> None:
    topology = cluster(name, nodes)
    assert [link.id for link in topology.links] == list(range(len(topology.links)))
    assert topology.graph.number_of_edges() == len(topology.links)
    for link in topology.links:
        other = topology.links[link.id ^ 1]
        assert (link.source, link.target) == (other.target, other.source)
        assert link.capacity_bytes_per_s == other.capacity_bytes_per_s > 0
        assert link.latency_ns == other.latency_ns >= 0
        assert link.kind in LINK_KINDS
        assert topology.capacity_bytes_per_s[link.id] == link.capacity_bytes_per_s
        edge = topology.graph.edges[link.source, link.target]
        assert (edge["id"], edge["kind"]) == (link.id, link.kind)
    assert {kind for _, kind in topology.graph.nodes(data="kind")} <= VERTEX_KINDS
    assert topology.capacity_bytes_per_s.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        topology.capacity_bytes_per_s[0] = 1.0


@pytest.mark.parametrize("name", node_names())
@settings(deadline=None)
@given(ratio=st.floats(1.0, 8.0), spines=st.integers(1, 6), nodes=st.integers(2, 4))
def test_a_leaf_passes_up_what_it_takes_in_over_the_oversubscription(
    name: str, ratio: float, spines: int, nodes: int
) -> None:
    node = load_node(name)
    wiring = wire_cluster([(node, load_chip(node.chip), nodes)], ratio, spines)
    leaves = [vertex.name for vertex in wiring.vertices if vertex.kind == "leaf"]
    for leaf in leaves:
        down = sum(c.capacity_bytes_per_s for c in wiring.cables if c.ends[1] == leaf)
        up = sum(c.capacity_bytes_per_s for c in wiring.cables if c.ends[0] == leaf)
        assert up * ratio == pytest.approx(down if len(leaves) > 1 else 0.0)


def wiring_of(name: str, nodes: int) -> Wiring:
    node = load_node(name)
    return wire_cluster([(node, load_chip(node.chip), nodes)])


def routes(topology: Topology) -> list[tuple[tuple[str, ...], int, float]]:
    paths = [topology.path(a, b) for a in topology.chips for b in topology.chips]
    return [(path.vertices, path.latency_ns, path.bottleneck_bytes_per_s) for path in paths]


@pytest.mark.parametrize(("name", "nodes"), [("hgx_h20", 1), ("hgx_h20", 2), ("a100_pcie_pairs", 2)])
@settings(deadline=None)
@given(data=st.data())
def test_a_cable_no_path_uses_changes_nothing(name: str, nodes: int, data: st.DataObject) -> None:
    wiring = wiring_of(name, nodes)
    topology = Topology(wiring)
    used = {link // 2 for a in topology.chips for b in topology.chips for link in topology.path(a, b).links}
    idle = [number for number in range(len(wiring.cables)) if number not in used]
    if not idle:
        assert (name, nodes) == ("a100_pcie_pairs", 2)
        return
    gone = data.draw(st.sampled_from(idle))
    rest = Wiring(wiring.vertices, wiring.cables[:gone] + wiring.cables[gone + 1 :])
    assert routes(Topology(rest)) == routes(topology)


@settings(deadline=None)
@given(data=st.data())
def test_a_cable_some_path_uses_is_missed(data: st.DataObject) -> None:
    wiring = wiring_of("hgx_h20", 2)
    topology = Topology(wiring)
    source, target = data.draw(st.sampled_from(topology.chips)), data.draw(st.sampled_from(topology.chips))
    if source == target:
        return
    gone = data.draw(st.sampled_from(topology.path(source, target).links)) // 2
    rest = Topology(Wiring(wiring.vertices, wiring.cables[:gone] + wiring.cables[gone + 1 :]))
    try:
        assert rest.path(source, target).vertices != topology.path(source, target).vertices
    except ScenarioError as problem:
        assert "nothing joins" in str(problem)  # noqa: PT017  (either outcome is right)


def test_builds_and_copies_are_equal() -> None:
    first, second = wiring_of("hgx_h200", 3), wiring_of("hgx_h200", 3)
    assert first == second
    topology = Topology(first)
    copy = pickle.loads(pickle.dumps(topology))  # noqa: S301  (our own bytes)
    assert copy.links == topology.links
    assert copy.path("n0/gpu0", "n2/gpu5") == topology.path("n0/gpu0", "n2/gpu5")


def test_the_order_of_questions_does_not_matter() -> None:
    forward, backward = cluster("hgx_h200", 3, 1.0, 4), build_topology(load_node("hgx_h200"), 3, 1.0, 4)
    ends = [(a, b) for a in forward.chips[::3] for b in forward.chips[::5]]
    asked = [forward.path(a, b) for a, b in ends]
    assert [backward.path(a, b) for a, b in reversed(ends)] == asked[::-1]
