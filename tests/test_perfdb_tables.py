"""A database of our own making: which file is read, which rows count, and what lies between and beyond them."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hardware.catalogue import load_chip
from perfdb.estimate import Origin
from perfdb.operators import AllReduce, Attention, Elementwise, Gemm
from perfdb.silicon import SiliconSource
from perfdb.speed_of_light import attention_bound, gemm_bound
from perfdb.tables import find_table, pick_version, read_table, sha256

CHIP = load_chip("h200_sxm")
SIZES = (256, 1024, 4096)
ROWS = (1, 64, 1024, 8192)


def write(root, family, table, columns, *, framework="vllm", version="1.0.0", system="h200_sxm"):
    folder = root / "data" / system / family / framework / version
    folder.mkdir(parents=True)
    path = folder / f"{table}_perf.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def grid(*axes):
    return [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]


def gemm_table(utilisation=0.5):
    n, k, m = grid(SIZES, SIZES, ROWS)
    bound = [
        gemm_bound(CHIP, Gemm("x", *site, "bf16"), np.array([rows])).ns[0] for *site, rows in zip(n, k, m, strict=True)
    ]
    return {"gemm_dtype": ["bfloat16"] * len(n), "m": m, "n": n, "k": k, "latency": np.array(bound) / utilisation / 1e6}


def attention_table(name, batches, lengths, ns_of, *, heads=8, kv_heads=2, window=0):
    batch, length = grid(batches, lengths)
    same = np.ones_like(batch)
    return {
        "batch_size": batch,
        "isl" if name == "context_attention" else "step": length,
        "num_heads": heads * same,
        "num_key_value_heads": kv_heads * same,
        "head_dim": 128 * same,
        "kv_cache_dtype": ["bfloat16"] * len(batch),
        "window_size": window * same,
        "latency": ns_of(batch, length) / 1e6,
    }


def attention(name, heads=8, kv_heads=2, window=0):
    return Attention(name, heads, kv_heads, 128, "bf16", window, 1)


# --- versions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "wanted", "chosen"),
    [
        ([], "1.0.0", None),
        (["0.9.0"], None, "0.9.0"),
        (["0.9.0", "0.10.0"], None, "0.10.0"),
        (["0.9.0", "0.10.0", "0.11.0"], "0.10.0", "0.10.0"),
        (["0.9.0", "0.11.0"], "0.10.5", "0.9.0"),
        (["0.11.0", "0.12.0"], "0.10.0", "0.11.0"),
        (["1.3.0rc9", "1.3.0rc20", "1.3.0rc23"], "1.3.0rc20", "1.3.0rc20"),
        (["0.5.6.post2", "0.5.9"], "0.5.8", "0.5.6.post2"),
    ],
)
def test_the_newest_version_not_newer_than_the_current_one_is_picked(available, wanted, chosen):
    assert pick_version(available, wanted) == chosen
    assert pick_version(available[::-1], wanted) == chosen


def test_the_current_version_of_a_chip_overrides_the_default(tmp_path):
    (tmp_path / "query_versions.yaml").write_text(
        "defaults: {vllm: {current: 2.0.0, previous: null}}\noverrides: {old_chip: {vllm: {current: 1.0.0}}}\n"
    )
    for system in ("h200_sxm", "old_chip"):
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            write(tmp_path, "gemm", "gemm", {"m": [1]}, version=version, system=system)
    assert find_table(tmp_path, "h200_sxm", "gemm", "vllm", "gemm").parent.name == "2.0.0"
    assert find_table(tmp_path, "old_chip", "gemm", "vllm", "gemm").parent.name == "1.0.0"
    assert find_table(tmp_path, "h200_sxm", "gemm", "sglang", "gemm") is None
    assert find_table(tmp_path, "h200_sxm", "gemm", "vllm", "moe") is None


def test_a_column_the_file_lacks_is_left_out_and_the_hash_is_of_the_file(tmp_path):
    path = write(tmp_path, "gemm", "gemm", {"m": [1, 2], "kind": ["a", "b"]})
    found = read_table(path, ("m", "kind", "absent"))
    assert set(found) == {"m", "kind"}
    assert found["kind"].tolist() == ["a", "b"]
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


# --- projections -------------------------------------------------------------------------------------


def test_a_table_of_constant_utilisation_prices_every_shape_at_it(tmp_path):
    path = write(tmp_path, "gemm", "gemm", gemm_table(0.5))
    source = SiliconSource(CHIP, "vllm", tmp_path)
    rows = np.array([*ROWS, 100_000])
    for n, k in ((256, 4096), (300, 1024), (4096, 700), (2000, 2000), (9000, 1024), (64, 64), (20_000, 9000)):
        gemm = Gemm("x", n, k, "bf16")
        assert gemm_bound(CHIP, gemm, rows).ns / source.rows(gemm, rows).ns == pytest.approx(0.5)
    assert source.files == [path]


@pytest.mark.parametrize(
    ("n", "k", "utilisation"),
    [(256, 1024, 0.2), (512, 1024, 0.3), (724, 1024, 0.35), (2048, 4096, 0.5), (512, 512, 0.3), (8192, 256, 0.6)],
)
def test_a_shape_between_sites_blends_their_utilisation_in_log_space(tmp_path, n, k, utilisation):
    table = gemm_table(1.0)
    write(tmp_path, "gemm", "gemm", table | {"latency": table["latency"] / (np.log2(table["n"]) / 10 - 0.6)})
    gemm, rows = Gemm("x", n, k, "bf16"), np.array([1, 1024])
    found = gemm_bound(CHIP, gemm, rows).ns / SiliconSource(CHIP, "vllm", tmp_path).rows(gemm, rows).ns
    assert found == pytest.approx(np.full(2, utilisation), rel=0.001)


@pytest.mark.parametrize(
    ("n", "k", "origins"),
    [
        (256, 4096, "MMIX"),
        (300, 4096, "IIIX"),
        (2000, 2000, "IIIX"),
        (9000, 1024, "XXXX"),
        (64, 1024, "XXXX"),
    ],
)
def test_a_projection_says_where_its_price_comes_from(tmp_path, n, k, origins):
    write(tmp_path, "gemm", "gemm", gemm_table())
    found = SiliconSource(CHIP, "vllm", tmp_path).rows(Gemm("x", n, k, "bf16"), np.array([1, 64, 65, 9000]))
    letters = {Origin.MEASURED: "M", Origin.INTERPOLATED: "I", Origin.EXTRAPOLATED: "X"}
    assert "".join(letters[origin] for origin in found.origin) == origins


def test_formats_and_operators_that_were_not_measured_have_no_price(tmp_path):
    write(tmp_path, "gemm", "gemm", gemm_table())
    source = SiliconSource(CHIP, "vllm", tmp_path)
    rows = np.array([1])
    assert source.rows(Gemm("x", 256, 256, "bf16"), rows) is not None
    assert source.rows(Gemm("x", 256, 256, "fp8"), rows) is None
    assert source.rows(Gemm("x", 256, 256, "mxfp4"), rows) is None
    assert source.rows(Elementwise("norm", 4096), rows) is None
    assert source.rows(AllReduce("all_reduce", 4096, 2), rows) is None


def test_of_two_measurements_of_one_point_the_faster_counts(tmp_path):
    columns = {"gemm_dtype": ["bfloat16"] * 3, "m": [8, 8, 9], "n": [64] * 3, "k": [64] * 3, "latency": [0.5, 0.2, 0.6]}
    write(tmp_path, "gemm", "gemm", columns)
    found = SiliconSource(CHIP, "vllm", tmp_path).rows(Gemm("x", 64, 64, "bf16"), np.array([8, 9]))
    assert found.ns.tolist() == [200_000, 600_000]


# --- all-reduce --------------------------------------------------------------------------------------


def test_all_reduces_are_read_by_element_count_and_eager_rows_are_ignored(tmp_path):
    columns = {
        "num_gpus": [2, 2, 2, 4],
        "message_size": [1000, 2000, 1000, 1000],
        "latency": [0.010, 0.020, 0.001, 0.5],
        "backend": ["vllm_graph", "vllm_graph", "vllm_eager", "vllm_graph"],
    }
    write(tmp_path, "comm", "custom_allreduce", columns)
    source = SiliconSource(CHIP, "vllm", tmp_path)
    found = source.rows(AllReduce("x", 100, 2), np.array([10, 15, 20, 40]))
    assert found.ns == pytest.approx([10_000, 15_000, 20_000, 40_000])
    assert found.origin.tolist() == [Origin.MEASURED, Origin.INTERPOLATED, Origin.MEASURED, Origin.EXTRAPOLATED]
    assert source.rows(AllReduce("x", 100, 8), np.array([10])) is None


def test_an_all_reduce_table_without_kinds_is_read_whole(tmp_path):
    columns = {"num_gpus": [2, 2], "message_size": [100, 200], "latency": [0.1, 0.3]}
    write(tmp_path, "comm", "custom_allreduce", columns, framework="trtllm")
    found = SiliconSource(CHIP, "trtllm", tmp_path).rows(AllReduce("x", 100, 2), np.array([1, 2]))
    assert found.ns == pytest.approx([100_000, 300_000])


# --- attention ---------------------------------------------------------------------------------------


def test_between_batches_and_lengths_generation_attention_is_bilinear(tmp_path):
    table = attention_table("generation_attention", (1, 4, 8), (1, 101, 1001), lambda b, s: 1000.0 * b + 7 * s * b)
    write(tmp_path, "attention", "generation_attention", table)
    batch, tokens = np.array([1, 2, 4, 6, 8]), np.array([101, 51, 500, 1, 1001])
    found = SiliconSource(CHIP, "vllm", tmp_path).attention(attention("generation_attention"), batch, tokens)
    assert found.ns == pytest.approx(1000 * batch + 7 * tokens * batch)
    kinds = [Origin.MEASURED, Origin.INTERPOLATED, Origin.INTERPOLATED, Origin.INTERPOLATED, Origin.MEASURED]
    assert found.origin.tolist() == kinds


def test_between_lengths_the_square_root_of_context_attention_is_a_line(tmp_path):
    table = attention_table("context_attention", (1, 2), (1, 1000, 2000), lambda b, s: b * (20.0 + 0.3 * s) ** 2)
    write(tmp_path, "attention", "context_attention", table)
    batch, tokens = np.array([1, 2, 1]), np.array([500, 1500, 1999])
    found = SiliconSource(CHIP, "vllm", tmp_path).attention(attention("context_attention"), batch, tokens)
    assert found.ns == pytest.approx(batch * (20 + 0.3 * tokens) ** 2)


@pytest.mark.parametrize(("start_ns", "slowness"), [(50_000.0, 1.25), (0.0, 2.0)])
def test_beyond_its_grid_generation_attention_grows_as_before(tmp_path, start_ns, slowness):
    operator = attention("generation_attention")

    def streaming(batch, tokens):
        return start_ns + slowness * attention_bound(CHIP, operator, batch, tokens).ns

    write(
        tmp_path,
        "attention",
        "generation_attention",
        attention_table("generation_attention", (1, 64), (1, 1023, 2047), streaming),
    )
    batch, tokens = np.array([1, 64, 64]), np.array([131_071, 4096, 131_071])
    found = SiliconSource(CHIP, "vllm", tmp_path).attention(operator, batch, tokens)
    assert found.ns == pytest.approx(streaming(batch, tokens), rel=1e-6)
    assert set(found.origin.tolist()) == {Origin.EXTRAPOLATED}


@pytest.mark.parametrize("growth", [1.001, 1.5, 90.0])
def test_beyond_its_grid_attention_is_never_faster_than_light_nor_slower_than_its_last_point(tmp_path, growth):
    operator, at = attention("generation_attention"), np.array([2047, 8191])
    lengths, ns = np.array([1023, 2047]), np.array([5e5, 5e5 * growth])
    table = attention_table("generation_attention", (1,), lengths, lambda *_: ns)
    write(tmp_path, "attention", "generation_attention", table)
    found = SiliconSource(CHIP, "vllm", tmp_path).attention(operator, np.ones(2, int), at).ns
    light = attention_bound(CHIP, operator, np.ones(2, int), at).ns
    assert light[1] - light[0] <= (found[1] - found[0]) * (1 + 1e-9)
    assert found[1] <= found[0] * light[1] / light[0] * (1 + 1e-9)


def test_past_the_end_of_its_own_curve_a_batch_is_as_well_utilised_as_smaller_ones(tmp_path):
    operator = attention("context_attention")

    def half(batch, tokens):
        return attention_bound(CHIP, operator, batch, tokens).ns / np.where(tokens > 1000, 0.5, 0.2)

    small = attention_table("context_attention", (1, 2), (100, 1000, 8000), half)
    large = attention_table("context_attention", (4,), (100, 1000), half)
    whole = {key: np.concatenate([small[key], large[key]]) for key in small}
    write(tmp_path, "attention", "context_attention", whole)
    source = SiliconSource(CHIP, "vllm", tmp_path)
    for batch, tokens, utilisation in ((4, 1000, 0.2), (4, 8000, 0.5), (2, 16_000, 0.5), (64, 8000, 0.5)):
        point = np.array([batch]), np.array([tokens])
        assert attention_bound(CHIP, operator, *point).ns / source.attention(operator, *point).ns == pytest.approx(
            utilisation
        )


def test_a_table_from_before_sliding_windows_is_full_attention(tmp_path):
    table = attention_table("generation_attention", (1, 2), (1, 100), lambda b, s: 1000.0 * b + s)
    del table["window_size"]
    write(tmp_path, "attention", "generation_attention", table)
    source = SiliconSource(CHIP, "vllm", tmp_path)
    point = np.array([2]), np.array([100])
    assert source.attention(attention("generation_attention"), *point).ns.tolist() == [2100.0]
    windowed = source.attention(attention("generation_attention", window=64), *point)
    assert windowed.origin.tolist() == [Origin.EXTRAPOLATED]
    assert windowed.ns[0] < 2100


def test_head_counts_that_were_not_measured_borrow_the_utilisation_of_the_nearest(tmp_path):
    near = attention_table(
        "generation_attention", (1, 64), (1, 4095), lambda b, s: 9000.0 * b + s * b, heads=32, kv_heads=4
    )
    far = attention_table("generation_attention", (1, 64), (1, 4095), lambda b, s: 1.0 * b + s, heads=4, kv_heads=4)
    other = attention_table(
        "generation_attention", (1, 64), (1, 4095), lambda b, s: 2.0 * b + s, heads=28, kv_heads=4, window=128
    )
    write(
        tmp_path,
        "attention",
        "generation_attention",
        {key: np.concatenate([near[key], far[key], other[key]]) for key in near},
    )
    source = SiliconSource(CHIP, "vllm", tmp_path)
    wanted, measured = (attention("generation_attention", heads, 4) for heads in (28, 32))
    point = np.array([64, 7, 1]), np.array([4095, 2000, 9000])
    found, kin = source.attention(wanted, *point), source.attention(measured, *point)
    ratio = attention_bound(CHIP, wanted, *point).ns / attention_bound(CHIP, measured, *point).ns
    assert found.ns == pytest.approx(kin.ns * ratio)
    assert set(found.origin.tolist()) == {Origin.EXTRAPOLATED}
    assert kin.origin[0] == Origin.MEASURED
    assert source.attention(Attention("generation_attention", 32, 4, 96, "bf16", 0, 1), *point) is None


@pytest.mark.parametrize(("name", "wanted", "sequences"), [
    ("generation_attention", (32, 32), 8),
    ("context_attention", (64, 4), 2),
    ("generation_attention", (32, 1), 1),
])  # fmt: skip
def test_other_head_counts_cost_what_as_many_heads_of_more_or_fewer_sequences_do(tmp_path, name, wanted, sequences):
    table = attention_table(name, (1, 64), (1, 100), lambda b, s: 900.0 * b + s, heads=32, kv_heads=4)
    write(tmp_path, "attention", name, table)
    source = SiliconSource(CHIP, "vllm", tmp_path)
    one, alike, tokens = np.array([1]), np.array([sequences]), np.array([100])
    own, kin = attention(name, *wanted), attention(name, 32, 4)
    ratio = attention_bound(CHIP, own, one, tokens).ns / attention_bound(CHIP, kin, alike, tokens).ns
    assert source.attention(own, one, tokens).ns == pytest.approx(source.attention(kin, alike, tokens).ns * ratio)
