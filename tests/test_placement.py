"""Instances are put on chips without overlap, and never over two nodes where one would do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.catalogue import load_node
from hardware.errors import ScenarioError
from simulator.placement import Demand, place

NODES = ("hgx_h200", "hgx_a100", "a100_pcie_pairs")


@st.composite
def demands(draw) -> list[Demand]:
    count = draw(st.integers(1, 4))
    return [
        Demand(
            f"p{i}",
            load_node(draw(st.sampled_from(NODES))),
            draw(st.sampled_from([1, 2, 3, 4, 8, 16])),
            draw(st.integers(1, 5)),
        )
        for i in range(count)
    ]


@given(demands())
def test_every_instance_gets_its_own_chips_of_its_own_kind_of_node(pools):
    placement = place(pools)
    owner = [node for node, count in placement.nodes for _ in range(count * node.chips)]
    used = [chip for chips in placement.chips for chip in chips]
    assert len(used) == len(set(used))
    wanted = [pool for pool in pools for _ in range(pool.replicas)]
    for pool, chips in zip(wanted, placement.chips, strict=True):
        assert len(chips) == pool.chips
        assert {owner[chip].name for chip in chips} == {pool.node.name}


@given(demands())
def test_an_instance_that_fits_a_node_is_not_split(pools):
    placement = place(pools)
    bounds, start = [], 0
    for node, count in placement.nodes:
        bounds += [start + i * node.chips for i in range(count)]
        start += count * node.chips
    node_of = [max(i for i, bound in enumerate(bounds) if bound <= chip) for chip in range(start)]
    wanted = [pool for pool in pools for _ in range(pool.replicas)]
    for pool, chips in zip(wanted, placement.chips, strict=True):
        if pool.chips <= pool.node.chips:
            assert len({node_of[chip] for chip in chips}) == 1


def test_pools_on_one_kind_of_node_share_nodes():
    node = load_node("hgx_h200")
    placement = place([Demand("prefill", node, 2, 2), Demand("decode", node, 4, 1)])
    assert placement.nodes == ((node, 1),)
    assert placement.chips == ((0, 1), (2, 3), (4, 5, 6, 7))


def test_too_few_nodes_are_refused_and_spare_ones_kept():
    node = load_node("hgx_h200")
    pools = [Demand("decode", node, 8, 3)]
    assert place(pools, 5).nodes == ((node, 5),)
    with pytest.raises(ScenarioError, match=r"network.nodes is 2, but the pools need 3 nodes of hgx_h200"):
        place(pools, 2)
