"""Encoders compute what was counted for them, and a run of one costs what its operators do."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pricing import needs_tables

from hardware.catalogue import load_chip
from perfdb.audit import audit_table, table_files
from perfdb.calibrated import KernelFactors, calibrated_chain
from perfdb.compile import HostTime
from perfdb.encoder_operators import EncoderAttention, EncoderOperators, encoder_operators
from perfdb.encoder_prices import EncoderWork, compile_encoder
from perfdb.estimate import Origin
from perfdb.load_model import load_model, presets
from perfdb.media_tokens import Seen, seen, seen_of_tokens
from perfdb.row_operators import AllReduce, Gemm
from perfdb.screening import Verdict, screened
from perfdb.sources import source_chain
from perfdb.speed_of_light import attention_bound
from perfdb.tables import find_table, installed_root, read_points

#: TFLOP of one image: twice the weights times the rows, and four times the width for each pair of patches.
IMAGES = {
    (448, 448): (1.49, 1.35, 0.79, 1.33),
    (802, 652): (4.59, 3.60, 2.31, 3.56),
    (1280, 720): (9.89, 6.66, 4.73, 6.64),
    (1920, 1080): (32.8, 16.3, 15.7, 16.5),
    (3840, 2160): (346, 91, 162, 97),
    (4032, 3024): (714, 160, 322, 174),
}
GRIDS = ("Qwen2-VL-7B", "Qwen2.5-VL-7B", "Qwen3-VL-8B", "openPangu-VL-7B")
#: TFLOP of one tile, slice or clip, without what embeds patches and what projects them.
TOWERS = {
    "InternVL3-8B": 0.72,
    "InternVL3-78B": 11.9,
    "LLaVA-1.5-7B": 0.38,
    "MiniCPM-V-2.6": 0.97,
    "Qwen2-Audio-7B": 2.26,
}
NO_HOST = HostTime()
ENCODERS = [name for name in presets() if load_model(name).encoder]
#: Milliseconds of one layer over one sequence of 4096 patches, 16 heads of 80: rows of the tables of vLLM's kernels.
MEASURED = {"h100_sxm": 0.197, "h200_sxm": 0.183, "b200_sxm": 0.126, "l40s": 0.568, "rtx_pro_6000_server": 0.319}


def spec(model):
    return load_model(model).encoder


def image(model, width, height):
    return seen(spec(model), "image", width=width, height=height)


def something(model):
    encoder = spec(model)
    sizes = {"width": 1280, "height": 720} if "image" in encoder.kinds else {"seconds": 20.0}
    return seen(encoder, encoder.kinds[0], **sizes)


@cache
def costs(model, *, chip="h200_sxm", tensor=1, ranks=1, sources=("roofline",), host=NO_HOST):
    operators = encoder_operators(spec(model), tensor, ranks)
    return compile_encoder(operators, source_chain(load_chip(chip), "vllm", sources), host)


def flops(operators, work, only=""):
    rows = ((operators.per_patch, work.patches), (operators.per_token, work.tokens))
    found = sum(
        2 * one.n * one.k * one.count * count
        for kind, count in rows
        for one in kind
        if isinstance(one, Gemm) and one.name.startswith(only)
    )
    for kernel, pairs in ((operators.full, work.pairs), (operators.windowed, work.window_pairs)):
        found += kernel.count * kernel.pair_flops * pairs if kernel else 0
    return found


@pytest.mark.parametrize("size", IMAGES)
@pytest.mark.parametrize("model", GRIDS)
def test_an_image_takes_the_operations_counted_for_it(model, size):
    found = flops(encoder_operators(spec(model)), EncoderWork.of([image(model, *size)]))
    assert found / 1e12 == pytest.approx(IMAGES[size][GRIDS.index(model)], rel=0.01)


@pytest.mark.parametrize("model", TOWERS)
def test_a_tile_slice_or_clip_takes_the_operations_counted_for_it(model):
    encoder = spec(model)
    one = seen(encoder, encoder.kinds[0], width=448, height=448, seconds=30.0)
    assert flops(encoder_operators(encoder), EncoderWork.of([one]), "encoder_") / 1e12 == pytest.approx(
        TOWERS[model], rel=0.01
    )


@pytest.mark.parametrize("model", ENCODERS)
def test_the_operators_of_an_encoder_multiply_with_every_weight(model):
    encoder, operators = spec(model), encoder_operators(spec(model))
    gemms = [one for one in (*operators.per_patch, *operators.per_token) if isinstance(one, Gemm)]
    layers = sum(group.count * n for group in encoder.stack for _, n in group.matrices(encoder.hidden))
    around = sum(one.count * one.inputs * one.outputs for one in encoder.around)
    assert sum(one.count * one.n * one.k for one in gemms) == layers + around
    assert operators.full.count + (operators.windowed.count if operators.windowed else 0) == encoder.layers


@pytest.mark.parametrize("model", ["Qwen2.5-VL-72B", "Qwen3-VL-8B", "LLaVA-1.5-7B"])
@pytest.mark.parametrize("tensor", [2, 4, 8])
def test_chips_that_share_layers_do_their_part_and_add_up(model, tensor):
    whole, part = encoder_operators(spec(model)), encoder_operators(spec(model), tensor)
    work = EncoderWork.of([image(model, 1280, 720)])
    kept = flops(whole, work, "patch_embedding") - flops(whole, work, "no projection")
    assert tensor * (flops(part, work) - kept) == pytest.approx(flops(whole, work) - kept)
    sums = [one for one in (*part.per_patch, *part.per_token) if isinstance(one, AllReduce)]
    assert sum(one.count for one in sums if one.name == "encoder_all_reduce") == 2 * spec(model).layers
    assert not [one for one in (*whole.per_patch, *whole.per_token) if isinstance(one, AllReduce)]


def test_what_does_not_divide_is_told():
    assert spec("Qwen2.5-VL-7B").indivisible(8) == (3420, "columns of the MLP of the encoder")
    assert spec("InternVL3-78B").indivisible(2) == (25, "attention heads of the encoder")
    assert spec("Qwen2.5-VL-72B").indivisible(8) is None


@pytest.mark.parametrize("model", ENCODERS)
def test_a_run_costs_what_its_operators_do(model):
    chain = source_chain(load_chip("h200_sxm"), "vllm", ("roofline",))
    operators, item = encoder_operators(spec(model)), something(model)
    rows = ((operators.per_patch, item.patches), (operators.per_token, item.tokens))
    expected = sum(one.count * chain.rows(one, np.array([count])).ns[0] for kind, count in rows for one in kind)
    for kernel, segments in ((operators.full, item.sequences), (operators.windowed, item.windows)):
        for length, times in segments if kernel else ():
            expected += kernel.count * chain.attention(kernel, np.array([times]), np.array([length])).ns[0]
    # Windows of several sizes run at once, and pay one start-up.
    assert costs(model).batch_ns([item]) == pytest.approx(expected, rel=0.05)


@needs_tables
@pytest.mark.parametrize("model", ["Qwen2.5-VL-7B", "Qwen3-VL-8B", "InternVL3-8B"])
def test_a_run_costs_what_measured_operators_do(model):
    chain = source_chain(load_chip("h200_sxm"), "vllm")
    operators, item = encoder_operators(spec(model)), image(model, 1280, 720)
    rows = ((operators.per_patch, item.patches), (operators.per_token, item.tokens))
    expected = sum(one.count * chain.rows(one, np.array([count])).ns[0] for kind, count in rows for one in kind)
    length, times = item.sequences[0]
    expected += operators.full.count * chain.attention(operators.full, np.array([times]), np.array([length])).ns[0]
    if operators.windowed:
        windows = np.array([times for _, times in item.windows]), np.array([length for length, _ in item.windows])
        expected += operators.windowed.count * chain.attention(operators.windowed, *windows).ns.max()
    found = costs(model, sources=("silicon", "borrowed", "roofline")).batch_ns([item])
    assert found == pytest.approx(expected, rel=0.03)


@needs_tables
@pytest.mark.parametrize("chip", MEASURED)
def test_attention_of_encoders_comes_from_its_tables(chip):
    kernel = EncoderAttention("encoder_attention", 16, 80, 1)
    chain = source_chain(load_chip(chip), "vllm")
    found = chain.attention(kernel, np.array([1, 1, 2]), np.array([4096, 5000, 70000]))
    assert found.ns[0] / 1e6 == pytest.approx(MEASURED[chip], abs=0.0006)
    assert list(found.origin) == [Origin.MEASURED, Origin.INTERPOLATED, Origin.EXTRAPOLATED]


@needs_tables
def test_heads_that_were_not_measured_take_the_nearest():
    chain = source_chain(load_chip("h100_sxm"), "vllm")
    at = np.array([4]), np.array([1024])
    near, own = EncoderAttention("encoder_attention", 24, 80, 1), EncoderAttention("encoder_attention", 25, 128, 1)
    found = chain.attention(own, *at)
    assert found.origin[0] == Origin.EXTRAPOLATED
    bounds = [attention_bound(load_chip("h100_sxm"), kernel, *at).ns[0] for kernel in (own, near)]
    assert found.ns[0] == pytest.approx(chain.attention(near, *at).ns[0] * bounds[0] / bounds[1], rel=0.05)


@needs_tables
@pytest.mark.parametrize(("chip", "origin"), [("h800_sxm", Origin.BORROWED), ("a100_80_sxm", Origin.ROOFLINE)])
def test_chips_without_tables_borrow_or_take_the_roofline(chip, origin):
    kernel = EncoderAttention("encoder_attention", 16, 80, 1)
    found = source_chain(load_chip(chip), "vllm").attention(kernel, np.array([1]), np.array([4096]))
    assert found.origin[0] == origin
    assert 0.1e6 < found.ns[0] < 1.5e6


def test_heads_padded_to_128_take_as_much_longer():
    plain, padded = (encoder_operators(spec("Qwen2.5-VL-7B"), head_multiple=multiple) for multiple in (1, 128))
    assert padded.full.pair_flops * 80 == plain.full.pair_flops * 128
    assert padded.full.row_bytes == plain.full.row_bytes


items = st.lists(st.integers(1, 12000).map(partial(seen_of_tokens, spec("Qwen2.5-VL-7B"))), min_size=1, max_size=8)


@given(items, st.integers(1, 12000))
@settings(max_examples=50, deadline=None)
def test_another_image_never_makes_a_run_shorter_nor_saves_more_than_a_start(batch, more):
    price = costs("Qwen2.5-VL-7B").batch_ns
    item = seen_of_tokens(spec("Qwen2.5-VL-7B"), more)
    together = price([*batch, item])
    assert together >= price(batch)
    assert together <= 1.02 * (price(batch) + price([item]))


@given(items)
@settings(max_examples=50, deadline=None)
def test_the_order_of_images_does_not_matter(batch):
    for ranks in (1, 2, 4):
        priced = costs("Qwen2.5-VL-7B", ranks=ranks)
        assert priced.batch_ns(batch) == priced.batch_ns(batch[::-1])


@given(items, st.sampled_from([2, 4, 8]))
@settings(max_examples=50, deadline=None)
def test_ranks_share_images_evenly_but_never_one_image(batch, ranks):
    priced = costs("Qwen2.5-VL-7B", ranks=ranks)
    slowest, whole = priced.slowest(batch), EncoderWork.of(batch)
    alone = [EncoderWork.of([item]) for item in batch]
    assert max(map(priced.work_ns, alone)) <= priced.work_ns(slowest) <= priced.work_ns(whole)
    assert slowest.patches <= whole.patches / ranks + max(one.patches for one in alone)


def test_images_side_by_side_take_as_long_as_one():
    one, eight = image("Qwen2.5-VL-72B", 1920, 1080), [image("Qwen2.5-VL-72B", 1920, 1080)] * 8
    alone = costs("Qwen2.5-VL-72B").batch_ns([one])
    assert costs("Qwen2.5-VL-72B", ranks=8).batch_ns(eight) == pytest.approx(alone, rel=0.1)
    # All chips over each image pay for sums after every layer.
    assert costs("Qwen2.5-VL-72B", tensor=8).batch_ns(eight) > 1.3 * alone


def test_nothing_costs_nothing():
    assert costs("Qwen3-VL-8B").batch_ns([]) == 0
    assert costs("Qwen3-VL-8B", ranks=4).batch_ns([]) == 0
    assert EncoderWork.of([]) == (0, 0, 0, 0, 0)


def test_a_run_takes_as_long_as_its_launches():
    host = HostTime(step_ns=1_000, sequence_ns=500, launch_ns=20_000)
    small, large = image("Qwen3-VL-8B", 256, 256), image("Qwen3-VL-8B", 3840, 2160)
    plain, launched = costs("Qwen3-VL-8B"), costs("Qwen3-VL-8B", host=host)
    kernels = encoder_operators(spec("Qwen3-VL-8B")).launches
    # Two norms and sums, four projections, rotation, activation and attention in each of 27 layers; two projections
    # in each of four mergers, and the embedding.
    assert kernels == 27 * 11 + 4 * 2 + 1
    assert launched.batch_ns([small] * 2) == 20_000 * kernels + 2 * 500 + 1_000
    assert launched.batch_ns([large]) == plain.batch_ns([large]) + 500 + 1_000


@needs_tables
@given(batch=items)
@settings(max_examples=20, deadline=None)
def test_the_time_of_runs_by_origin_is_all_of_it(batch):
    priced = costs("Qwen2.5-VL-7B", sources=("silicon", "borrowed", "roofline"), host=HostTime(5, 7, 1_000))
    runs = [EncoderWork.of([item]) for item in batch]
    table = {name: np.array([getattr(run, name) for run in runs]) for name in EncoderWork._fields}
    found = priced.time_by_origin(table)
    assert set(found) == {"measured", "interpolated", "extrapolated", "borrowed", "roofline", "host"}
    assert sum(found.values()) == pytest.approx(sum(priced.work_ns(run) for run in runs), abs=len(runs))
    assert found["interpolated"] > 0


def test_runs_larger_than_any_priced_count_as_extrapolated():
    priced = costs("Qwen2.5-VL-7B", sources=("silicon", "borrowed", "roofline"))
    run = EncoderWork.of([Seen(2**21, 2**19, ((2**21, 1),), ((64, 2**15),))])
    found = priced.time_by_origin({name: np.array([value]) for name, value in run._asdict().items()})
    assert found["measured"] == found["interpolated"] == 0
    assert sum(found.values()) == pytest.approx(priced.work_ns(run))


def test_calibrated_kernels_slow_encoders_as_they_slow_prompts():
    chain = source_chain(load_chip("h200_sxm"), "vllm", ("roofline",))
    factors = KernelFactors(per_token=1.5, context_attention=1.5, generation_attention=9.0)
    found = compile_encoder(encoder_operators(spec("Qwen3-VL-8B")), calibrated_chain(chain, factors))
    item = image("Qwen3-VL-8B", 1280, 720)
    assert found.batch_ns([item]) == pytest.approx(1.5 * costs("Qwen3-VL-8B").batch_ns([item]), rel=1e-6)


def test_features_of_inner_layers_go_along():
    # DeepStack: three more features of the same width for each token.
    assert spec("Qwen3-VL-8B").feature_bytes(880) == 880 * 4 * 4096 * 2
    assert spec("Qwen2.5-VL-7B").feature_bytes(1196) == costs("Qwen2.5-VL-7B").feature_bytes(1196) == 1196 * 3584 * 2


@needs_tables
@pytest.mark.parametrize("chip", ["h100_sxm", "b200_sxm", "l40s"])
def test_curves_of_attention_stay_close_to_the_rows_of_the_tables(chip):
    system, kernel = load_chip(chip), EncoderAttention("encoder_attention", 16, 80, 1)
    path = find_table(installed_root(), chip, "encoder_attention", "vllm", "encoder_attention")
    points = read_points(path, ("head_dim", "num_heads", "batch_size"), "isl")
    points = points.where((points.shape[:, :2] == (80, 16)).all(axis=1) & (points.at >= 64))
    batch = points.shape[:, 2]
    sound = screened(points, attention_bound(system, kernel, batch, points.at).ns) == Verdict.SOUND
    operators = EncoderOperators((), (), kernel, None, 0, 1, 1)
    priced = compile_encoder(operators, source_chain(system, "vllm"))
    runs = [
        EncoderWork(count, length * count, 0, length**2 * count, 0)
        for count, length in zip(batch[sound].tolist(), points.at[sound].tolist(), strict=True)
    ]
    off = np.abs(np.array([priced.kernels_ns(run) for run in runs]) / points.ns[sound] - 1)
    assert len(runs) > 150
    assert np.median(off) < 0.03
    assert np.quantile(off, 0.9) < 0.15
    # The roofline, of published efficiencies, against the same rows.
    roofline = compile_encoder(operators, source_chain(system, "vllm", ("roofline",)))
    ratio = np.array([roofline.kernels_ns(run) for run in runs]) / points.ns[sound]
    assert 0.85 < np.median(ratio) < 1.1


@needs_tables
@pytest.mark.parametrize(("chip", "impossible"), [("h100_sxm", False), ("l40s", True)])
def test_the_audit_holds_attention_of_encoders_against_the_speed_of_light(chip, impossible):
    # The cache of an L40S holds the operands of small kernels, so that some are timed faster than memory is.
    (file,) = table_files(installed_root(), chip, "vllm", "encoder_attention")
    found = audit_table(installed_root(), file)
    assert not np.isnan(found.bound_ns).any()
    assert bool(found.count(Verdict.FASTER_THAN_LIGHT)) is impossible
