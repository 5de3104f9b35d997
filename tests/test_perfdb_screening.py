"""Rows that cannot be are found by what they are, not by name, and leave a hole that kin fill."""

from __future__ import annotations

import numpy as np
import pytest
from pricing import needs_tables
from test_perfdb_tables import CHIP, attention, attention_table, gemm_table, write

from hardware.catalogue import load_chip
from perfdb.estimate import Origin
from perfdb.operators import Gemm
from perfdb.points import Points
from perfdb.screening import Verdict, screened, slowest_sibling
from perfdb.silicon import SiliconSource
from perfdb.sources import source_chain
from perfdb.speed_of_light import attention_bound, gemm_bound
from perfdb.tables import TableChoice

S, L, W, B = Verdict.SOUND, Verdict.FASTER_THAN_LIGHT, Verdict.SLOWER_THAN_SIBLINGS, Verdict.BEATEN_BY_LONGER


def points(*ns, shape=0):
    at = np.arange(1, len(ns) + 1)
    return Points.of((np.full(len(ns), shape),), at, np.array(ns, float))


def changed(table, keep, factor):
    return table | {"latency": np.where(keep, table["latency"] * factor, table["latency"])}


# --- points ------------------------------------------------------------------------------------------


def test_points_are_in_order_and_each_once_at_its_fastest():
    shape = np.array([2, 1, 1, 2]), np.full(4, 7)
    found = Points.of(shape, np.array([5, 9, 3, 5]), np.array([4.0, 3, 2, 1]))
    assert found.shape.tolist() == [[1, 7], [1, 7], [2, 7]]
    assert (found.at.tolist(), found.ns.tolist(), found.curve.tolist()) == ([3, 9, 5], [2, 3, 1], [0, 0, 1])
    assert list(found.curves()) == [((1, 7), slice(0, 2)), ((2, 7), slice(2, 3))]


# --- verdicts ----------------------------------------------------------------------------------------


def test_what_beats_the_speed_of_light_by_more_than_a_nominal_peak_allows_cannot_be():
    found = screened(points(100, 100, 100, 100), np.array([90.0, 100, 104, 106]))
    assert found.tolist() == [S, S, S, L]
    assert screened(points(0, 100)).tolist() == [L, S]


def test_what_a_longer_row_beats_by_far_is_beaten_and_a_step_down_between_kernels_is_not():
    assert screened(points(250, 100, 110)).tolist() == [B, S, S]
    assert screened(points(140, 100, 110)).tolist() == [S, S, S]
    two = Points.of((np.array([0, 0, 1]),), np.array([1, 2, 1]), np.array([900.0, 950, 10]))
    assert screened(two).tolist() == [S, S, S]


def test_a_row_faster_than_light_beats_nobody():
    assert screened(points(250, 100), np.array([240.0, 240])).tolist() == [S, L]


def test_what_every_sibling_beats_by_far_goes_with_the_rows_around_it_that_are_still_far_off():
    own, siblings = points(60, 60, 60, 60, 60, 80), np.array([12.0, 15, 25, 39, 45, 80])
    assert screened(own, None, siblings).tolist() == [W, W, W, W, S, S]
    # The time of a launch does not grow with the work: this kernel is slow.
    growing = points(10, 12, 30, 60, 120, 240)
    assert screened(growing, None, np.full(6, 10.0)).tolist() == [S] * 6
    # Slower throughout, but never by far: another kernel.
    assert screened(own, None, own.ns / 2.5).tolist() == [S] * 6
    assert screened(own, None, np.full(6, np.nan)).tolist() == [S] * 6


def test_the_slowest_sibling_counts_and_one_that_lacks_the_point_does_not():
    own = Points.of((np.array([1, 1, 4]),), np.array([8, 16, 8]), np.ones(3))
    others = [
        Points.of((np.array([1, 4, 4]),), np.array([8, 8, 9]), np.array([2.0, 3, 4])),
        Points.of((np.array([0, 1]),), np.array([8, 8]), np.array([9.0, 5])),
    ]
    assert slowest_sibling(own, others).tolist()[::2] == [5, 3]
    assert np.isnan(slowest_sibling(own, others)[1])
    assert np.isnan(slowest_sibling(own, [])).all()


def test_nobody_is_held_against_what_is_faster_than_light(tmp_path):
    sound = gemm_table(0.5)
    write(tmp_path, "gemm", "gemm", sound)
    cached = (sound["n"] == 4096) & (sound["m"] == 1)
    write(tmp_path, "gemm", "gemm", changed(sound, cached, 0.15), framework="sglang")
    gemm = Gemm("x", 4096, 4096, "bf16")
    found = SiliconSource(CHIP, "vllm", tmp_path).rows(gemm, np.array([1, 64]))
    assert found.origin.tolist() == [Origin.MEASURED] * 2
    assert found.complete


