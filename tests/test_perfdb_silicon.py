"""The installed kernel tables: what was measured comes back verbatim, what was not is close."""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np
import pyarrow.parquet as pq
import pytest
from pricing import needs_tables

from hardware.catalogue import load_chip
from perfdb.estimate import Origin
from perfdb.interpolate import Curve
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.operators import AllReduce, Attention, Gemm, step_operators
from perfdb.points import Points
from perfdb.silicon import SiliconSource, over_batches
from perfdb.sites import Sites
from perfdb.speed_of_light import attention_bound, gemm_bound
from perfdb.tables import find_table, installed_root

pytestmark = needs_tables

CASES = [("h200_sxm", "vllm"), ("a100_80_sxm", "vllm"), ("h100_sxm", "trtllm"), ("b200_sxm", "sglang")]
FOLDERS = {"a100_80_sxm": "a100_sxm"}
LENGTH = {"context_attention": "isl", "generation_attention": "step"}
HEADS = [(32, 8), (8, 1), (16, 4), (64, 8), (4, 4)]


@cache
def raw(chip, framework, family, table):
    """Read a table with nothing of ours but its path."""
    path = find_table(installed_root(), FOLDERS.get(chip, chip), family, framework, table)
    read = pq.read_table(path)
    return {name: np.asarray(read.column(name).to_numpy(zero_copy_only=False)) for name in read.column_names}


@cache
def source_of(chip, framework):
    return SiliconSource(load_chip(chip), framework)


def rows_like(table, row, names):
    same = np.ones(len(table["latency"]), bool)
    for name in names:
        same &= table[name] == table[name][row]
    return 1e6 * table["latency"][same].min()


def sample(keep, count, name):
    rng = np.random.default_rng([0, zlib.crc32(name.encode())])
    return rng.choice(np.flatnonzero(keep), count, replace=False)


def without(site, table, *, name):
    """Return the sites that share not even one side with ``site``."""
    keep = (table["gemm_dtype"] == name) & (table["n"] != site[0]) & (table["k"] != site[1])
    points = Points.of((table["n"][keep], table["k"][keep]), table["m"][keep], 1e6 * table["latency"][keep])
    return Sites(points, np.zeros(len(points.ns), np.uint8))


def attention_of(name, heads, kv_heads, **changes):
    return Attention(
        **{
            "name": name,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": 128,
            "kv_cache": "bf16",
            "window": 0,
            "count": 1,
        }
        | changes
    )


# --- measured points ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("chip", "framework"), CASES)
def test_a_measured_projection_is_returned_verbatim(chip, framework):
    table = raw(chip, framework, "gemm", "gemm")
    for row in sample(table["gemm_dtype"] == "bfloat16", 25, chip):
        gemm = Gemm("x", int(table["n"][row]), int(table["k"][row]), "bf16")
        found = source_of(chip, framework).rows(gemm, table["m"][row : row + 1])
        site = (table["gemm_dtype"] == "bfloat16") & (table["n"] == gemm.n) & (table["k"] == gemm.k)
        if table["latency"][row] > 1.5 * table["latency"][site & (table["m"] > table["m"][row])].min(initial=np.inf):
            assert found.ns[0] < 1e6 * table["latency"][row]
            continue
        assert found.ns[0] == pytest.approx(rows_like(table, row, ("gemm_dtype", "m", "n", "k")), rel=1e-12)
        assert found.origin[0] == Origin.MEASURED


@pytest.mark.parametrize("name", LENGTH)
@pytest.mark.parametrize(("chip", "framework"), CASES)
def test_measured_attention_is_returned_verbatim(chip, framework, name):
    table = raw(chip, framework, "attention", name)
    window = table.get("window_size", np.zeros_like(table["head_dim"]))
    keep = (table["kv_cache_dtype"] == "bfloat16") & (window == 0)
    shape = ["batch_size", LENGTH[name], "num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype"]
    shape += ["window_size"] if "window_size" in table else []
    for row in sample(keep, 25, chip + name):
        heads, kv_heads, head_dim = (int(table[key][row]) for key in shape[2:5])
        operator = attention_of(name, heads, kv_heads, head_dim=head_dim)
        point = table["batch_size"][row : row + 1], table[LENGTH[name]][row : row + 1]
        found = source_of(chip, framework).attention(operator, *point)
        assert found.ns[0] == pytest.approx(rows_like(table, row, shape), rel=1e-12)
        assert found.origin[0] == Origin.MEASURED


