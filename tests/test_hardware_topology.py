"""The topology: worked examples with numbers, and what is refused."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING

import networkx as nx
import pytest

from hardware.catalogue import load_node
from hardware.errors import CatalogueError, ScenarioError
from hardware.topology import Topology, build_cluster, build_topology, shares_link
from hardware.wiring import Cable, LinkKind, Vertex, VertexKind, Wiring

if TYPE_CHECKING:
    from pathlib import Path

LINK_KINDS = ("c2c", "leaf", "nic", "nvlink", "nvswitch", "pcie", "spine")


@cache
def cluster(name: str, nodes: int = 1, oversubscription: float = 1.0, spines: int = 1) -> Topology:
    return build_topology(load_node(name), nodes, oversubscription, spines)


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
    used = [next(v for v in topology.path(chips[0], far).vertices if v.startswith("spine")) for far in chips[9:13]]
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
    count = {kind: sum(link.kind == kind for link in topology.links) for kind in LINK_KINDS}
    both_ways = {kind: 2 * links for kind, links in {"nvswitch": 16, "nic": 16, "leaf": 16, "spine": 8}.items()}
    assert count == {"c2c": 0, "nvlink": 0, "pcie": 2 * (16 + 8), **both_ways}
    assert "n0/nic0" not in cluster("hgx_h200").graph


def drawn_by_hand(devices: dict[str, VertexKind], cables: list[tuple[str, str, LinkKind, int]]) -> Topology:
    vertices = tuple(Vertex(name, kind, 0) for name, kind in devices.items())
    return Topology(Wiring(vertices, tuple(Cable((a, b), kind, 1e9, ns) for a, b, kind, ns in cables)))


def test_fewer_hops_beat_a_lower_latency_which_beats_the_name() -> None:
    topology = drawn_by_hand(
        {"a": "chip", "b": "chip", "c": "chip", "p": "pcie", "q": "pcie", "r": "pcie", "s": "host"},
        [
            ("a", "p", "pcie", 900),
            ("p", "b", "pcie", 900),  # two hops, slow
            ("a", "q", "pcie", 1),
            ("q", "s", "pcie", 1),
            ("s", "b", "pcie", 1),  # three hops, fast
            ("p", "c", "pcie", 900),
            ("a", "r", "pcie", 800),
            ("r", "c", "pcie", 900),  # two ways to c
        ],
    )
    assert topology.path("a", "b").vertices == ("a", "p", "b")
    assert topology.path("a", "c").vertices == ("a", "r", "c")


def test_a_chip_does_not_forward_for_others() -> None:
    topology = drawn_by_hand(
        {"a": "chip", "b": "chip", "c": "chip", "p": "pcie", "q": "pcie", "s": "host"},
        [
            ("a", "b", "nvlink", 1),
            ("b", "c", "nvlink", 1),
            ("a", "p", "pcie", 9),
            ("p", "s", "pcie", 9),
            ("s", "q", "pcie", 9),
            ("q", "c", "pcie", 9),
        ],
    )
    assert topology.path("a", "b").vertices == ("a", "b")
    assert topology.path("a", "c").vertices == ("a", "p", "s", "q", "c")


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


# --- a full mesh, and NICs by choice -----------------------------------------------------------------------

MESH = """
like = "hgx_h200"
fabric = "full_mesh"
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Topology:
    """Two nodes of eight chips whose ports, 450 GB/s together, go to seven peers."""
    node = tmp_path / "mesh.toml"
    node.write_text(MESH, encoding="utf-8")
    return build_topology(load_node(node), 2)


def test_in_a_full_mesh_any_two_chips_have_a_cable_of_their_own(mesh: Topology) -> None:
    inside = [pair for pair in combinations(mesh.chips, 2) if pair[0][:3] == pair[1][:3]]
    paths = [mesh.path(*pair) for pair in inside]
    assert len(paths) == 2 * 28
    assert {path.bottleneck_bytes_per_s for path in paths} == {450e9 / 7}
    assert {path.vertices for path in paths} == set(inside)
    assert not any(shares_link(one, other) for one, other in combinations(paths, 2))


