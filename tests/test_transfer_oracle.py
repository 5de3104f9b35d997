"""Flows over shared links against a slow, exact model of fluids: every end, to the nanosecond."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import inf

import numpy as np
import pytest
from flowing import Run
from fluid_oracle import Change, Sent, fill, finish_times
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.catalogue import load_node
from hardware.topology import build_topology
from simulator.transfer import Network

GB = 1e9
# Whole bytes per nanosecond make ties of every kind; others make hardly any. Rates are whole bytes per second, as
# floats that differ in their last bit can leave less than the 2^-64 of a byte that is not waited for.
rates = st.sampled_from([GB, 2 * GB, 3 * GB, 7 * GB, 12.5 * GB, 50 * GB]) | st.integers(10**6, 10**12).map(float)
sizes = st.sampled_from([0, 1, 60, 420, 1000, 2**20]) | st.integers(1, 10_000)
times = st.sampled_from([0, 1, 10, 100]) | st.integers(0, 3000)


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Sent], list[float], list[Change]]:
    capacity = draw(st.lists(rates, min_size=1, max_size=6))
    links = st.integers(0, len(capacity) - 1)
    flow = st.builds(
        Sent,
        sent_ns=times,
        links=st.lists(links, max_size=4, unique=True).map(tuple),
        size_bytes=sizes,
        latency_ns=st.sampled_from([0, 0, 1, 7, 500]),
        cap_bytes_per_s=st.just(inf) | rates,
    )
    sent = draw(st.lists(flow, min_size=1, max_size=16))
    change = st.builds(Change, time_ns=times, link=links, bytes_per_s=st.just(0.0) | rates)
    changes = draw(st.lists(change, max_size=5, unique_by=lambda change: (change.time_ns, change.link)))
    given_up = draw(st.dictionaries(st.integers(0, len(sent) - 1), st.integers(1, 3000), max_size=3))
    for i, delay in given_up.items():
        sent[i] = replace(sent[i], dropped_ns=sent[i].sent_ns + delay)
    return sent, capacity, changes


@settings(max_examples=600, deadline=None)
@given(networks())
def test_every_flow_ends_at_the_nanosecond_of_the_oracle(drawn):
    sent, capacity, changes = drawn
    assert Run(sent, capacity, changes).finished_ns == finish_times(sent, capacity, changes)


@pytest.mark.parametrize("most_known", [2, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_many_flows_on_few_links(seed, most_known, monkeypatch):
    """Also with streams forgotten while their flows are under way."""
    monkeypatch.setattr("simulator.transfer._MOST_KNOWN", most_known)
    rng = np.random.default_rng(seed)
    links, size = 9, 90
    capacity = (rng.integers(1, 9, links) * GB).tolist()
    sent = [
        Sent(
            int(rng.integers(0, 2000)),
            tuple(rng.permutation(links)[: rng.integers(1, 5)].tolist()),
            int(rng.integers(1, 3000)),
            cap_bytes_per_s=float(rng.choice([inf, inf, 0.4 * GB])),
        )
        for _ in range(size)
    ]
    assert Run(sent, capacity, kind=Network).finished_ns == finish_times(sent, capacity)


@pytest.mark.parametrize("oversubscription", [1.0, 4.0])
def test_paths_of_a_cluster(oversubscription):
    topology = build_topology(load_node("hgx_a100"), 4, oversubscription, spines=2)
    rng = np.random.default_rng(5)
    places = [rng.choice(topology.chips, 2, replace=False).tolist() for _ in range(40)]
    paths = [topology.path(*ends) for ends in places]
    # The oracle looks at every link at every instant; give it the links that are used alone.
    used = sorted({link for path in paths for link in path.links})
    sent = [
        Sent(
            int(rng.integers(0, 400_000)),
            tuple(used.index(link) for link in path.links),
            int(rng.integers(1, 10**7)),
            latency_ns=path.latency_ns,
            cap_bytes_per_s=0.85 * path.bottleneck_bytes_per_s,
        )
        for path in paths
    ]
    capacity = topology.capacity_bytes_per_s[used].tolist()
    found = Run(sent, capacity).finished_ns
    assert found == finish_times(sent, capacity)
    assert max(found) > 2 * max(flow.size_bytes / flow.cap_bytes_per_s for flow in sent) * 1e9


def test_the_oracle_fills_as_one_does_by_hand():
    sent = [Sent(0, links, 1) for links in ((0, 1), (1,), (1, 2), (2,))]
    assert fill(sent, [Fraction(1)] * 3) == [Fraction(1, 3)] * 3 + [Fraction(2, 3)]
    capped = [*sent[:3], replace(sent[3], cap_bytes_per_s=0.5), Sent(0, (0,), 1)]
    assert fill(capped, [Fraction(1)] * 3) == [Fraction(1, 3)] * 3 + [Fraction(1, 2), Fraction(2, 3)]
