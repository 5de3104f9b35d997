"""Measured modules, kernels and delta rules: divided, put together again, and never faster than light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pricing import needs_tables, prefill_ns

from hardware.catalogue import load_chip
from perfdb.compile import HostTime, StepLimits, compile_costs
from perfdb.delta_net import DeltaNet, DeltaRule
from perfdb.estimate import Origin
from perfdb.latent import Indexer, IndexScan, Latent, LatentAttention
from perfdb.latent_tables import LatentTables
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.measured import MeasuredSource
from perfdb.operators import Attention, Gemm, LatentProjections, StepOperators, step_operators
from perfdb.roofline import RooflineSource
from perfdb.sources import SourceChain, source_chain
from perfdb.speed_of_light import attention_bound, attention_light, gemm_bound, row_bound

H200 = load_chip("h200_sxm")
#: DeepSeek-V3 and the gated delta net of Qwen3.5-397B on one of eight chips.
LATENT = Latent(heads=16, q_rank=1536, kv_rank=512, nope=128, rope=64, value=128)
SPARSE = replace(LATENT, indexer=Indexer(64, 128, 2048))
NET = DeltaNet(key_heads=2, value_heads=8, key_dim=128, value_dim=128, kernel=4)
#: Time of one module, ns, by phase: what goes by rows, and what attention adds.
BY_ROW, START = 100.0, 50_000.0


def at(*values):
    return np.array(values, np.int64)


def attention(phase, latent=LATENT, kv_cache="bf16"):
    return LatentAttention(f"{phase}_latent_attention", latent, 7168, "bf16", kv_cache, 1)


def projections(latent=LATENT, weights="bf16", out=None):
    return LatentProjections("latent_projections", latent, 7168, weights, out or weights, "bf16")


def compiled(kernels, chain):
    operators = StepOperators((), (), kernels, ())
    return compile_costs(operators, chain, StepLimits(32_768, 8, 65_536), HostTime()).prices


# --- tables ------------------------------------------------------------------------------------------


def write(root, family, table, rows, framework="vllm"):
    folder = root / "data" / "h200_sxm" / family / framework / "1.0.0"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pq.write_table(pa.table(columns), folder / f"{table}_perf.parquet")


def module_rows(name, points, ns_of, *, heads=16, architecture="DeepseekV3ForCausalLM"):
    prompts = "context" in name
    return [
        {
            "op_name": name,
            "architecture": architecture,
            "gemm_type": "bfloat16",
            "kv_cache_dtype": "bfloat16",
            "num_heads": heads,
            "batch_size": batch,
            "isl": tokens if prompts else 1,
            "step": 0 if prompts else tokens,
            "latency": ns_of(batch, tokens) / 1e6,
        }
        for batch, tokens in points
    ]


def light(phase, batch, tokens, latent=LATENT):
    return float(attention_light(H200, attention(phase, latent), at(batch), at(tokens))[0])


def prompt_module(batch, tokens):
    """Rows at a rate, attention at a quarter of the speed of light but for short prompts."""
    return START + BY_ROW * batch * tokens + light("context", batch, tokens) * (1 if tokens < 1000 else 4)


def cache_module(batch, tokens):
    return START + BY_ROW * batch + light("generation", batch, tokens) * (1 if tokens < 100 else 2)


PROMPTS = [(batch, length) for batch in (1, 16, 256) for length in (16, 256, 4096)]
CACHED = [(batch, length) for batch in (1, 16, 256) for length in (2, 1024, 16_384)]


@pytest.fixture
def modules(tmp_path):
    write(tmp_path, "mla", "mla_context_module", module_rows("mla_context_module", PROMPTS, prompt_module))
    write(tmp_path, "mla", "mla_generation_module", module_rows("mla_generation_module", CACHED, cache_module))
    return MeasuredSource(H200, "vllm", tmp_path)


def test_a_module_is_put_together_again(modules):
    for batch, length in PROMPTS:
        rows = modules.rows(projections(), at(batch * length)).ns[0]
        whole = rows + modules.attention(attention("context"), at(batch), at(length)).ns[0]
        assert whole == pytest.approx(prompt_module(batch, length), rel=1e-6)
    for batch, length in CACHED:
        rows = modules.rows(projections(), at(batch)).ns[0]
        whole = rows + modules.attention(attention("generation"), at(batch), at(length)).ns[0]
        assert whole == pytest.approx(cache_module(batch, length), rel=1e-6)


def test_what_goes_by_rows_is_told_from_what_attention_adds(modules):
    found = modules.rows(projections(), at(1, 16, 256, 4096, 65_536))
    assert found.ns == pytest.approx(START + BY_ROW * at(1, 16, 256, 4096, 65_536), rel=1e-6)
    assert (found.origin == Origin.MEASURED).all()
    added = modules.attention(attention("generation"), at(16), at(16_384))
    assert added.ns == pytest.approx(2 * light("generation", 16, 16_384))


def sibling(root, slower):
    """Write TensorRT-LLM's modules: ours, so many times faster but for attention."""
    for phase, points in (("context", PROMPTS), ("generation", CACHED)):
        whole = prompt_module if phase == "context" else cache_module

        def ns_of(batch, tokens, phase=phase, whole=whole):
            rows = batch * (tokens if phase == "context" else 1)
            return whole(batch, tokens) - (1 - 1 / slower) * (START + BY_ROW * rows)

        name = f"mla_{phase}_module"
        write(root, "mla", name, module_rows(name, points, ns_of), framework="trtllm")


