"""Attention ranks as a scenario asks for them."""

from __future__ import annotations

import pytest

from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from perfdb.layout import Layout
from simulator.build import build_pools
from simulator.lockstep import LockstepRanks
from simulator.run import run_scenario
from simulator.scenario import load_scenario
from simulator.sglang_options import SglangOptions

SCENARIO = """
name = "ranks"
[model]
name = "Qwen/Qwen3-8B"
[workload.synthetic]
requests = 60
arrivals = { kind = "poisson", rate_per_s = 20.0 }
prompt_tokens = { kind = "fixed", value = 500 }
output_tokens = { kind = "uniform", low = 20, high = 40 }
"""


def scenario(tmp_path, *pools: str):
    path = tmp_path / "ranks.toml"
    path.write_text(SCENARIO + "".join(f'[[pool]]\nchip = "h100_sxm"\n{pool}\n' for pool in pools))
    return load_scenario(path)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_ranks_of_a_dense_model_are_replicas_with_one_way_in(tmp_path, engine):
    ranks = run_scenario(scenario(tmp_path, f'data_parallel = 4\nengine = "{engine}"'))
    replicas = run_scenario(scenario(tmp_path, f'replicas = 4\nengine = "{engine}"'))
    one, other = ranks.summary["pools"]["pool0"], replicas.summary["pools"]["pool0"]
    assert (one["chips"], one["replicas"], other["replicas"]) == (4, 1, 4)
    assert one["kv_blocks"] == other["kv_blocks"]
    assert ranks.summary["completed"] == replicas.summary["completed"] == 60
    assert one["utilisation"] == pytest.approx(other["utilisation"], rel=0.1)
    assert ranks.summary["mean_power_w"] == pytest.approx(replicas.summary["mean_power_w"], rel=0.02)
    assert ranks.timeline["utilisation_pool0"].max() <= 1
    assert ranks.timeline["decode_batch_pool0"].max() < 60


def test_ranks_of_a_dense_model_step_together_in_tensorrt_llm(tmp_path):
    ranks = run_scenario(scenario(tmp_path, 'data_parallel = 4\nengine = "trtllm"'))
    replicas = run_scenario(scenario(tmp_path, 'replicas = 4\nengine = "trtllm"'))
    (instance,) = ranks.run.cluster.instances
    assert isinstance(instance, LockstepRanks)
    # A prompt of one rank holds up the others, of which each has all weights.
    assert ranks.summary["mean_tpot_ms"] > replicas.summary["mean_tpot_ms"]
    assert ranks.run.pools[0].costs.prices.decode_ns(8, 500) == replicas.run.pools[0].costs.prices.decode_ns(8, 500)


def test_options_of_ranks_apart_are_not_dealt(tmp_path):
    one, whole = (
        build_pools(scenario(tmp_path, f'engine = "sglang"\n{ranks} = 4'))[0] for ranks in ("data_parallel", "replicas")
    )
    assert one.options == whole.options


def test_prompts_wait_for_a_batch_only_without_ranks(tmp_path):
    option = 'engine = "trtllm"\nengine_options = { batch_wait_timeout_iters = 20, batch_wait_max_tokens_ratio = 0.9 }'
    waits = [
        build_pools(scenario(tmp_path, f"{option}\n{ranks} = 4"))[0].parts.scheduler.wait_steps
        for ranks in ("replicas", "data_parallel")
    ]
    assert waits == [20, 0]


@pytest.mark.parametrize("ranks", ["replicas", "data_parallel"])
def test_kv_goes_to_the_chips_of_one_rank(tmp_path, ranks):
    """Two ranks of one chip each get as many bytes, as fast, as two instances of a chip each."""
    split = scenario(
        tmp_path,
        'name = "prompts"\nstages = ["prefill"]',
        f'name = "answers"\nstages = ["decode"]\n{ranks} = 2',
    )
    result = run_scenario(split)
    assert result.summary["completed"] == 60
    assert result.summary["transfers"]["count"] == 60
    table = result.run.cluster.carrier.log.table()
    # Each way is one lane of NVLink: 500 tokens of 144 KiB, at 450 GB/s and the share of it that connectors use.
    assert table["duration_ns"].min() == table["duration_ns"][0]
    chips = {link.split(">")[1] for link in result.summary["links"]}
    assert len([chip for chip in chips if "gpu" in chip or "chip" in chip]) >= 2


