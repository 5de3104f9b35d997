"""Latent attention and delta rules: what they hold, compute and move, and how modules are put together."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing import needs_tables, prefill_ns

from hardware.catalogue import load_chip
from perfdb.compile import HostTime, StepLimits, compile_costs
from perfdb.delta_net import DeltaNet, DeltaRule
from perfdb.estimate import Origin
from perfdb.latent import Indexer, IndexScan, Latent, LatentAttention
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.measured import MeasuredSource
from perfdb.memory import MemoryBudget, plan_memory
from perfdb.operators import LatentProjections, StepOperators, step_operators
from perfdb.power_cap import capped_chain
from perfdb.roofline import RooflineSource
from perfdb.sources import SourceChain, source_chain
from perfdb.speed_of_light import attention_bound, attention_light, row_bound
from perfdb.step_prices import equal_prompt
from perfdb.step_work import step_work, visible_column, visible_tokens

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


# --- what is held ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chips", [1, 8, 128])
def test_the_latent_is_whole_on_every_chip(chips):
    model = load_model("DeepSeek-V3")
    assert model.kv_bytes_on_chip(chips) == 61 * 576 * 2
    assert load_model("DeepSeek-V3", kv_cache="fp8").kv_bytes_on_chip(chips) == 61 * 576
    assert load_model("Kimi-K2.5").kv_bytes_on_chip(chips) == 61 * 576 * 2


def test_an_indexer_caches_a_key_of_eight_bits_and_its_scale():
    assert load_model("DeepSeek-V3.2").kv_bytes_per_token == 61 * (576 * 2 + 132)
    # 512 latents of 8 bits with four scales of 32, and 64 rotated elements of 16.
    assert load_model("GLM-5", kv_cache="fp8").kv_bytes_per_token == 78 * (656 + 132)


def test_a_hybrid_caches_tokens_in_its_attention_alone_and_a_state_per_sequence_in_the_rest():
    model = load_model("Qwen3.5-397B-A17B")
    assert model.kv_bytes_per_token == 15 * 2 * 2 * 256 * 2
    state = 64 * 128 * 128 * 4 + 3 * (2 * 16 * 128 + 64 * 128) * 2
    assert model.state_bytes_on_chip(1) == 45 * state
    assert model.state_bytes_on_chip(8) == 45 * state // 8
    assert load_model("DeepSeek-V3").state_bytes_on_chip(1) == 0


def test_an_output_gate_widens_the_queries():
    (delta, full) = load_model("Qwen3.5-27B").stack
    assert (delta.count, full.count) == (48, 16)
    assert full.mixer.output_gate
    assert full.mixer.qkv_width == (2 * 24 + 2 * 4) * 256


def test_projections_into_latents_stand_on_every_chip():
    model, budget = load_model("DeepSeek-V3"), MemoryBudget(0.9, 8192, 64, 16, 0)
    plans = [plan_memory(model, Layout(tensor), load_chip("gb300"), budget) for tensor in (4, 8)]
    whole = round(model.whole_bytes)
    assert whole == pytest.approx(61 * 7168 * (1536 + 576) * (1 + 4 / 128**2) + 58 * 7168 * 256 * 2, rel=1e-6)
    assert 8 * plans[1].weights == pytest.approx(model.weight_bytes + 7 * whole, rel=1e-6)
    assert plans[0].weights > plans[1].weights


def test_sequences_reserve_their_states():
    model, budget = load_model("Qwen3.5-397B-A17B", weights="fp8"), MemoryBudget(0.9, 8192, 64, 16, 0)
    plan = plan_memory(model, Layout(8), H200, budget)
    assert plan.states == 64 * model.state_bytes_on_chip(8)
    for wider in (replace(budget, static=True), budget):
        one, two = (plan_memory(model, Layout(8), H200, replace(wider, step_sequences=n)) for n in (64, 128))
        assert (one.blocks - two.blocks) * one.block == pytest.approx(64 * model.state_bytes_on_chip(8), abs=one.block)


# --- what is computed and moved ----------------------------------------------------------------------


def test_absorbing_the_expansion_takes_as_much_arithmetic_as_expanding():
    """Which is why one count of rows stands for prompts and decoding tokens."""
    expanded = 2 * LATENT.kv_rank * LATENT.heads * (LATENT.nope + LATENT.value)
    absorbed = 2 * LATENT.heads * (LATENT.nope * LATENT.kv_rank + LATENT.kv_rank * LATENT.value)
    assert expanded == absorbed
    (found,) = (gemm for gemm in projections().gemms if gemm.name == "keys_values")
    assert 2 * found.n * found.k == expanded


def test_a_decoding_token_reads_the_latent_of_each_token_once_for_all_heads():
    bound = attention_bound(H200, attention("generation"), at(32), at(100_000))
    assert bound.memory_ns[0] == pytest.approx(1e9 * 32 * 100_001 * 1152 / H200.memory_bytes_per_s, rel=1e-3)
    flops = 32 * 100_001 * 2 * 16 * (576 + 512)
    assert bound.compute_ns[0] == pytest.approx(1e9 * flops / H200.peak_flops("bf16"))


def test_sparse_attention_stops_growing_and_its_scan_does_not():
    scan = IndexScan("generation_index_scan", SPARSE.indexer, 1)
    near, far = (attention_bound(H200, attention("generation", SPARSE), at(8), at(n)).ns[0] for n in (4096, 100_000))
    assert near == far
    near, far = (attention_bound(H200, scan, at(8), at(n)).memory_ns[0] for n in (10_000, 100_000))
    assert far / near == pytest.approx(10, rel=0.05)


def test_a_delta_rule_is_linear_in_a_prompt_and_constant_in_the_past():
    prompt, token = (DeltaRule(f"{phase}_delta_rule", NET, 4096, 1) for phase in ("context", "generation"))
    near, far = attention_bound(H200, token, at(8, 8), at(1, 100_000)).ns
    assert near == far
    short, long = attention_bound(H200, prompt, at(1, 1), at(10_000, 20_000)).compute_ns
    assert long == pytest.approx(2 * short)


@pytest.mark.parametrize("name", ["DeepSeek-V3", "GLM-5", "Qwen3.5-397B-A17B"])
def test_the_work_of_a_log_is_the_bound_of_its_steps(name):
    model = load_model(name)
    operators = step_operators(model, Layout(8))
    alone = StepOperators((), (), operators.context, operators.generation)
    log = dict.fromkeys(("tokens", "prompts", "completed", "pairs", "reach", "context", "steps", "decodes"), at(0))
    decode = log | {"context": at(5000), "steps": at(1), "decodes": at(32)}
    prefill = log | {"tokens": at(6000), "prompts": at(1), "pairs": at(6000**2), "reach": at(6000), "steps": at(1)}
    for table, kernels, point in ((decode, alone.generation, (32, 5000)), (prefill, alone.context, (1, 6000))):
        seen = {visible_column(kernel): visible_tokens(kernel.window, table) for kernel in alone.generation}
        found = step_work(alone, H200, table | seen)
        bounds = [(k.count, attention_bound(H200, k, at(point[0]), at(point[1]))) for k in kernels]
        # A window's first tokens see fewer than it; the log counts them as if they saw all.
        assert found.compute_ns[0] == pytest.approx(sum(n * b.compute_ns[0] for n, b in bounds), rel=0.2)
        assert found.memory_ns[0] == pytest.approx(sum(n * b.memory_ns[0] for n, b in bounds), rel=0.1)


@pytest.mark.parametrize("name", ["DeepSeek-V3", "GLM-5", "Qwen3.5-397B-A17B"])
def test_every_chip_prices_every_operator(name):
    operators = step_operators(load_model(name), Layout(8))
    for chip in map(load_chip, ("a100_80_sxm", "rtx_4090")):
        source = RooflineSource(chip)
        for row in operators.per_token:
            if isinstance(row, LatentProjections):
                assert (source.rows(row, at(1, 4096)).ns > row_bound(chip, row, at(1, 4096)).ns).all()
        for kernel in (*operators.context, *operators.generation):
            found = source.attention(kernel, at(1, 64), at(100, 8192))
            assert (found.ns > attention_bound(chip, kernel, at(1, 64), at(100, 8192)).ns).all()


def test_a_power_cap_slows_what_computes():
    chain = SourceChain([RooflineSource(H200)], "test")
    capped = capped_chain(chain, H200, 0.6)
    assert capped.rows(projections(), at(8192)).ns > 1.05 * chain.rows(projections(), at(8192)).ns
    assert capped.rows(projections(), at(1)).ns == chain.rows(projections(), at(1)).ns


# --- chunks inside a window --------------------------------------------------------------------------

windows = st.integers(1, 5000)
tokens = st.integers(1, 20_000)


def looked_at(length, window):
    return sum(min(position + 0.5, window) for position in range(length))


@given(tokens, windows)
def test_a_prompt_without_a_past_is_its_own_equal(new, window):
    assert equal_prompt(new, 0, window) == pytest.approx(new)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 200))
def test_the_equal_prompt_looks_at_as_much(new, past, window):
    length = equal_prompt(new, past, window)
    own = looked_at(past + new, window) - looked_at(past, window)
    pairs = length**2 / 2 if length < window else window * (length - window / 2)
    assert pairs == pytest.approx(own, rel=0.01, abs=window)


@given(tokens, st.integers(0, 100_000))
def test_a_window_beyond_the_prompt_is_none(new, past):
    assert equal_prompt(new, past, 1 << 40) == pytest.approx(sqrt((past + new) ** 2 - past**2))


def compiled(kernels, chain=None):
    chain = chain or SourceChain([RooflineSource(H200)], "test")
    operators = StepOperators((), (), kernels, ())
    return compile_costs(operators, chain, StepLimits(32_768, 8, 65_536), HostTime()).prices


@given(st.integers(1, 40), st.integers(1, 20))
def test_a_prompt_in_chunks_costs_a_linear_mixer_what_its_tokens_do(chunks, of):
    prices = compiled((DeltaRule("context_delta_rule", NET, 4096, 45),))
    size = 64 * of
    later = prefill_ns(prices, ((chunks - 1) * size, size))
    assert later == pytest.approx(prefill_ns(prices, (0, size)), rel=0.01)


def test_a_chunk_over_a_long_past_costs_a_window_little_more_than_one_without():
    prices = compiled((attention("context", SPARSE),))
    first, later = (prefill_ns(prices, (past, 8192)) for past in (0, 20_000))
    assert first < later < 1.2 * first


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