@pytest.mark.parametrize(("slower", "share", "origin"), [(1.4, 1.0, Origin.MEASURED), (1.6, 1 / 1.6, Origin.BORROWED)])
def test_projections_far_slower_than_a_siblings_were_timed_with_launches_and_are_borrowed(
    modules, tmp_path, slower, share, origin
):
    sibling(tmp_path, slower)
    found = modules.rows(projections(), at(1, 256, 65_536))
    assert found.ns == pytest.approx(share * (START + BY_ROW * at(1, 256, 65_536)), rel=1e-6)
    assert set(found.origin.tolist()) == {origin}
    added = modules.attention(attention("generation"), at(16), at(16_384))
    assert added.ns == pytest.approx(2 * light("generation", 16, 16_384))
    assert any("trtllm" in path.parts for path in modules.files)


def test_heads_that_were_not_measured_scale_with_the_bound(modules):
    fewer = replace(LATENT, heads=8)
    own, kin = (modules.rows(projections(latent), at(64)) for latent in (fewer, LATENT))
    bounds = [row_bound(H200, projections(latent), at(64)).ns[0] for latent in (fewer, LATENT)]
    assert own.ns[0] / kin.ns[0] == pytest.approx(bounds[0] / bounds[1])
    assert own.origin[0] == Origin.EXTRAPOLATED
    added = modules.attention(attention("generation", fewer), at(16), at(1024))
    assert 0 < added.ns[0] < modules.attention(attention("generation"), at(16), at(1024)).ns[0]


def test_a_module_that_the_host_launches_slowly_is_told_from_its_kernels(tmp_path):
    def launched(batch, tokens):
        return max(900_000.0, prompt_module(batch, tokens))

    write(tmp_path, "mla", "mla_context_module", module_rows("mla_context_module", PROMPTS, launched))
    write(tmp_path, "mla", "mla_generation_module", module_rows("mla_generation_module", CACHED, cache_module))
    source = MeasuredSource(H200, "vllm", tmp_path)
    assert source.launch_ns(attention("context")) == 900_000
    assert source.launch_ns(attention("generation")) == 0
    rows = source.rows(projections(), at(16)).ns[0]
    assert rows + source.attention(attention("context"), at(1), at(16)).ns[0] < 200_000
    prices = compiled((replace(attention("context"), count=61),), SourceChain([source], "test"))
    assert prices.launches.prompt_ns == 61 * 900_000
    assert prefill_ns(prices, (0, 16)) == 61 * 900_000


