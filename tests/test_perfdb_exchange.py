"""Tokens of ranks on their way to experts: gathered everywhere, or sent where their experts are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import needs_tables

from hardware.catalogue import load_chip
from perfdb.borrowed import BorrowedSource
from perfdb.estimate import Origin
from perfdb.expert_operators import ExpertExchange
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import AllReduce, Collective, as_collective, step_operators
from perfdb.roofline import RooflineSource
from perfdb.silicon import SiliconSource
from perfdb.sources import source_chain
from perfdb.tables import TableChoice

H200 = load_chip("h200_sxm")


def at(*rows):
    return np.array(rows, np.int64)


DISPATCH = ExpertExchange("dispatch", 7168, 256, 8, 8, "fp8_block")


def test_ranks_gather_their_tokens_and_scatter_the_sums():
    operators = step_operators(load_model("Qwen3-235B-A22B"), Layout(1, 1, 8, 8)).per_token
    found = [(one.kind, one.width, one.chips, one.count) for one in operators if isinstance(one, Collective)]
    assert found == [("all_gather", 8 * 4096, 8, 94), ("reduce_scatter", 8 * 4096, 8, 94)]
    assert not [one for one in operators if isinstance(one, AllReduce)]


def test_an_all_to_all_sends_tokens_to_the_chips_of_their_experts():
    model = load_model("Qwen3-235B-A22B-FP8")
    operators = step_operators(model, Layout(1, 1, 8, 8, all_to_all=True)).per_token
    found = [(one.name, one.chips, one.count) for one in operators if isinstance(one, ExpertExchange)]
    assert found == [("dispatch", 8, 94), ("combine", 8, 94)]
    # Chips that share experts have no use for it, nor has a single rank.
    for layout in (Layout(1, 1, 8, 4, all_to_all=True), Layout(8, 1, 1, 8, all_to_all=True)):
        assert not [one for one in step_operators(model, layout).per_token if isinstance(one, ExpertExchange)]


@given(chips=st.integers(2, 256), per_token=st.integers(1, 22))
def test_a_token_goes_to_at_most_as_many_chips_as_it_has_experts(chips, per_token):
    copies = replace(DISPATCH, chips=chips, per_token=per_token).copies
    assert 1 - 1e-9 <= copies <= min(chips, per_token) + 1e-9


def test_an_exchange_that_nobody_measured_is_a_plain_all_to_all_of_as_many_bytes():
    whole = as_collective(DISPATCH)
    assert (whole.kind, whole.element_bytes, as_collective(replace(DISPATCH, weights="bf16")).element_bytes) == (
        "all_to_all",
        1,
        2,
    )
    assert as_collective(replace(DISPATCH, name="combine")).element_bytes == 2
    assert whole.width == round(8 * (1 - (7 / 8) ** 8) * 7168)
    roofline = RooflineSource(H200)
    assert list(roofline.rows(DISPATCH, at(64)).ns) == list(roofline.rows(whole, at(64)).ns)


def exchange_source(tmp_path, name, columns, framework="vllm", chip="h200_sxm"):
    folder = tmp_path / "data" / chip / "comm" / framework / "1.0.0"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}_perf.parquet")
    return SiliconSource(load_chip(chip), framework, tmp_path)


def unified(**changes):
    return {
        "hidden_size": [7168] * 4,
        "topk": [8] * 4,
        "num_experts": [256] * 4,
        "ep_size": [8, 8, 8, 4],
        "num_tokens": [16, 16, 32, 16],
        "phase": ["dispatch"] * 4,
        "comm_dtype": ["default"] * 4,
        "transmit_us": [90.0, 50.0, 70.0, 1.0],
        "notify_us": [0.0, 5.0, 0.0, 0.0],
    } | changes


def test_the_fastest_measured_exchange_among_as_many_chips_counts(tmp_path):
    source = exchange_source(tmp_path, "moe_a2a", unified())
    found = source.rows(DISPATCH, at(16, 24, 64))
    assert found.ns == pytest.approx([55e3, 62.5e3, 140e3])
    assert list(found.origin) == [Origin.MEASURED, Origin.INTERPOLATED, Origin.EXTRAPOLATED]
    assert source.rows(replace(DISPATCH, name="combine"), at(16)) is None
    assert source.rows(replace(DISPATCH, chips=16), at(16)) is None


def test_another_model_moves_more_or_less(tmp_path):
    source = exchange_source(tmp_path, "moe_a2a", unified())
    found = source.rows(replace(DISPATCH, hidden=3584), at(16, 32))
    assert found.ns == pytest.approx([55e3, 55e3 + (70e3 - 55e3) / 2])
    assert set(found.origin.tolist()) == {Origin.EXTRAPOLATED}


def test_an_exchange_in_a_rack_is_that_of_a_tray_with_more_to_send(tmp_path):
    among_four = unified(ep_size=[4] * 4, num_tokens=[16, 16, 512, 512], transmit_us=[50.0, 50.0, 250.0, 250.0])
    rack = exchange_source(tmp_path, "moe_a2a", among_four, chip="gb200")
    wide = replace(DISPATCH, chips=32)
    assert rack.exchange_among(wide, at(16)) is None
    found = rack.exchange_among(wide, at(16, 512), fewer=True)
    assert found.ns[0] == pytest.approx(50e3)
    more = wide.sent_away / replace(DISPATCH, chips=4).sent_away
    assert found.ns[1] == pytest.approx(50e3 + 200e3 * more)
    assert BorrowedSource(load_chip("gb200"), "vllm", TableChoice(tmp_path)).rows(wide, at(512)).ns == found.ns[1:]
    # NICs are no wires of a rack: nothing is known between nodes.
    assert exchange_source(tmp_path, "moe_a2a", among_four).exchange_among(wide, at(16), fewer=True) is None


def test_an_exchange_among_as_many_chips_of_a_near_chip_is_nearer_than_one_among_fewer(tmp_path):
    exchange_source(tmp_path, "moe_a2a", unified(ep_size=[4] * 4), chip="gb300")
    wide = replace(DISPATCH, chips=32)
    exchange_source(tmp_path, "moe_a2a", unified(ep_size=[32] * 4), chip="gb200")
    found = BorrowedSource(load_chip("gb300"), "vllm", TableChoice(tmp_path)).rows(wide, at(32))
    assert found.ns == pytest.approx([70e3])
    assert found.origin[0] == Origin.BORROWED


def test_an_exchange_is_in_the_format_of_the_experts_where_that_was_measured(tmp_path):
    columns = unified(comm_dtype=["bfloat16", "fp8", "bfloat16", "fp8"], notify_us=[0.0] * 4)
    source = exchange_source(tmp_path, "moe_a2a", columns, "trtllm")
    assert source.rows(DISPATCH, at(16)).ns == pytest.approx([50e3])
    assert source.rows(replace(DISPATCH, weights="bf16"), at(16)).ns == pytest.approx([90e3])
    assert source.rows(replace(DISPATCH, weights="int4"), at(16)).ns == pytest.approx([50e3])


def test_sglang_takes_low_latency_or_throughput_whichever_is_faster(tmp_path):
    shape = {"hidden_size": [7168] * 2, "num_topk": [8] * 2, "num_experts": [256] * 2, "node_num": [1] * 2}
    shape["num_token"] = [16, 1024]
    parts = {f"{phase}_{part}": [us] * 2 for phase in ("dispatch", "combine") for part, us in PARTS.items()}
    exchange_source(tmp_path, "wideep_deepep_normal", shape | parts, "sglang")
    low = shape | {"dispatch_avg_t_us": [20.0, 300.0], "combine_avg_t_us": [30.0, 400.0]}
    source = exchange_source(tmp_path, "wideep_deepep_ll", low, "sglang")
    assert source.rows(DISPATCH, at(16, 1024)).ns == pytest.approx([20e3, 105e3])
    # A server of one stage is told which it is to take.
    assert source.rows(replace(DISPATCH, stage="decode"), at(16, 1024)).ns == pytest.approx([20e3, 300e3])
    assert source.rows(replace(DISPATCH, stage="prefill"), at(16, 1024)).ns == pytest.approx([105e3, 105e3])
    rack = exchange_source(tmp_path, "wideep_deepep_ll", low, "sglang", "gb200")
    assert rack.rows(replace(DISPATCH, chips=4), at(16)).ns == pytest.approx([20e3])


PARTS = {"transmit_us": 100.0, "notify_us": 5.0}


@needs_tables
@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
def test_installed_exchanges_cost_more_than_their_bytes(framework):
    chain = source_chain(H200, framework)
    for name in ("dispatch", "combine"):
        exchange = replace(DISPATCH, name=name)
        found = chain.rows(exchange, at(1, 64, 1024))
        moved = exchange.copies * 7 / 8 * 7168 * exchange.element_bytes * at(1, 64, 1024)
        assert (found.ns > 1e9 * moved / H200.scale_up.bytes_per_s).all()
        assert (found.origin <= Origin.EXTRAPOLATED).all()
