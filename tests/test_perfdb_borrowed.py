"""What was not measured borrows the utilisation of its nearest kin, in a fixed order."""

from __future__ import annotations

import numpy as np
import pytest
from test_perfdb_tables import CHIP, attention, attention_table, gemm_table, write

from hardware.catalogue import load_chip
from perfdb.borrowed import BorrowedSource
from perfdb.estimate import Origin
from perfdb.operators import AllReduce, Elementwise, Gemm
from perfdb.speed_of_light import attention_bound, gemm_bound
from perfdb.tables import TableChoice

ROWS = np.array([1, 64, 8192])
NAMES = {"bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block"}


def tables(root, utilisation, *, weights="bf16", framework="vllm", chip="h200_sxm"):
    """Write a projection table of one utilisation."""
    table = gemm_table(1.0)
    sheet = load_chip(chip)
    shapes = zip(table["n"], table["k"], table["m"], strict=True)
    bound = [gemm_bound(sheet, Gemm("x", int(n), int(k), weights), np.array([m])).ns[0] for n, k, m in shapes]
    columns = {"gemm_dtype": [NAMES[weights]] * len(bound), "latency": np.array(bound) / utilisation / 1e6}
    write(root, "gemm", "gemm", table | columns, framework=framework, system=chip)


def borrowed(root, weights="bf16", chip=CHIP):
    """Return the utilisation that is borrowed, None where nothing is."""
    gemm = Gemm("x", 1024, 4096, weights)
    found = BorrowedSource(chip, "vllm", TableChoice(root)).rows(gemm, ROWS)
    if found is None:
        return None
    assert set(found.origin.tolist()) == {Origin.BORROWED}
    utilisation = gemm_bound(chip, gemm, ROWS).ns / found.ns
    assert utilisation == pytest.approx(np.full(3, utilisation[0]))
    return round(float(utilisation[0]), 6)


def test_the_nearest_kin_gives_another_framework_then_an_alike_format_then_a_near_chip(tmp_path):
    assert borrowed(tmp_path, "fp8") is None
    tables(tmp_path, 0.3, weights="fp8", chip="h100_sxm")
    assert borrowed(tmp_path, "fp8") == 0.3
    tables(tmp_path, 0.4, weights="fp8_block", framework="sglang")
    assert borrowed(tmp_path, "fp8") == 0.4
    tables(tmp_path, 0.5, weights="fp8", framework="trtllm")
    assert borrowed(tmp_path, "fp8") == 0.5


def test_formats_that_multiply_in_other_numbers_are_no_kin(tmp_path):
    tables(tmp_path, 0.3, weights="bf16", framework="sglang")
    assert borrowed(tmp_path, "fp8") is None
    assert borrowed(tmp_path, "bf16") == 0.3


@pytest.mark.parametrize(("chip", "kin"), [("h100_sxm", True), ("h20_96", False), ("b200_sxm", False)])
def test_a_chip_of_another_architecture_or_far_slower_is_no_kin(tmp_path, chip, kin):
    tables(tmp_path, 0.3, chip=chip)
    assert borrowed(tmp_path) == (0.3 if kin else None)


def test_of_two_chips_the_nearer_gives_though_its_own_framework_is_on_the_other(tmp_path):
    tables(tmp_path, 0.2, chip="h100_sxm", framework="sglang")
    assert borrowed(tmp_path, chip=load_chip("h800_sxm")) == 0.2
    tables(tmp_path, 0.6, chip="h200_sxm")
    assert borrowed(tmp_path, chip=load_chip("h800_sxm")) == 0.2


def test_attention_borrows_from_a_framework_then_from_a_chip(tmp_path):
    operator = attention("generation_attention")
    point = np.array([1, 4]), np.array([1, 1001])

    def utilised(share, chip):
        return lambda b, s: attention_bound(chip, operator, b, s).ns / share

    def utilisation():
        found = BorrowedSource(CHIP, "vllm", TableChoice(tmp_path)).attention(operator, *point)
        return attention_bound(CHIP, operator, *point).ns / found.ns

    axes = "generation_attention", (1, 4), (1, 1001)
    near = load_chip("h100_sxm")
    write(tmp_path, "attention", axes[0], attention_table(*axes, utilised(0.3, near)), system="h100_sxm")
    assert utilisation() == pytest.approx([0.3, 0.3])
    write(tmp_path, "attention", axes[0], attention_table(*axes, utilised(0.4, CHIP)), framework="sglang")
    assert utilisation() == pytest.approx([0.4, 0.4])


def test_an_all_reduce_of_a_group_never_measured_is_that_of_the_nearest_group(tmp_path):
    columns = {
        "num_gpus": [2, 2, 4, 4],
        "message_size": [1000, 2000] * 2,
        "latency": [0.010, 0.020, 0.030, 0.060],
    }
    write(tmp_path, "comm", "custom_allreduce", columns)
    source = BorrowedSource(CHIP, "vllm", TableChoice(tmp_path))
    found = source.rows(AllReduce("x", 100, 6), np.array([10, 20]))
    # Each chip sends 2 (n - 1) / n of the message: 5/6 for 3/4.
    assert found.ns == pytest.approx([30_000 * 10 / 9, 60_000 * 10 / 9])
    assert source.rows(AllReduce("x", 100, 3), np.array([10])).ns == pytest.approx([30_000 * 8 / 9])
    assert set(found.origin.tolist()) == {Origin.BORROWED}


def test_element_wise_kernels_are_left_to_the_roofline(tmp_path):
    assert BorrowedSource(CHIP, "vllm", TableChoice(tmp_path)).rows(Elementwise("norm", 8192), ROWS) is None