def test_no_point_of_a_module_costs_more_than_a_longer_one(tmp_path):
    def odd(batch, tokens):
        return cache_module(batch, tokens) * (10 if tokens == 1024 else 1)

    write(tmp_path, "mla", "mla_context_module", module_rows("mla_context_module", PROMPTS, prompt_module))
    write(tmp_path, "mla", "mla_generation_module", module_rows("mla_generation_module", CACHED, odd))
    found = MeasuredSource(H200, "vllm", tmp_path).attention(attention("generation"), at(1, 1), at(1024, 16_384)).ns
    assert found[0] <= found[1]


def test_a_sparse_module_holds_its_scan(tmp_path):
    architecture = "DeepseekV32ForCausalLM"

    def ns_of(batch, tokens):
        return 3 * START + BY_ROW * batch * tokens + 1e3 * batch * max(tokens - 1000, 0)

    for phase, points in (("context", PROMPTS), ("generation", CACHED)):
        name = f"dsa_{phase}_module"
        rows = module_rows(name, points, ns_of, architecture=architecture)
        write(tmp_path, "sparse_attention", name, rows)
    source = MeasuredSource(H200, "vllm", tmp_path)
    scan = IndexScan("context_index_scan", SPARSE.indexer, 1)
    parts = [
        source.rows(projections(SPARSE), at(4096)),
        source.attention(attention("context", SPARSE), at(1), at(4096)),
        source.attention(scan, at(1), at(4096)),
    ]
    assert sum(part.ns[0] for part in parts) == pytest.approx(ns_of(1, 4096), rel=1e-6)
    assert parts[2].ns == pytest.approx(RooflineSource(H200).attention(scan, at(1), at(4096)).ns)


def kernel_rows(phase, ns_of):
    points = PROMPTS if phase == "context" else CACHED
    rows = module_rows(f"mla_{phase}", points, ns_of)
    return [{name: value for name, value in row.items() if name not in {"gemm_type", "architecture"}} for row in rows]


def gemm_rows():
    """Every projection at half the speed of light, on a grid around those of the layer."""
    shapes = [(n, k, m) for n in (512, 8192) for k in (512, 8192) for m in (1, 64, 1024, 65_536)]
    bounds = [gemm_bound(H200, Gemm("", n, k, "bf16"), at(m)).ns[0] for n, k, m in shapes]
    names = ("n", "k", "m", "latency", "gemm_dtype")
    return [dict(zip(names, (*s, 2 * ns / 1e6, "bfloat16"), strict=True)) for s, ns in zip(shapes, bounds, strict=True)]


@pytest.fixture
def kernels(tmp_path):
    write(tmp_path, "mla", "context_mla", kernel_rows("context", lambda b, n: 10 * light("context", b, n)), "sglang")
    write(tmp_path, "mla", "generation_mla", kernel_rows("generation", lambda b, n: 1e4 + 10.0 * b * n), "sglang")
    write(tmp_path, "gemm", "gemm", gemm_rows(), "sglang")
    return tmp_path


def test_kernels_leave_the_projections_to_be_priced_one_by_one(kernels):
    source = MeasuredSource(H200, "sglang", kernels)
    rows = source.rows(projections(), at(1024))
    parts = [source.rows(gemm, at(1024)).ns[0] for gemm in projections().gemms]
    norms = RooflineSource(H200).rows(projections().elementwise, at(1024)).ns[0]
    assert rows.ns == pytest.approx([sum(parts) + norms])
    assert source.attention(attention("context"), at(1), at(4096)).ns == pytest.approx([10 * light("context", 1, 4096)])
    assert source.attention(attention("generation"), at(16), at(1024)).ns == pytest.approx([1e4 + 10 * 16 * 1024])


