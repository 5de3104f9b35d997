"""Engines by name: each has its own options, limits and stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.phase_times import prices, prompt_ms, token_ms
from benchmarks.recorded_run import POOLS, read_run, replay
from hardware.catalogue import load_chip
from hardware.errors import CapacityError, ScenarioError
from perfdb.load_model import load_model
from simulator.build import build_pools
from simulator.engines import ENGINES
from simulator.run import run_scenario
from simulator.scenario import Scenario, resolve_scenario
from simulator.schedulers import SCHEDULERS, VllmScheduler, WholePromptScheduler

OPT = {"name": "facebook/opt-13b"}
ASCEND = {"additional_config": {"ascend_scheduler_config": {"enabled": True}}}
WORK = {
    "synthetic": {
        "requests": 5,
        "arrivals": {"kind": "burst"},
        "prompt_tokens": {"kind": "fixed", "value": 100},
        "output_tokens": {"kind": "fixed", "value": 10},
    }
}


def scenario(*pools: dict) -> Scenario:
    table = {"model": OPT, "workload": WORK, "pool": [{"chip": "a100_80_sxm", **pool} for pool in pools]}
    return resolve_scenario(table, Path("here.toml"), "here.toml")


def built(*pools: dict):
    return build_pools(scenario(*pools))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_names_a_policy_and_builds_with_its_defaults(name):
    engine = ENGINES[name]
    assert engine.policy in SCHEDULERS
    stages = [["prefill"], ["decode"]] if engine.one_stage else [["prefill", "decode"]]
    pools = built(*({"engine": name, "stages": each} for each in stages))
    assert all(pool.parts.blocks * pool.parts.block_tokens > 48_000 for pool in pools)
    assert all(type(pool.options) is engine.options for pool in pools)


def test_vllm_of_2023_takes_whole_prompts_of_the_longest_sequence():
    (pool,) = built({"engine": "vllm@0.2"})
    assert (pool.options.max_num_batched_tokens, pool.options.max_num_seqs) == (2048, 256)
    assert pool.options.gpu_memory_utilization == 0.9
    (pool,) = built({"engine": "vllm@0.2", "engine_options": {"max_num_batched_tokens": 16384, "max_num_seqs": 1024}})
    assert (pool.parts.scheduler.max_tokens, pool.parts.scheduler.max_sequences) == (16384, 1024)


def test_distserves_two_engines_have_limits_of_their_own():
    options = {"context_max_batch_size": 64, "decoding_max_batch_size": 300}
    prefill, decode = built(
        *({"engine": "distserve", "stages": [stage], "engine_options": options} for stage in ("prefill", "decode"))
    )
    assert (prefill.parts.scheduler.max_tokens, prefill.parts.scheduler.max_sequences) == (8192, 64)
    assert decode.parts.scheduler.max_sequences == 300
    # A preempted sequence may have to be recomputed whole.
    assert decode.costs.prices.max_tokens >= 2048


@pytest.mark.parametrize(
    ("model", "tensor", "tokens"),
    [("facebook/opt-13b", 1, 66_144), ("facebook/opt-13b", 2, 163_008), ("facebook/opt-66b", 4, 78_496)],
)
def test_distserves_kv_capacity_is_what_its_authors_recorded(model, tensor, tokens):
    """Tokens that fit the KV cache of one engine on A100 80 GB (simdistserve, ``max_num_tokens.csv``)."""
    pool = {"chip": "a100_80_sxm", "engine": "distserve", "tensor_parallel": tensor}
    table = {"model": {"name": model}, "workload": WORK}
    pools = [{**pool, "stages": ["prefill"]}, {**pool, "stages": ["decode"]}]
    _, decode = build_pools(resolve_scenario(table | {"pool": pools}, Path("here.toml"), "here.toml"))
    assert decode.parts.blocks * decode.parts.block_tokens == pytest.approx(tokens, rel=0.015)


@pytest.mark.parametrize("engine", POOLS)
def test_a_recorded_run_is_replayed_at_its_own_times(tmp_path, engine):
    """Requests alone: the second, sent first, takes what its prompt and its steps cost."""
    file = tmp_path / "run.exp"
    lengths = {"prompt_len": 700, "output_len": 11, "ttft_ms": 1.0, "tpot_ms": 1.0}
    file.write_text(repr([lengths | {"issue_time": 105.0}, lengths | {"issue_time": 100.0, "prompt_len": 40}]))
    requests = read_run(file)
    assert [request["prompt_len"] for request in requests] == [40, 700]
    found = replay(requests, engine)
    tensor = POOLS[engine][0].get("tensor_parallel", 1)
    prompts = prices("facebook/opt-13b", tensor, engine, "a100_80_sxm")
    steps = prices("facebook/opt-13b", 1, engine, "a100_80_sxm")
    # Fits are of steps without a server, to which Ray brings vLLM's answers.
    ray_ms = 0.77 if engine == "vllm@0.2" else 0
    alone = [prompt_ms(prompts, 1, tokens) + ray_ms for tokens in (40, 700)]
    assert found["ttft_ms"] == pytest.approx(alone, rel=1e-4)
    # Ten tokens, the first of which waits for the KV where it is handed over.
    assert found["tpot_ms"][1] == pytest.approx(
        token_ms(steps, 1, 700, 10) + ray_ms, rel=0.001 if len(POOLS[engine]) == 1 else 0.2
    )


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"engine": "distserve"}, ["serves one stage", "['prefill'] or ['decode']"]),
        ({"engine": "vllm@0.2", "engine_options": {"enable_chunked_prefill": True}}, ["unknown key", "max_num_seqs"]),
        ({"engine": "vllm@0.2", "engine_options": {"max_num_seq": 3}}, ["did you mean 'max_num_seqs'"]),
        ({"engine": "vllm@0.2", "engine_options": 5}, ["'pool.0.engine_options'", "expected a table"]),
        ({"engine": "vllm@0.34"}, ["'pool.0.engine'", "vllm@0.3"]),
        ({"engine": "vllm@0.2", "engine_options": {"max_num_batched_tokens": 16}}, ["below max_num_seqs 256"]),
        ({"engine": "vllm@0.2", "engine_options": {"max_num_batched_tokens": 512}}, ["prompts are not cut", "2048"]),
        ({"engine_options": ASCEND}, ["plugin for Ascend", "a100_80_sxm"]),
        ({"chip": "ascend_910b3", "engine": "vllm-live", "engine_options": ASCEND}, ["'vllm-live' does not load"]),
        ({"chip": "ascend_910b3", "engine_options": ASCEND, "pipeline_parallel": 2}, ["one rank and one stage"]),
        ({"engine_options": ASCEND | {"async_scheduling": True}}, ["async_scheduling is True", "for Ascend"]),
        ({"engine_options": ASCEND | {"kv_offloading_size": 2.0}}, ["kv_offloading_size is 2.0", "for Ascend"]),
    ],
)
def test_what_an_engine_cannot_do_is_one_clear_sentence(pool, words):
    with pytest.raises(ScenarioError) as caught:
        built(pool)
    for word in words:
        assert word in str(caught.value)


def test_the_scheduler_of_the_plugin_for_ascend_computes_whole_prompts_first_and_alone():
    def pooled(**more):
        options = {"max_model_len": 4096, "max_num_seqs": 100, **more}
        return {"pool": [{"chip": "ascend_910b3", "engine": "vllm@0.11", "engine_options": options}]}

    traffic = {"requests": 40, "arrivals": {"kind": "constant", "rate_per_s": 4.0}}
    lengths = {
        key: {"kind": "fixed", "value": value} for key, value in (("prompt_tokens", 1500), ("output_tokens", 50))
    }
    table = {"model": {"name": "Qwen/Qwen3-8B"}, "workload": {"synthetic": traffic | lengths}}
    both = [resolve_scenario(table | pooled(**more), Path("here.toml"), "here.toml") for more in ({}, ASCEND)]
    (stock,), (plugin,) = (build_pools(one) for one in both)
    assert (stock.parts.scheduler.max_tokens, type(stock.parts.scheduler)) == (2048, VllmScheduler)
    # It cuts no prompt, so that a step holds the longest.
    assert plugin.parts.scheduler == WholePromptScheduler(4096, 100, watermark=0.01, free_block_each=False)
    first, later = (run_scenario(one).summary for one in both)
    # Those that decode stand still while prompts are computed.
    assert later["mean_tpot_ms"] > 1.02 * first["mean_tpot_ms"]
    assert later["mean_ttft_ms"] < first["mean_ttft_ms"]


TRTLLM = {"chip": "h100_sxm", "engine": "trtllm"}


def trtllm(**options):
    (pool,) = built(TRTLLM | {"engine_options": options})
    return pool


def test_tensorrt_llm_has_its_own_defaults():
    pool = trtllm()
    assert (pool.options.max_batch_size, pool.options.max_num_tokens) == (2048, 8192)
    assert (pool.parts.block_tokens, pool.parts.caching, pool.parts.plans_ahead) == (32, True, True)
    scheduler = pool.parts.scheduler
    assert (scheduler.capacity, scheduler.chunked, scheduler.prefix_aware) == ("GUARANTEED_NO_EVICT", False, True)
    assert "gpu_memory_utilization" not in pool.options.model_dump()


def test_tensorrt_llm_gives_kv_a_share_of_what_weights_and_activations_leave():
    most, half = (
        trtllm(max_batch_size=64, kv_cache_config={"free_gpu_memory_fraction": share}).memory for share in (0.9, 0.45)
    )
    assert abs(most.blocks - 2 * half.blocks) <= 1
    left = most.budget - most.weights - most.activations - most.collectives - most.context - most.graphs
    assert most.blocks == left // most.block
    assert trtllm(max_batch_size=128).memory.graphs > most.graphs > 0
    assert trtllm(max_batch_size=64, kv_cache_config={"max_tokens": 5000}).parts.blocks == 157


def test_tensorrt_llm_refuses_prompts_that_no_step_holds_one_by_one():
    work = {"synthetic": WORK["synthetic"] | {"prompt_tokens": {"kind": "fixed", "value": 1000}}}
    table = {"model": OPT, "workload": work}
    for options, completed in (({"max_num_tokens": 999}, 0), ({"max_num_tokens": 1000}, 5)):
        table["pool"] = [TRTLLM | {"engine_options": options}]
        summary = run_scenario(resolve_scenario(table, Path("here.toml"), "here.toml")).summary
        assert summary["completed"] == completed
    table["pool"][0]["engine_options"] = {"max_num_tokens": 999, "enable_chunked_prefill": True}
    assert run_scenario(resolve_scenario(table, Path("here.toml"), "here.toml")).summary["completed"] == 5


def test_tensorrt_llm_hands_kv_over_from_instances_that_plan_ahead():
    pools = [TRTLLM | {"name": stage, "stages": [stage]} for stage in ("prefill", "decode")]
    table = {"model": OPT, "workload": WORK, "pool": pools}
    summary = run_scenario(resolve_scenario(table, Path("here.toml"), "here.toml")).summary
    assert (summary["completed"], summary["transfers"]["count"]) == (5, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_memory_utilization": 0.9}, "TensorRT-LLM calls it kv_cache_config.free_gpu_memory_fraction"),
        ({"block_size": 16}, "TensorRT-LLM calls it kv_cache_config.tokens_per_block"),
        ({"scheduler_config": {"context_chunking_policy": "FORCE_CHUNK"}}, "only with enable_chunked_prefill"),
        ({"enable_chunked_prefill": True, "max_num_tokens": 31}, "below tokens_per_block 32"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 1.0}}, "less than 1"),
        ({"batch_wait_timeout_ms": -1}, "batch_wait_timeout_ms"),
    ],
)
def test_options_of_tensorrt_llm_that_cannot_be(options, message):
    with pytest.raises(ScenarioError, match=message):
        trtllm(**options)


def test_the_longest_sequence_has_tensorrt_llms_name():
    assert trtllm(max_seq_len=1024).parts.max_tokens == 1024


def test_a_sequence_that_does_not_fit_is_reported_in_tensorrt_llms_names():
    with pytest.raises(CapacityError, match=r"max_seq_len = 1500 .* raise kv_cache_config.free_gpu_memory_fraction"):
        trtllm(max_seq_len=1500, kv_cache_config={"max_tokens": 1000})


@pytest.mark.parametrize(
    ("engine", "chip", "found"),
    [
        ("vllm", "h200_sxm", "fp8"),
        ("sglang", "b200_sxm", "fp8"),
        ("sglang", "h200_sxm", "bf16"),
        ("trtllm", "b200_sxm", "bf16"),
    ],
)
def test_sparse_attention_has_the_cache_its_engine_gives_it(engine, chip, found):
    sparse, dense = load_model("GLM-5-FP8"), load_model("DeepSeek-V3")
    assert ENGINES[engine].with_cache(sparse, load_chip(chip)).kv_cache == found
    assert ENGINES[engine].with_cache(dense, load_chip(chip)).kv_cache == "bf16"


def test_no_more_sequences_run_than_have_room_for_their_states():
    table = {
        "model": {"name": "Qwen3.5-397B-A17B", "weights": "fp8"},
        "workload": WORK,
        "pool": [{"chip": "b200_sxm", "tensor_parallel": 8, "engine": "sglang"}],
    }
    (pool,) = build_pools(resolve_scenario(table, Path("here.toml"), "here.toml"))
    most = len(pool.costs.prices.host_ns) - 1
    assert most == pool.memory.sequences < 4096
    assert pool.memory.states == most * pool.model.state_bytes_on_chip(8)


def test_vllm_takes_the_blocks_it_is_told():
    (pool,) = built({"engine": "vllm", "engine_options": {"num_gpu_blocks_override": 5000}})
    # One of them is a placeholder that holds nothing.
    assert pool.parts.blocks == 4999
    with pytest.raises(ScenarioError, match="say the same; leave one out"):
        built({"engine": "vllm", "engine_options": {"num_gpu_blocks_override": 5000}, "limits": {"kv_blocks": 5000}})


def test_tensorrt_llm_takes_no_more_memory_for_kv_than_it_is_told():
    (whole,) = built({"engine": "trtllm"})
    block = whole.memory.block
    for most, blocks in ((100 * block + 1, 100), (1 << 60, whole.parts.blocks)):
        (pool,) = built({"engine": "trtllm", "engine_options": {"kv_cache_config": {"max_gpu_total_bytes": most}}})
        assert pool.parts.blocks == blocks
    with pytest.raises(ScenarioError, match="less than one KV block"):
        built({"engine": "trtllm", "engine_options": {"kv_cache_config": {"max_gpu_total_bytes": block - 1}}})
