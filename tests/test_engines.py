"""Engines by name: each has its own options, limits and stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.phase_times import prices, prompt_ms, token_ms
from benchmarks.recorded_run import POOLS, read_run, replay
from hardware.errors import ScenarioError
from simulator.build import build_pools
from simulator.engines import ENGINES
from simulator.scenario import Scenario, resolve_scenario
from simulator.schedulers import SCHEDULERS

OPT = {"name": "facebook/opt-13b"}
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
    assert found["ttft_ms"] == pytest.approx([prompt_ms(prompts, 1, 40), prompt_ms(prompts, 1, 700)], rel=1e-4)
    # Ten tokens, the first of which waits for the KV where it is handed over.
    assert found["tpot_ms"][1] == pytest.approx(
        token_ms(steps, 1, 700, 10), rel=0.001 if len(POOLS[engine]) == 1 else 0.2
    )


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"engine": "distserve"}, ["serves one stage", "['prefill'] or ['decode']"]),
        ({"engine": "vllm@0.2", "engine_options": {"enable_chunked_prefill": True}}, ["unknown key", "max_num_seqs"]),
        ({"engine": "vllm@0.2", "engine_options": {"max_num_seq": 3}}, ["did you mean 'max_num_seqs'"]),
        ({"engine": "vllm@0.2", "engine_options": 5}, ["'pool.0.engine_options'", "expected a table"]),
        ({"engine": "vllm@0.1"}, ["'pool.0.engine'", "vllm@0.2"]),
        ({"engine": "vllm@0.2", "engine_options": {"max_num_batched_tokens": 16}}, ["below max_num_seqs 256"]),
        ({"engine": "vllm@0.2", "engine_options": {"max_num_batched_tokens": 512}}, ["prompts are not cut", "2048"]),
    ],
)
def test_what_an_engine_cannot_do_is_one_clear_sentence(pool, words):
    with pytest.raises(ScenarioError) as caught:
        built(pool)
    for word in words:
        assert word in str(caught.value)
