"""The SGLang engine as a scenario sees it, and what its loop does to times."""

from __future__ import annotations

import pytest
from serving import Deployment, OpenLoop, linear_prices, times

from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from perfdb.layout import Layout
from simulator.run import run_scenario
from simulator.scenario import load_scenario
from simulator.sglang_options import SglangOptions

SCENARIO = """
name = "sglang"
[model]
name = "Qwen/Qwen3-32B"
[workload.synthetic]
requests = 30
arrivals = { kind = "poisson", rate_per_s = 4.0 }
prompt_tokens = { kind = "fixed", value = 500 }
output_tokens = { kind = "uniform", low = 20, high = 40 }
[[pool]]
chip = "h200_sxm"
tensor_parallel = 4
engine = "sglang"
"""


def scenario(tmp_path, more=""):
    path = tmp_path / "sglang.toml"
    path.write_text(SCENARIO + more)
    return load_scenario(path)


def test_a_scenario_runs(tmp_path):
    result = run_scenario(scenario(tmp_path))
    assert result.summary["completed"] == 30


def test_defaults_follow_the_chip():
    options = SglangOptions().filled(load_chip("h100_sxm"), 40_960, Layout(1, 1))
    assert (options.chunked_prefill_size, options.cuda_graph_max_bs_decode, options.page_size) == (8192, 256, 1)
    # 512 + 1.5 x 8192 + 1/8 GiB + 2 x 256 + 8 for each of 58 captured prompts, MiB of what nvidia-smi shows.
    memory = load_chip("h100_sxm").visible_memory_bytes / 2**20
    reserve = 512 + 1.5 * 8192 + 128 + 512 + 8 * 58
    assert options.mem_fraction_static == round((memory - reserve) / memory, 3)
    assert options.fitted(400_000, 40_960).max_running_requests == 4096
    assert options.fitted(3000, 40_960).max_running_requests == 1500


def test_more_chips_capture_larger_graphs():
    assert SglangOptions().filled(load_chip("h100_sxm"), 40_960, Layout(4, 1)).cuda_graph_max_bs_decode == 512


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("gpu_memory_utilization = 0.9", "which calls it mem_fraction_static"),
        ("max_num_seqs = 64", "which calls it max_running_requests"),
        ('schedule_policy = "shortest-prefill-first"\ndisable_radix_cache = true', "needs the radix cache"),
        ('retraction_policy = "priority"', "needs enable_priority_scheduling"),
        ("chunked_prefill_size = 8\npage_size = 16", "at least page_size 16"),
    ],
)
def test_impossible_options_are_refused(tmp_path, table, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        scenario(tmp_path, "[pool.engine_options]\n" + table)


def engine(*, overlap, declared=0, **more):
    prices = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)
    rules = {"overlap": overlap}
    return Deployment(
        policy="sglang",
        prices=prices,
        rules=rules,
        plans_ahead=overlap,
        declared_tokens=declared,
        block_tokens=1,
        **more,
    )


def test_a_request_that_ends_before_anybody_knows_takes_a_step_more():
    arrivals = OpenLoop([0, 5_200_000])
    known = engine(overlap=True).serve(arrivals, [10, 10], [5, 1])
    unknown = engine(overlap=True, declared=100).serve(arrivals, [10, 10], [5, 1])
    assert times(known)["finish_ns"][0] == times(unknown)["finish_ns"][0] == 5_000_000
    assert times(known)["admitted_ns"][1] == 5_200_000
    # Step 6 is under way, for nothing.
    assert times(unknown)["admitted_ns"][1] == 6_000_000
    assert unknown.instances[0].state.wasted > 0


def test_without_overlap_every_end_is_known():
    unknown = engine(overlap=False, declared=100).serve(OpenLoop([0, 5_200_000]), [10, 10], [5, 1])
    assert times(unknown)["admitted_ns"][1] == 5_200_000
    assert unknown.instances[0].state.wasted == 0


def test_prompts_stop_decoding():
    cluster = engine(overlap=False).serve(OpenLoop([0, 2_500_000]), [10, 10], [5, 1])
    assert times(cluster)["first_token_ns"] == [1_000_000, 4_000_000]
    assert times(cluster)["finish_ns"][0] == 6_000_000


def test_a_step_is_planned_when_the_one_before_begins():
    late = engine(overlap=True).serve(OpenLoop([0, 2_500_000]), [10, 10], [8, 1])
    assert times(late)["first_token_ns"][1] == 5_000_000


class Alike:
    """Prompts whose first 100 tokens are the same."""

    def identify(self, request) -> None:
        request.prefix, request.prefix_ends, request.named = (1,), (100,), True


@pytest.mark.parametrize("overlap", [True, False])
def test_a_prompt_is_found_while_its_request_decodes(overlap):
    deployment = engine(overlap=overlap, caching=True, identities=Alike())
    cluster = deployment.serve(OpenLoop([0, 20_000_000]), [120, 120], [80, 5])
    assert times(cluster)["cached_tokens"] == [0, 100]


def test_pages_of_one_token_cost_no_more_events():
    rows = OpenLoop([3_000_000 * i for i in range(50)]), [100] * 50, [30] * 50
    one = engine(overlap=True, caching=True, blocks=16_000).serve(*rows)
    prices = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)
    rules = {"overlap": True}
    sixteen = Deployment(policy="sglang", prices=prices, rules=rules, plans_ahead=True, caching=True).serve(*rows)
    assert times(one) == times(sixteen)
    assert one.events == sixteen.events


def test_a_blocked_queue_does_not_cut_a_run_of_steps():
    cluster = engine(overlap=True, blocks=400).serve(
        OpenLoop([0, *range(1_000_000, 41_000_000, 1_000_000)]), [200] * 41, [100] * 41
    )
    steps = sum(int(log.table()["steps"].sum()) for log in cluster.logs)
    assert len(cluster.logs[0].table()["steps"]) < steps / 8


def crowded(answer):
    """Return what two requests do that outgrow the cache together, the second with an answer so long."""
    rules = {"overlap": True, "conservativeness": 0.05}
    prices = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)
    deployment = Deployment(
        policy="sglang", prices=prices, rules=rules, plans_ahead=True, declared_tokens=100, blocks=130, block_tokens=1
    )
    return deployment.serve(OpenLoop([0, 5_000_000]), [10, 10], [80, answer])


def test_who_is_retracted_while_its_last_token_is_under_way_gets_it_anew():
    """The clients of longer answers wait for it all the same, and those of shorter ones have had it before."""
    runs = {answer: crowded(answer) for answer in range(30, 70)}
    first = min(answer for answer, run in runs.items() if times(run)["preemptions"][1])
    assert times(runs[first - 1])["finish_ns"][1] < times(runs[first])["finish_ns"][0]
    assert times(runs[first])["finish_ns"][1] > times(runs[first])["finish_ns"][0]
    # It is computed once more when the first is over, which takes the longer answer of the next a step more.
    assert times(runs[first + 1])["finish_ns"][1] == times(runs[first])["finish_ns"][1] + 1_000_000
    assert runs[first].instances[0].state.wasted == runs[first + 1].instances[0].state.wasted
