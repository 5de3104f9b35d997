"""The topology: worked examples with numbers, and laws that hold for every node of the catalogue."""

from __future__ import annotations

import math
import pickle
from collections import deque
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.catalogue import load_chip, load_node, node_names
from hardware.errors import CatalogueError, ScenarioError
from hardware.topology import Topology, build_cluster, build_topology, shares_link
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


# Worked examples.


@pytest.mark.parametrize(
    ("name", "nodes", "vertices", "gigabytes_per_s", "latency_ns"),
    [
        ("hgx_h200", 1, "n0/gpu0 n0/nvswitch n0/gpu5", 450, 1000),
        (
            "hgx_h200",
            2,
            "n0/gpu3 n0/pcie1 n0/nic3 leaf3 n1/nic3 n1/pcie1 n1/gpu3",
            50,
            1600,
        ),
        (
            "hgx_h200",
            2,
            "n0/gpu3 n0/pcie1 n0/nic3 leaf3 spine0 leaf4 n1/nic4 n1/pcie2 n1/gpu4",
            50,
            2200,
        ),
        ("a40_pairs", 1, "n0/gpu2 n0/gpu3", 56.25, 1000),
        ("a40_pairs", 1, "n0/gpu1 n0/pcie0 n0/gpu2", 32, 400),
        ("a40_pairs", 1, "n0/gpu3 n0/pcie0 n0/cpu0 n0/pcie1 n0/gpu4", 32, 800),
        (
            "a40_pairs",
            2,
            "n0/gpu7 n0/pcie1 n0/cpu0 n0/pcie0 n0/nic0 leaf0 n1/nic0 n1/pcie0 n1/gpu0",
            12.5,
            2000,
        ),
        ("rtx_4090_pcie", 1, "n0/gpu0 n0/cpu0 n0/gpu7", 32, 400),
        (
            "hgx_h20",
            2,
            "n0/gpu1 n0/pcie0 n0/nic0 leaf0 n1/nic0 n1/pcie0 n1/gpu0",
            50,
            1600,
        ),
        ("gb200_nvl72", 1, "n0/gpu0 n0/nvswitch n0/gpu71", 900, 1000),
        (
            "gb200_nvl72",
            2,
            "n0/gpu6 n0/cpu1 n0/nic6 leaf2 n1/nic2 n1/cpu0 n1/gpu2",
            100,
            1600,
        ),
        ("gb200_nvl72", 1, "n0/gpu6 n0/cpu1", 225, 200),
        ("hgx_h200", 1, "n0/gpu6 n0/pcie3 n0/cpu0", 64, 400),
        (
            "hgx_h200",
            2,
            "n0/cpu0 n0/pcie1 n0/nic3 leaf3 n1/nic3 n1/pcie1 n1/gpu3",
            50,
            1600,
        ),
    ],
)
def test_worked_path(name: str, nodes: int, vertices: str, gigabytes_per_s: float, latency_ns: int) -> None:
    topology, passed = cluster(name, nodes), tuple(vertices.split())
    source, target = passed[0], passed[-1]
    path = topology.path(source, target)
    assert path.vertices == passed
    assert path.bottleneck_bytes_per_s == topology.bottleneck(source, target) == gigabytes_per_s * 1e9
    assert path.latency_ns == latency_ns


def test_oversubscription_narrows_what_crosses_the_spine() -> None:
    topology = cluster("hgx_h200", 2, 4.0)
    assert topology.bottleneck("n0/gpu0", "n1/gpu0") == 50e9
    assert topology.bottleneck("n0/gpu0", "n1/gpu1") == 2 * 50e9 / 4


def test_rails_of_different_pods_meet_at_a_spine() -> None:
    topology = cluster("hgx_h200", 33)
    assert "spine0" not in topology.path("n0/gpu0", "n31/gpu0").vertices
    assert topology.path("n0/gpu0", "n32/gpu0").vertices[3:6] == ("leaf0", "spine0", "leaf8")


def test_parallel_spines_are_used_in_turn() -> None:
    topology = cluster("hgx_h200", 3, 1.0, 4)
    chips = topology.chips
    used = [
        next(v for v in topology.path(chips[0], far).vertices if v.startswith("spine")) for far in chips[9:13]
    ]
    assert sorted(used) == ["spine0", "spine1", "spine2", "spine3"]


def test_a_mixed_cluster_shares_its_leaves() -> None:
    topology = build_cluster([(load_node("hgx_h800"), 1), (load_node("hgx_h20"), 2)])
    assert len(topology.chips) == 24
    path = topology.path("n0/gpu1", "n2/gpu3")
    assert path.vertices[2:5] == ("n0/nic1", "leaf1", "n2/nic1")
    assert topology.bottleneck("n0/gpu0", "n0/gpu1") == 200e9
    assert topology.bottleneck("n1/gpu0", "n1/gpu1") == 450e9


