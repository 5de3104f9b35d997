"""Thousands of flows stay cheap: counted in rates set and events handled, not in time."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from flowing import Checked, closed_loop

from hardware.catalogue import load_node
from hardware.topology import build_topology

FLOWS = 5000


@cache
def topology(nodes):
    return build_topology(load_node("hgx_h200"), nodes)


def random_paths(nodes, count, rng):
    chips = topology(nodes).chips
    ends = [rng.choice(len(chips), 2, replace=False) for _ in range(count)]
    return [topology(nodes).path(chips[a], chips[b]) for a, b in ends]


@pytest.mark.parametrize("at_once", [10, 1000, FLOWS])
def test_flows_between_any_chips_of_64_nodes(at_once):
    """Each start and end touches a dozen streams on average, of up to thousands there are."""
    rng = np.random.default_rng(7)
    paths = random_paths(64, 1000, rng)
    network, events = closed_loop(paths, FLOWS, at_once, rng, capacity=topology(64).capacity_bytes_per_s)
    assert network.flows_finished == FLOWS
    assert network.bytes_received == network.bytes_sent
    assert events <= 3 * FLOWS
    assert network.sharings <= 2 * FLOWS
    assert network.rates_set < 14 * network.sharings
    assert network.link_use().peak_flows.max() > {10: 1, 1000: 20, FLOWS: 50}[at_once]


def test_flows_between_few_instances_cost_by_the_pair_not_by_the_flow():
    """4 instances send to 4: never more than 16 streams, however many flows are under way."""
    chips = topology(8).chips
    paths = [topology(8).path(chips[8 * i], chips[8 * (4 + j)]) for i in range(4) for j in range(4)]
    rng = np.random.default_rng(8)
    network, _ = closed_loop(paths, FLOWS, FLOWS, rng, capacity=topology(8).capacity_bytes_per_s)
    assert network.link_use().peak_flows.max() > 1000
    assert network.rates_set <= 16 * network.sharings


def test_flows_that_start_together_are_shared_once():
    rng = np.random.default_rng(9)
    paths = [path for path in random_paths(8, 300, rng) if len(path.links) == 8]
    capacity = topology(8).capacity_bytes_per_s
    network, events = closed_loop(paths, 100, 100, rng, kind=Checked, capacity=capacity)
    assert network.sharings == events == 101