def test_decoding_pays_for_products_slower_than_the_expansion_they_stand_for(kernels):
    tokens = (1, 64, 1024)
    rows = [
        {"op_name": f"mla_gen_{side}", "bmm_dtype": "bfloat16", "num_tokens": n, "num_heads": 16, "latency": 0.01}
        for side in ("pre", "post")
        for n in tokens
    ]
    write(kernels, "mla_bmm", "mla_bmm", rows, "sglang")
    source = MeasuredSource(H200, "sglang", kernels)
    expansion = next(gemm for gemm in projections().gemms if gemm.name == "keys_values")
    extra = 2e4 - source.rows(expansion, at(16)).ns[0]
    found = source.attention(attention("generation"), at(16), at(1024)).ns[0]
    assert found == pytest.approx(1e4 + 10 * 16 * 1024 + extra)


def test_prompts_run_plain_attention_where_the_absorbed_kernel_is_slower(kernels):
    plain = Attention("context_attention", 16, 16, 128, "bf16", 0, 1)
    rows = [
        {
            "batch_size": batch,
            "isl": length,
            "num_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 128,
            "kv_cache_dtype": "bfloat16",
            "window_size": 0,
            "latency": 2 * attention_bound(H200, plain, at(batch), at(length)).ns[0] / 1e6,
        }
        for batch, length in PROMPTS
    ]
    write(kernels, "attention", "context_attention", rows, "sglang")
    source = MeasuredSource(H200, "sglang", kernels)
    found = source.attention(attention("context"), at(1), at(4096)).ns[0]
    # Keys have 192 elements and values 128, where the plain kernel has 128 of both.
    assert found == pytest.approx(2 * 1.25 * attention_bound(H200, plain, at(1), at(4096)).ns[0])


def delta_rows(values=8):
    kernels = {
        "context": (("causal_conv1d_fn", 1.0), ("chunk_gated_delta_rule", 10.0)),
        "generation": (("causal_conv1d_update", 2.0), ("fused_recurrent_gated_delta_rule", 5.0)),
    }
    return [
        {
            "phase": phase,
            "kernel_source": kernel,
            "batch_size": batch,
            "seq_len": length,
            "num_k_heads": 2,
            "num_v_heads": values,
            "head_k_dim": 128,
            "head_v_dim": 128,
            "latency": us * batch * length / 1e3,
        }
        for phase, of in kernels.items()
        for kernel, us in of
        for batch in (1, 16)
        for length in ((64, 1024, 8192) if phase == "context" else (1,))
    ]


def test_a_delta_rule_costs_its_convolution_and_its_recurrence(tmp_path):
    write(tmp_path, "linear_attention", "gdn", delta_rows())
    source = MeasuredSource(H200, "vllm", tmp_path)
    prompt, token = (DeltaRule(f"{phase}_delta_rule", NET, 4096, 1) for phase in ("context", "generation"))
    assert source.attention(prompt, at(1, 16), at(1024, 64)).ns == pytest.approx([11e3 * 1024] * 2)
    found = source.attention(token, at(1, 16), at(50_000, 0))
    assert found.ns == pytest.approx([7e3, 7e3 * 16])
    assert (found.origin == Origin.MEASURED).all()
    wider = replace(token, net=replace(NET, value_heads=16))
    assert source.attention(wider, at(1), at(0)).origin[0] == Origin.EXTRAPOLATED
    assert source.attention(wider, at(1), at(0)).ns[0] == pytest.approx(2 * 7e3, rel=0.05)
    other = replace(token, net=replace(NET, key_dim=64))
    assert source.attention(other, at(1), at(0)) is None