def test_two_chips_of_one_nic_share_its_links_and_others_do_not() -> None:
    topology = cluster("hgx_h20", 2)
    first, second = topology.path("n0/gpu0", "n1/gpu0"), topology.path("n0/gpu1", "n1/gpu1")
    assert shares_link(first, second)
    assert not shares_link(first, topology.path("n0/gpu2", "n1/gpu2"))
    assert not shares_link(first, topology.path("n1/gpu0", "n0/gpu0"))


def test_a_chip_reaches_itself_for_free() -> None:
    path = cluster("hgx_h200").path("n0/gpu0", "n0/gpu0")
    assert (path.links, path.latency_ns, path.bottleneck_bytes_per_s) == ((), 0, math.inf)


def test_counts_of_a_cluster() -> None:
    topology = cluster("hgx_h200", 2)
    count = {kind: sum(link.kind == kind for link in topology.links) for kind in sorted(LINK_KINDS)}
    both_ways = {
        kind: 2 * links for kind, links in {"nvswitch": 16, "nic": 16, "leaf": 16, "spine": 8}.items()
    }
    assert count == {"c2c": 0, "nvlink": 0, "pcie": 2 * (16 + 8), **both_ways}
    assert "n0/nic0" not in cluster("hgx_h200").graph


# Errors.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"nodes": 0}, "nodes is 0; expected a whole number of at least 1"),
        ({"nodes": True}, "nodes is True; expected a whole number"),
        ({"nodes": 1.5}, "nodes is 1.5; expected a whole number"),
        ({"spines": 0}, "spines is 0; expected a whole number of at least 1"),
        ({"oversubscription": 0.5}, "oversubscription is 0.5; expected a number of at least 1"),
        ({"oversubscription": math.nan}, "oversubscription is nan; expected a number of at least 1"),
    ],
)
def test_impossible_clusters(arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        build_topology(load_node("hgx_h200"), **arguments)  # type: ignore[arg-type]


def test_no_nodes_at_all_is_an_error() -> None:
    with pytest.raises(ScenarioError, match="no nodes"):
        build_cluster([])


def test_nodes_without_nics_cannot_form_a_cluster() -> None:
    alone = load_node("l4_pcie").model_copy(update={"nics": 0, "rails": 0, "nic_bytes_per_s": None})
    assert build_topology(alone).bottleneck("n0/gpu0", "n0/gpu1") == 32e9
    with pytest.raises(ScenarioError, match="node 'l4_pcie' has nics = 0"):
        build_topology(alone, 2)


def test_only_chips_and_hosts_are_ends_of_a_path() -> None:
    topology = cluster("hgx_h200")
    for name in ("n0/gpu8", "n0/nvswitch", "gpu0"):
        with pytest.raises(CatalogueError, match=f"'{name}' is not a chip or host.*'n0/gpu0' to 'n0/gpu7'"):
            topology.path(name, "n0/gpu0")


def test_hosts_of_two_trays_are_not_joined_inside_a_rack() -> None:
    with pytest.raises(ScenarioError, match="nothing joins 'n0/cpu0' and 'n0/cpu1'"):
        cluster("gb200_nvl72").path("n0/cpu0", "n0/cpu1")


# Laws.


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


@given(pairs())
def test_the_way_back_is_the_same_way(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    there, back = topology.path(source, target), topology.path(target, source)
    assert back.links == tuple(link ^ 1 for link in reversed(there.links))
    assert (back.latency_ns, back.bottleneck_bytes_per_s) == (there.latency_ns, there.bottleneck_bytes_per_s)


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


@given(pairs())
def test_no_path_passes_through_another_chip(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    assert not set(topology.path(source, target).vertices[1:-1]) & set(topology.chips)


@given(pairs())
def test_a_spine_is_crossed_only_between_leaves(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    path = topology.path(source, target)
    leaves = [v for v in path.vertices if v.startswith("leaf")]
    assert len(leaves) <= 2
    assert kinds(topology, path).count("spine") == (2 if len(leaves) == 2 else 0)


@given(pairs())
def test_chips_of_one_nvlink_fabric_use_nothing_else(drawn: tuple[Topology, str, str]) -> None:
    topology, source, target = drawn
    direct = topology.graph.has_edge(source, target)
    switch = f"{node_of(source)}/nvswitch"
    if direct or (switch in topology.graph and node_of(source) == node_of(target) and source != target):
        expected = ["nvlink"] if direct else ["nvswitch", "nvswitch"]
        assert kinds(topology, topology.path(source, target)) == expected


@given(pairs(most_nodes=2))
def test_no_way_through_switches_is_shorter(drawn: tuple[Topology, str, str]) -> None:
    """A breadth-first search of our own, over everything but chips and NICs of others."""
    topology, source, target = drawn
    path = topology.path(source, target)
    if "n0/nvswitch" in topology.graph and node_of(source) == node_of(target):
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