@pytest.mark.parametrize("chips", [2, 4, 8])
@pytest.mark.parametrize(("chip", "framework"), CASES)
def test_a_measured_all_reduce_is_returned_verbatim(chip, framework, chips):
    table = raw(chip, framework, "comm", "custom_allreduce")
    kind = table.get("backend", np.full(len(table["latency"]), "")).astype(str)
    keep = (table["num_gpus"] == chips) & ~np.char.endswith(kind, "eager") & (table["message_size"] % 4096 == 0)
    rows = np.flatnonzero(keep)
    assert len(rows) > 10
    found = source_of(chip, framework).rows(AllReduce("x", 4096, chips), table["message_size"][rows] // 4096)
    assert found.ns == pytest.approx(1e6 * table["latency"][rows])
    assert set(found.origin.tolist()) == {Origin.MEASURED}


def test_an_fp8_cache_has_rows_of_its_own():
    table = raw("h200_sxm", "vllm", "attention", "generation_attention")
    source = source_of("h200_sxm", "vllm")
    operator = step_operators(load_model("Llama-3.1-8B", kv_cache="fp8"), Layout(1)).generation[0]
    keep = (table["kv_cache_dtype"] == "fp8") & (table["num_heads"] == 32) & (table["num_key_value_heads"] == 8)
    keep &= (table["head_dim"] == 128) & (table["window_size"] == 0)
    found = source.attention(operator, table["batch_size"][keep], table["step"][keep])
    assert found.ns == pytest.approx(1e6 * table["latency"][keep])
    # Long contexts stream half the bytes.
    point = np.array([64]), np.array([8191])
    wide = source.attention(attention_of("generation_attention", 32, 8), *point).ns
    assert 0.45 < source.attention(operator, *point).ns[0] / wide[0] < 0.75


def test_an_older_version_stands_in_where_the_current_one_lacks_a_table():
    assert find_table(installed_root(), "l40s", "gemm", "vllm", "gemm").parent.name == "0.24.0"
    assert find_table(installed_root(), "l40s", "comm", "vllm", "custom_allreduce").parent.name == "0.22.0"


# --- between them ------------------------------------------------------------------------------------


def test_between_measured_rows_a_projection_lies_between_its_neighbours():
    table = raw("h200_sxm", "vllm", "gemm", "gemm")
    gemm = Gemm("x", 5120, 8192, "bf16")
    site = (table["gemm_dtype"] == "bfloat16") & (table["n"] == gemm.n) & (table["k"] == gemm.k)
    rows, ns = table["m"][site], 1e6 * table["latency"][site]
    wanted = np.array([20, 40, 100, 300, 900, 5000, 12_000, 30_000])
    found = source_of("h200_sxm", "vllm").rows(gemm, wanted)
    for at, price in zip(wanted, found.ns, strict=True):
        around = ns[rows == rows[rows < at].max()][0], ns[rows == rows[rows > at].min()][0]
        assert min(around) <= price <= max(around)
    assert set(found.origin.tolist()) == {Origin.INTERPOLATED}


@pytest.mark.parametrize("name", LENGTH)
def test_between_measured_points_attention_lies_between_its_corners(name):
    source, operator = source_of("h200_sxm", "vllm"), attention_of(name, 32, 8)
    for batch, tokens, batches, lengths in (
        (6, 700, (4, 8), (511, 1023) if name == "generation_attention" else (512, 1024)),
        (24, 100, (16, 32), (63, 127) if name == "generation_attention" else (64, 128)),
    ):
        found = source.attention(operator, np.array([batch]), np.array([tokens]))
        corners = source.attention(operator, *(axis.ravel() for axis in np.meshgrid(batches, lengths)))
        assert corners.ns.min() <= found.ns[0] <= corners.ns.max()
        assert set(corners.origin.tolist()) == {Origin.MEASURED}
        assert found.origin[0] == Origin.INTERPOLATED


# --- how close ---------------------------------------------------------------------------------------


def test_projections_never_measured_are_priced_within_eight_percent_in_the_median():
    table, chip = raw("h200_sxm", "vllm", "gemm", "gemm"), load_chip("h200_sxm")
    measured = table["gemm_dtype"] == "bfloat16"
    inner = np.unique(table["n"][measured])[1:-1]
    rng = np.random.default_rng(5)
    errors = []
    for n, k in zip(rng.choice(inner, 60), rng.choice(inner, 60), strict=True):
        at = np.flatnonzero(measured & (table["n"] == n) & (table["k"] == k))[::9]
        found = without((n, k), table, name="bfloat16").estimate(
            chip, Gemm("x", int(n), int(k), "bf16"), table["m"][at]
        )
        assert set(found.origin.tolist()) == {Origin.INTERPOLATED}
        errors.extend(np.abs(found.ns / (1e6 * table["latency"][at]) - 1))
    assert len(errors) > 300
    assert np.median(errors) < 0.08


@pytest.mark.parametrize(("name", "worst"), [("generation_attention", 0.05), ("context_attention", 0.05)])
def test_attention_left_out_of_its_grid_is_priced_within_five_percent_in_the_median(name, worst):
    chip, source, errors = load_chip("h200_sxm"), source_of("h200_sxm", "vllm"), []
    for heads, kv_heads in HEADS:
        operator = attention_of(name, heads, kv_heads)
        _, curves = source.attention_curves(operator)
        for batch, curve in list(curves.items())[1:-1]:
            for out in range(1, len(curve.at) - 1, 2):
                fewer = Curve(np.delete(curve.at, out), np.delete(curve.ns, out), curve.quadratic, curve.streams)
                point = np.array([batch]), curve.at[out : out + 1].astype(np.int64)
                found = over_batches(chip, operator, curves | {batch: fewer}, *point)
                errors.append(abs(found.ns[0] / curve.ns[out] - 1))
    assert len(errors) > 200
    assert np.median(errors) < worst


@pytest.mark.parametrize(("name", "worst"), [("generation_attention", 0.05), ("context_attention", 0.08)])
def test_attention_beyond_a_grid_cut_to_an_eighth_is_close_in_the_median(name, worst):
    chip, source, errors = load_chip("h200_sxm"), source_of("h200_sxm", "vllm"), []
    for heads, kv_heads in HEADS:
        operator = attention_of(name, heads, kv_heads)
        _, curves = source.attention_curves(operator)
        most = max(batch * curve.at[-1] for batch, curve in curves.items()) / 7.9
        cut = {
            b: Curve(c.at[keep], c.ns[keep], c.quadratic, c.streams)
            for b, c in curves.items()
            if (keep := b * c.at <= most).sum() > 1
        }
        for batch in cut:
            beyond = curves[batch].at > cut[batch].at[-1]
            at = curves[batch].at[beyond].astype(np.int64)
            found = over_batches(chip, operator, cut, np.full(len(at), batch), at)
            errors.extend(np.abs(found.ns / curves[batch].ns[beyond] - 1))
    assert len(errors) > 100
    assert np.median(errors) < worst


# --- beyond them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_beyond_the_rows_measured_a_projection_keeps_its_utilisation(weights):
    chip, gemm = load_chip("h200_sxm"), Gemm("x", 5120, 8192, weights)
    at = np.array([32_768, 40_000, 100_000])
    found = source_of("h200_sxm", "vllm").rows(gemm, at)
    utilisation = gemm_bound(chip, gemm, at).ns / found.ns
    assert utilisation == pytest.approx(np.full(3, utilisation[0]))
    assert found.origin.tolist() == [Origin.MEASURED, Origin.EXTRAPOLATED, Origin.EXTRAPOLATED]


@pytest.mark.parametrize("name", LENGTH)
def test_beyond_the_batches_measured_attention_keeps_its_utilisation(name):
    chip, operator = load_chip("h200_sxm"), attention_of(name, 32, 8)
    largest = int(raw("h200_sxm", "vllm", "attention", name)["batch_size"].max())
    batch, tokens = largest * np.array([1, 2, 10]), np.full(3, 31)
    found = source_of("h200_sxm", "vllm").attention(operator, batch, tokens)
    utilisation = attention_bound(chip, operator, batch, tokens).ns / found.ns
    assert utilisation == pytest.approx(np.full(3, utilisation[0]))
    assert found.origin.tolist()[1:] == [Origin.EXTRAPOLATED] * 2


def test_beyond_the_prompts_measured_context_attention_keeps_its_utilisation():
    chip, operator = load_chip("h200_sxm"), attention_of("context_attention", 32, 8)
    batch, tokens = np.ones(3, int), np.array([16_384, 40_000, 131_072])
    found = source_of("h200_sxm", "vllm").attention(operator, batch, tokens)
    utilisation = attention_bound(chip, operator, batch, tokens).ns / found.ns
    assert utilisation == pytest.approx(np.full(3, utilisation[0]))
    assert found.origin.tolist() == [Origin.MEASURED, Origin.EXTRAPOLATED, Origin.EXTRAPOLATED]


@pytest.mark.parametrize(("batch", "tokens"), [(256, 4096), (64, 131_071), (2048, 8000)])
def test_beyond_the_contexts_measured_generation_attention_streams_near_the_speed_of_light(batch, tokens):
    chip, operator = load_chip("h200_sxm"), attention_of("generation_attention", 32, 8)
    point = np.array([batch]), np.array([tokens])
    found = source_of("h200_sxm", "vllm").attention(operator, *point)
    assert 0.8 < attention_bound(chip, operator, *point).ns[0] / found.ns[0] <= 1
    assert found.origin.tolist() == [Origin.EXTRAPOLATED]


@pytest.mark.parametrize("name", LENGTH)
def test_head_counts_never_measured_borrow_from_their_nearest_kin(name):
    chip, source = load_chip("h200_sxm"), source_of("h200_sxm", "vllm")
    step = step_operators(load_model("Qwen2.5-7B"), Layout(1))
    (operator,) = step.context if name == "context_attention" else step.generation
    kin = attention_of(name, 32, 4)
    assert (operator.heads, operator.kv_heads) == (28, 4)
    sequences, tokens = np.array([1, 8, 64]), np.array([1023, 511, 255])
    # As many query heads over prompts, as many KV heads over the cache.
    alike = np.array([1, 7, 56]) if name == "context_attention" else sequences
    found, near = source.attention(operator, sequences, tokens), source.attention(kin, alike, tokens)
    ratio = attention_bound(chip, operator, sequences, tokens).ns / attention_bound(chip, kin, alike, tokens).ns
    assert found.ns == pytest.approx(near.ns * ratio)
    assert set(found.origin.tolist()) == {Origin.EXTRAPOLATED}


@pytest.mark.parametrize(("framework", "worst"), [("sglang", 0.07), ("trtllm", 0.15)])
@pytest.mark.parametrize("heads", [16, 32, 64])
def test_a_cache_of_all_heads_is_priced_from_grouped_ones_over_more_sequences(framework, worst, heads):
    source, grouped = source_of("h200_sxm", framework), SiliconSource(load_chip("h200_sxm"), framework)
    own, kin = (attention_of("generation_attention", heads, kv_heads) for kv_heads in (heads, 8))
    sequences, tokens = (one.ravel() for one in np.meshgrid([1, 4, 16, 64], [255, 1023, 4095]))
    measured = source.attention(own, sequences, tokens).ns
    grouped._curves[own] = grouped.attention_curves(kin)
    off = np.abs(grouped.attention(own, sequences, tokens).ns / measured - 1)
    assert np.median(off) < worst


def test_a_head_size_never_measured_is_left_to_the_next_source():
    step = step_operators(load_model("Phi-2"), Layout(1))
    assert step.generation[0].head_dim == 80
    assert source_of("h200_sxm", "vllm").attention(step.generation[0], np.array([1]), np.array([100])) is None


def test_the_tables_read_are_named_once_each():
    source = SiliconSource(load_chip("h200_sxm"), "vllm")
    step = step_operators(load_model("Llama-3.1-8B"), Layout(2))
    for _ in range(2):
        for operator in (*step.per_token, *step.per_sample):
            source.rows(operator, np.array([1, 2]))
        source.attention(step.generation[0], np.array([1]), np.array([9]))
    assert sorted("/".join(path.parts[-3:]) for path in source.files) == [
        # Projections are screened beside those of the other frameworks.
        "sglang/0.5.14/gemm_perf.parquet",
        "trtllm/1.3.0rc20/gemm_perf.parquet",
        "vllm/0.24.0/custom_allreduce_perf.parquet",
        "vllm/0.24.0/gemm_perf.parquet",
        "vllm/0.24.0/generation_attention_perf.parquet",
    ]