@pytest.mark.parametrize(
    ("pool", "sentence"),
    [
        ('data_parallel = 2\nengine = "sarathi"', "attention ranks of 'sarathi' are not simulated"),
        ('data_parallel = 2\nengine = "vllm@0.2"', "attention ranks of 'vllm@0.2' are not simulated"),
        (
            'engine = "trtllm"\nengine_options = { attention_dp_config = { enable_balance = true } }',
            "needs attention ranks",
        ),
        ('data_parallel = 2\nstep_profile = "vidur"', "found data_parallel and step_profile"),
    ],
)
def test_ranks_that_are_not_simulated_are_refused(tmp_path, pool, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        build_pools(scenario(tmp_path, pool))


@pytest.mark.parametrize(
    ("engine", "option", "sentence"),
    [
        ("vllm", "data_parallel_size = 2", "data_parallel of the pool"),
        ("sglang", "enable_dp_attention = true", "data_parallel of the pool"),
        ("sglang", "dp_size = 2", "data_parallel of the pool"),
        ("trtllm", "enable_attention_dp = true", "data_parallel of the pool"),
    ],
)
def test_flags_of_the_layout_are_keys_of_the_pool(tmp_path, engine, option, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        scenario(tmp_path, f'engine = "{engine}"\n[pool.engine_options]\n{option}')


def test_sglang_deals_its_budgets_to_ranks():
    h100 = load_chip("h100_sxm")
    whole = SglangOptions(max_running_requests=512).filled(h100, 40_960, Layout(8))
    rank = SglangOptions(max_running_requests=512).filled(h100, 40_960, Layout(1, 1, 8))
    assert (whole.chunked_prefill_size, rank.chunked_prefill_size) == (8192, 1024)
    assert (whole.max_running_requests, rank.max_running_requests) == (512, 64)
    assert (whole.schedule_conservativeness, rank.schedule_conservativeness) == (1.0, pytest.approx(0.3))
    # Decode graphs take 4.5 MiB more for each sequence and rank, where more than 300 sequences are captured.
    assert rank.cuda_graph_max_bs_decode == 512
    memory = h100.visible_memory_bytes / 2**20
    kept = (whole.mem_fraction_static - rank.mem_fraction_static) * memory
    assert kept == pytest.approx(
        whole.reserve_mib(Layout(1, 1, 8), memory) - whole.reserve_mib(Layout(8), memory), abs=60
    )


EXPERTS = SCENARIO.replace("Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_ranks_of_a_model_with_experts_step_together(tmp_path, engine):
    path = tmp_path / "experts.toml"
    path.write_text(
        f'{EXPERTS}\n[[pool]]\nchip = "h100_sxm"\nengine = "{engine}"\ndata_parallel = 4\nexpert_parallel = 4'
    )
    result = run_scenario(load_scenario(path))
    pool, (instance,) = result.summary["pools"]["pool0"], result.run.cluster.instances
    assert result.summary["completed"] == 60
    assert isinstance(instance, LockstepRanks)
    assert (pool["chips"], len(instance.cores)) == (4, 4)
    # What one rank does lasts as long as the step of all.
    steps = [int(core.log.table()["steps"].sum()) for core in instance.cores]
    assert max(steps) <= pool["steps"] <= sum(steps)
    assert pool["mean_decode_batch"] > 0
    assert 0 < pool["utilisation"] <= 1
    shared = instance.prices.shared_ns
    assert all(0 < part < whole for part, whole in zip(shared[1:300], instance.prices.token_ns[1:300], strict=True))


def test_runs_of_steps_of_ranks_change_no_number_of_a_summary(tmp_path):
    path = tmp_path / "experts.toml"
    pool = 'chip = "h100_sxm"\nengine = "trtllm"\ndata_parallel = 2'
    waits = "engine_options = { attention_dp_config = { enable_balance = true, batching_wait_iters = 2 } }"
    path.write_text(f"{EXPERTS}\n[[pool]]\n{pool}\n{waits}")
    found = [run_scenario(load_scenario(path), macro_steps=macro).summary for macro in (True, False)]
    for name in ("mean_ttft_ms", "p99_itl_ms", "mean_tpot_ms", "duration", "steps", "energy_wh"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-12), name
    assert found[0]["events"] < found[1]["events"]