def test_a_framework_without_tables_knows_nothing(tmp_path):
    source = MeasuredSource(H200, "vllm", tmp_path)
    assert source.rows(projections(), at(1)) is None
    assert source.attention(attention("context"), at(1), at(1)) is None
    assert source.attention(IndexScan("context_index_scan", SPARSE.indexer, 1), at(1), at(1)) is None
    assert source.attention(DeltaRule("context_delta_rule", NET, 4096, 1), at(1), at(1)) is None


# --- the installed tables ----------------------------------------------------------------------------


@needs_tables
@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("chip", ["h200_sxm", "b200_sxm"])
@pytest.mark.parametrize("name", ["DeepSeek-V3", "GLM-5-FP8", "Qwen3.5-397B-A17B"])
def test_the_mixers_of_each_family_are_measured_and_no_faster_than_light(name, chip, framework):
    operators, chain = step_operators(load_model(name), Layout(8)), source_chain(load_chip(chip), framework)
    kernels = (*operators.context, *operators.generation)
    for kernel in kernels:
        found = chain.attention(kernel, at(1, 8, 32), at(1024, 1024, 4096))
        assert (found.origin < Origin.ROOFLINE).all(), kernel.name
        assert (found.ns >= 0.99 * attention_light(chain_chip(chain), kernel, at(1, 8, 32), at(1024, 1024, 4096))).all()
    for row in operators.per_token:
        if isinstance(row, LatentProjections):
            found = chain.rows(row, at(1, 32, 4096))
            assert (found.origin < Origin.ROOFLINE).all()
            assert (found.ns > row_bound(chain_chip(chain), row, at(1, 32, 4096)).ns).all()


def chain_chip(chain):
    return chain.sources[0].chip


def left_out_errors(phase, axis, left_out):
    """Return the errors of whole modules of vLLM on H200 where one position of an axis was left out."""
    source, name = MeasuredSource(H200, "vllm"), f"mla_{phase}_module"

    def without(family, table, columns):
        found = source._read(family, table, columns)
        if found is None or table != name:
            return found
        kept = found[axis] != left_out
        return {column: values[kept] for column, values in found.items()}

    tables = LatentTables(H200, without, source.rows, source.attention)
    whole = source._read("mla", name, COLUMNS)
    chosen = (whole["num_heads"] == 16) & (whole["kv_cache_dtype"] == "bfloat16") & (whole["gemm_type"] == "fp8_block")
    chosen &= whole[axis] == left_out
    sequences, length = (whole[column][chosen] for column in ("batch_size", "isl" if phase == "context" else "step"))
    rows = sequences * length if phase == "context" else sequences
    ns = tables.rows(projections(weights="fp8_block"), rows).ns
    ns = ns + tables.attention(replace(attention(phase), weights="fp8_block"), sequences, length).ns
    return np.abs(ns / (whole["latency"][chosen] * 1e6) - 1)


COLUMNS = ("num_heads", "batch_size", "isl", "step", "kv_cache_dtype", "gemm_type", "latency")


@needs_tables
@pytest.mark.parametrize(
    ("phase", "axis", "positions", "most"),
    [
        ("generation", "step", (64, 512, 4096, 32_768), 0.01),
        ("generation", "batch_size", (4, 32, 256), 0.02),
        ("context", "isl", (64, 512, 2048, 8192), 0.02),
        ("context", "batch_size", (2, 8, 64), 0.01),
    ],
)
def test_modules_left_out_of_the_table_come_out_close(phase, axis, positions, most):
    errors = np.concatenate([left_out_errors(phase, axis, position) for position in positions])
    assert np.median(errors) < most


@needs_tables
@pytest.mark.parametrize(("chip", "origin"), [("h200_sxm", Origin.BORROWED), ("b200_sxm", Origin.MEASURED)])
def test_of_two_chips_vllms_latent_projections_were_timed_as_a_step_runs_them_on_one(chip, origin):
    found = MeasuredSource(load_chip(chip), "vllm").rows(projections(), at(16))
    assert found.origin.tolist() == [origin]