def test_a_sibling_that_lacks_a_size_is_asked_for_the_next_larger():
    own = Points.of((np.array([32, 200, 512]), np.array([64, 64, 64])), np.full(3, 8), np.ones(3))
    sibling = Points.of((np.array([128, 256]), np.array([64, 64])), np.array([8, 8]), np.array([2.0, 3]))
    assert slowest_sibling(own, [sibling], sizes=(0, 1)).tolist()[:2] == [2, 3]
    assert np.isnan(slowest_sibling(own, [sibling], sizes=(0, 1))[2])
    assert np.isnan(slowest_sibling(own, [sibling])).all()


# --- what is priced ----------------------------------------------------------------------------------


def test_a_projection_far_slower_than_in_every_other_framework_is_priced_as_there(tmp_path):
    sound = gemm_table(0.5)
    slow = (sound["n"] == 1024) & (sound["m"] <= 64)
    write(tmp_path, "gemm", "gemm", changed(sound, slow, 6))
    source = SiliconSource(CHIP, "vllm", tmp_path)
    rows, gemm = np.array([1, 30, 64, 500, 1024, 8192]), Gemm("x", 1024, 4096, "bf16")
    assert not np.isnan(source.rows(gemm, rows).ns).any()  # nobody to compare with
    write(tmp_path, "gemm", "gemm", gemm_table(0.4), framework="sglang")
    write(tmp_path, "gemm", "gemm", gemm_table(0.6), framework="trtllm")
    source = SiliconSource(CHIP, "vllm", tmp_path)
    assert np.isnan(source.rows(gemm, rows).ns).tolist() == [True, True, True, True, False, False]
    ours = next(path for path in source.files if "vllm" in path.parts)
    assert source.set_aside == {ours: {"rows": 36, "slower_than_siblings": 6}}
    found = source_chain(CHIP, "vllm", choice=TableChoice(tmp_path)).rows(gemm, rows)
    assert gemm_bound(CHIP, gemm, rows).ns / found.ns == pytest.approx([0.4, 0.4, 0.4, 0.3411, 0.5, 0.5], rel=1e-3)
    assert found.origin.tolist() == [Origin.BORROWED] * 4 + [Origin.MEASURED] * 2
    # Between sites one that is unknown leaves the shape unknown.
    between = source.rows(Gemm("x", 2000, 4096, "bf16"), rows)
    assert np.isnan(between.ns).tolist() == [True, True, True, True, False, False]


def test_a_projection_out_of_the_cache_is_left_to_the_next_source(tmp_path):
    sound = gemm_table(0.5)
    write(tmp_path, "gemm", "gemm", changed(sound, (sound["n"] == 1024) & (sound["m"] == 64), 0.3))
    source = SiliconSource(CHIP, "vllm", tmp_path)
    found = source.rows(Gemm("x", 1024, 4096, "bf16"), np.array([1, 2, 64, 65, 1024]))
    assert np.isnan(found.ns).tolist() == [False, True, True, True, False]
    chain = source_chain(CHIP, "vllm", choice=TableChoice(tmp_path))
    origins = chain.rows(Gemm("x", 1024, 4096, "bf16"), np.array([1, 2, 64, 65, 1024])).origin
    assert origins.tolist() == [Origin.MEASURED] + [Origin.ROOFLINE] * 3 + [Origin.MEASURED]


def test_attention_faster_than_light_is_left_open_and_an_fp8_cache_may_multiply_in_8_bits(tmp_path):
    operator = attention("context_attention")

    def fast(batch, tokens):
        return attention_bound(CHIP, operator, batch, tokens).ns / np.where(tokens == 4096, 1.3, 0.5)

    table = attention_table("context_attention", (1, 2), (64, 1024, 4096, 8192), fast)
    write(tmp_path, "attention", "context_attention", table)
    source = SiliconSource(CHIP, "vllm", tmp_path)
    point = np.array([1, 1, 1, 2]), np.array([1024, 2000, 4096, 8192])
    assert np.isnan(source.attention(operator, *point).ns).tolist() == [False, True, True, False]
    path = next(iter(source.set_aside))
    assert source.set_aside[path] == {"rows": 8, "faster_than_light": 2}


@needs_tables
@pytest.mark.parametrize("chip", ["h100_sxm", "h200_sxm", "b200_sxm"])
def test_the_block_fp8_projections_that_hold_launch_time_are_found_and_priced_as_elsewhere(chip):
    rows, gemm = np.array([1, 8, 16, 64, 128]), Gemm("x", 5120, 5120, "fp8_block")
    source = SiliconSource(load_chip(chip), "vllm")
    assert np.isnan(source.rows(gemm, rows).ns).all()
    found = source_chain(load_chip(chip), "vllm").rows(gemm, rows)
    assert set(found.origin.tolist()) == {Origin.BORROWED}
    assert (found.ns < 25_000).all()


@needs_tables
def test_plain_projections_of_the_same_tables_stay():
    source = SiliconSource(load_chip("h200_sxm"), "vllm")
    found = source.rows(Gemm("x", 5120, 5120, "bf16"), np.arange(1, 8193))
    assert found.complete
    counts = next(counts for path, counts in source.set_aside.items() if path.name == "gemm_perf.parquet")
    assert sum(counts.values()) - counts["rows"] < counts["rows"] / 100