def test_all_cables_of_a_chip_of_a_full_mesh_are_its_ports(mesh: Topology) -> None:
    out = [link for link in mesh.links if link.kind == "nvlink" and link.source == "n0/gpu5"]
    assert len(out) == 7
    assert sum(link.capacity_bytes_per_s for link in out) == pytest.approx(450e9)


def test_nodes_with_a_full_mesh_are_joined_by_their_nics(mesh: Topology) -> None:
    assert mesh.path("n0/gpu5", "n1/gpu5").vertices == cluster("hgx_h200", 2).path("n0/gpu5", "n1/gpu5").vertices


def test_a_mesh_of_fewer_chips_leaves_ports_unused(tmp_path: Path) -> None:
    node = tmp_path / "half.toml"
    node.write_text(MESH + "chips = 4\nnics = 4\nrails = 4\n", encoding="utf-8")
    assert build_topology(load_node(node)).bottleneck("n0/gpu0", "n0/gpu3") == 450e9 / 7


def test_a_path_by_other_nics_crosses_the_host_and_stays_on_their_rail() -> None:
    topology = cluster("hgx_h200", 2)
    path = topology.path_by("n0/gpu0", "n1/gpu0", ("n0/nic7", "n1/nic7"))
    there = "n0/gpu0 n0/pcie0 n0/cpu0 n0/pcie3 n0/nic7 leaf7 n1/nic7 n1/pcie3 n1/cpu0 n1/pcie0 n1/gpu0"
    assert path.vertices == tuple(there.split())
    back = topology.path_by("n1/gpu0", "n0/gpu0", ("n1/nic7", "n0/nic7"))
    assert back.vertices == path.vertices[::-1]
    own = topology.path_by("n0/gpu3", "n1/gpu3", ("n0/nic3", "n1/nic3"))
    assert own == topology.path("n0/gpu3", "n1/gpu3")


def test_a_rack_reaches_the_nics_of_its_own_tray_by_pcie() -> None:
    assert cluster("gb200_nvl72", 2).nics("n0/gpu6") == ("n0/nic4", "n0/nic5", "n0/nic6", "n0/nic7")
    assert cluster("hgx_h200", 1).nics("n0/gpu6") == ()


def test_a_link_is_found_by_its_ends() -> None:
    topology = cluster("hgx_h200", 2)
    link = topology.link_between("n0/nic3", "leaf3")
    assert (link.source, link.target, link.capacity_bytes_per_s) == ("n0/nic3", "leaf3", 50e9)
    with pytest.raises(ScenarioError, match=r"no link goes from 'n0/nic3' to 'leaf4'; 'n0/nic3' is joined to n0/pcie1"):
        topology.link_between("n0/nic3", "leaf4")
    with pytest.raises(ScenarioError, match="did you mean 'n0/nic3'"):
        topology.link_between("n0/nick3", "leaf3")


def test_a_nic_of_another_node_is_refused() -> None:
    topology = cluster("hgx_h200", 2)
    with pytest.raises(ScenarioError, match="'n1/nic0' is no NIC that 'n0/gpu0' reaches"):
        topology.path_by("n0/gpu0", "n1/gpu0", ("n1/nic0", "n1/nic0"))
    with pytest.raises(ScenarioError, match="no network joins"):
        topology.path_by("n0/gpu0", "n0/gpu1", ("n0/nic0", "n0/nic1"))


@pytest.mark.parametrize("name", ["hgx_h200", "hgx_h20", "gb200_nvl72", "l4_pcie"])
def test_the_way_by_a_leaf_is_the_one_that_a_search_of_the_graph_finds(name: str) -> None:
    topology = build_topology(load_node(name), 3, spines=3)
    chips = topology.chips[:: max(1, len(topology.chips) // 12)]
    for source, target in combinations(chips, 2):
        path = topology.path(source, target)
        allowed = {n for n, data in topology.graph.nodes(data=True) if data["kind"] not in ("chip", "nvswitch", "nic")}
        ways = topology.graph.subgraph([*allowed, *path.vertices])
        if not any(name.endswith("nvswitch") for name in path.vertices):
            found = nx.shortest_path_length(ways, source, target)
            assert len(path.links) == found
