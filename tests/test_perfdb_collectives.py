"""Collectives: measured within a node, and links between nodes."""

from __future__ import annotations

import numpy as np
import pytest
from pricing import needs_tables
from test_perfdb_tables import CHIP, write

from hardware.catalogue import load_chip
from perfdb.collectives import Group, between_nodes_ns, group_of
from perfdb.estimate import Origin
from perfdb.operators import AllReduce, Collective, as_nccl
from perfdb.roofline import RooflineSource
from perfdb.silicon import SiliconSource
from perfdb.sources import source_chain
from perfdb.speed_of_light import collective_light

ROWS = np.array([1, 64, 4096])
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


@pytest.mark.parametrize(
    ("chip", "chips", "inside", "nodes"),
    [
        ("h200_sxm", 8, 8, 1),
        ("h200_sxm", 16, 8, 2),
        ("h200_sxm", 12, 6, 2),
        ("gb200", 64, 64, 1),
        ("gb200", 144, 72, 2),
    ],
)
def test_a_group_takes_the_fewest_nodes_and_fills_them_evenly(chip, chips, inside, nodes):
    assert group_of(load_chip(chip), chips) == Group(inside, nodes)


@pytest.mark.parametrize("kind", KINDS)
def test_within_a_node_there_is_nothing_between_nodes(kind):
    assert between_nodes_ns(CHIP, Collective("x", kind, 4096, 8), ROWS.astype(float)).tolist() == [0, 0, 0]


def test_between_nodes_an_all_gather_carries_the_share_of_a_nic_and_an_all_to_all_all_for_other_nodes():
    rows, width = np.array([1e4]), 8192
    message_ns = 1e9 * 2 * width * 1e4 / CHIP.nic_bytes_per_s
    ns = {kind: between_nodes_ns(CHIP, Collective("x", kind, width, 32), rows)[0] for kind in KINDS}
    # Four nodes of eight: three quarters of the message come from elsewhere, over eight NICs; messages in a tree.
    assert ns["all_gather"] == pytest.approx(2 * 10_000 + message_ns * 3 / 4 / 8)
    assert ns["reduce_scatter"] == ns["all_gather"]
    assert ns["all_reduce"] == pytest.approx(2 * ns["all_gather"])
    assert ns["all_to_all"] == pytest.approx(10_000 + message_ns * 3 / 4)
    narrow = Collective("x", "all_to_all", width, 32, element_bytes=1)
    assert between_nodes_ns(CHIP, narrow, rows)[0] == pytest.approx(10_000 + message_ns * 3 / 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chip", ["h200_sxm", "gb200", "a100_80_pcie", "rtx_4090"])
def test_a_roofline_collective_costs_more_over_more_nodes_and_never_less_than_light(chip, kind):
    sheet = load_chip(chip)
    source = RooflineSource(sheet)
    costs = [source.rows(Collective("x", kind, 4096, chips), ROWS).ns for chips in (2, 4, 144, 288)]
    assert (np.diff(costs, axis=0) > 0).all()
    assert (costs[1] >= collective_light(sheet, kind, 4, ROWS * 4096 * 2)).all()


def nccl(root, **columns):
    size = 4
    table = {
        "nccl_dtype": ["half"] * size,
        "op_name": ["alltoall"] * size,
        "num_gpus": [8] * size,
        "message_size": [1000, 2000, 4000, 8000],
        "latency": [0.01, 0.02, 0.04, 0.08],
    }
    write(root, "comm", "nccl", table | columns, framework="nccl", version="2.29.2")


def test_nccl_collectives_are_read_by_kind_chips_elements_and_width(tmp_path):
    nccl(tmp_path, num_gpus=[8, 8, 8, 4], nccl_dtype=["half", "half", "int8", "half"])
    source = SiliconSource(CHIP, "vllm", tmp_path)
    found = source.rows(Collective("x", "all_to_all", 100, 8), np.array([10, 15, 20, 40]))
    assert found.ns == pytest.approx([10_000, 15_000, 20_000, 40_000])
    assert found.origin.tolist() == [Origin.MEASURED, Origin.INTERPOLATED, Origin.MEASURED, Origin.EXTRAPOLATED]
    assert source.rows(Collective("x", "all_to_all", 100, 8, element_bytes=1), np.array([40])).ns == [40_000]
    assert source.rows(Collective("x", "all_gather", 100, 8), np.array([10])) is None
    assert source.rows(Collective("x", "all_to_all", 100, 2), np.array([10])) is None


def test_over_several_nodes_the_links_between_them_come_on_top_of_what_was_measured(tmp_path):
    nccl(tmp_path)
    source = SiliconSource(CHIP, "vllm", tmp_path)
    one, two = (source.rows(Collective("x", "all_to_all", 100, chips), np.array([20, 40])) for chips in (8, 16))
    between = between_nodes_ns(CHIP, Collective("x", "all_to_all", 100, 16), np.array([20.0, 40]))
    assert two.ns - one.ns == pytest.approx(between)
    assert set(two.origin.tolist()) == {Origin.EXTRAPOLATED}


def test_a_collective_faster_than_its_links_is_set_aside(tmp_path):
    nccl(tmp_path, message_size=[1000, 10_000_000, 20_000_000, 40_000_000], latency=[0.01, 0.02, 0.2, 0.4])
    source = SiliconSource(CHIP, "vllm", tmp_path)
    found = source.rows(Collective("x", "all_to_all", 1000, 8), np.array([1, 10_000, 20_000]))
    assert np.isnan(found.ns).tolist() == [False, True, False]


@needs_tables
@pytest.mark.parametrize("kind", KINDS)
def test_on_the_installed_tables_every_kind_is_measured_and_grows(kind):
    chain = source_chain(load_chip("h200_sxm"), "vllm")
    costs = [chain.rows(Collective("x", kind, 4096, chips), ROWS) for chips in (2, 8, 16)]
    assert Origin.ROOFLINE not in {int(origin) for cost in costs for origin in cost.origin}
    assert all((np.diff(cost.ns) > 0).all() for cost in costs)
    assert (costs[2].ns > costs[1].ns).all()


@needs_tables
def test_an_all_reduce_over_nodes_is_that_of_a_node_and_its_nics():
    chip = load_chip("h200_sxm")
    source = SiliconSource(chip, "vllm")
    # The engine's own kernel ends with the node: over nodes, NCCL sums inside them, too.
    one = source.rows(as_nccl(AllReduce("x", 4096, 8)), ROWS).ns
    four = source.rows(AllReduce("x", 4096, 32), ROWS).ns
    assert four - one == pytest.approx(between_nodes_ns(chip, AllReduce("x", 4096, 32), ROWS.astype(float)))
