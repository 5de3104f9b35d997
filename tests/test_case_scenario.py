"""From a measured case to a scenario: lengths of the client, layouts, published limits, recorded requests."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hardware.errors import CaseError, UserError
from simulator.case_pools import case_facts, case_pools
from simulator.case_scenario import case_replay, client_lengths
from simulator.cases import Case, read_cases
from simulator.launch_rules import LaunchRules, load_rules

RULES = load_rules()


def case(texts=None, case_id="a", file="cases.csv", **numbers):
    usual = {"model": "Qwen/Qwen3-32B", "gpu": "h100_sxm", "engine": "vllm"}
    return Case(case_id, Path(file), 2, usual | (texts or {}), numbers, {"ttft_mean": 1.0})


def pool(texts=None, **numbers):
    return case_pools(case(texts, **numbers), RULES)[0][0]


def test_lengths_are_those_of_the_client_under_its_seed():
    np.random.seed(0)  # noqa: NPY002 - as the client does
    prompts = np.random.randint(int(1000 * 0.8), 1001, size=50)  # noqa: NPY002
    outputs = np.random.randint(int(333 * 0.8), 334, size=50)  # noqa: NPY002
    assert client_lengths(1000, 333, 0.8, 50) == (prompts.tolist(), outputs.tolist())
    assert 266 <= min(outputs) < max(outputs) <= 333


def test_a_closed_loop_has_so_many_requests_for_each_user():
    scenario = case_replay(
        case({"provenance": "InferenceX"}, concurrency=4, isl_mean=1024, osl_mean=64), RULES
    ).scenario
    loop = scenario.workload.closed_loop
    assert (loop.concurrency, loop.requests) == (4, 40)
    assert loop.prompt_tokens.values == tuple(client_lengths(1024, 64, 0.8, 40)[0])
    assert scenario.pool[0].engine_options.enable_prefix_caching is False


def test_elsewhere_lengths_are_fixed_and_a_published_number_of_requests_counts():
    loop = case_replay(
        case(concurrency=4, isl_mean=1024, osl_mean=64, n_requests=7), RULES
    ).scenario.workload.closed_loop
    assert (loop.requests, loop.prompt_tokens.value, loop.output_tokens.value) == (7, 1024, 64)


@pytest.mark.parametrize(
    ("numbers", "layout"),
    [
        ({"tp": 8}, {"tensor_parallel": 8}),
        ({"tp": 64, "tp_true": 8, "ep": 8}, {"tensor_parallel": 8, "expert_parallel": 8}),
        ({"tp_true": 4, "dp_true": 4, "ep_true": 16}, {"data_parallel": 4, "expert_parallel": 4}),
        ({"tp_true": 1, "dp_true": 8, "ep_true": 8}, {"data_parallel": 8, "expert_parallel": 8}),
        ({"tp": 1, "dp": 0, "ep": 0}, {}),
        ({"tp": 2, "pp": 2}, {"tensor_parallel": 2, "pipeline_parallel": 2}),
    ],
)
def test_the_layout_is_the_corrected_one(numbers, layout):
    found = pool(concurrency=1, **numbers)
    assert {name: value for name, value in found.items() if name.endswith("_parallel")} == layout


@pytest.mark.parametrize(
    ("engine", "version", "pinned"),
    [
        ("vllm", "0.12.0", "vllm@0.12"),
        ("vllm", "0.15.1 (fork with tracing)", "vllm@0.15"),
        ("vllm", "0.99.0", "vllm"),
        ("vllm (in-process)", "0.8.3", "vllm@0.8"),
        ("sglang", "0.5.9", "sglang"),
        ("trtllm", "1.2.0rc6.post2", "trtllm"),
    ],
)
def test_the_release_is_pinned_where_releases_are_told_apart(engine, version, pinned):
    assert pool({"engine": engine, "engine_version": version})["engine"] == pinned


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("vllm", {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "gpu_memory_utilization": 0.8, "block_size": 32}),
        (
            "sglang",
            {"max_running_requests": 64, "chunked_prefill_size": 2048, "mem_fraction_static": 0.8, "page_size": 32},
        ),
        ("trtllm", {"max_batch_size": 64, "max_num_tokens": 2048}),
    ],
)
def test_published_limits_count(engine, options):
    limits = {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "gpu_mem_util": 0.8, "block_size": 32}
    found = pool({"engine": engine}, kv_blocks=500, **limits)
    assert found["limits"] == {"kv_blocks": 500}
    assert {name: found["engine_options"].get(name) for name in options} == options


PUBLISHED = {"prefill_num_workers": 2, "prefill_tp_size": 4, "decode_num_workers": 1, "decode_tp_size": 1}


@pytest.mark.parametrize(
    ("texts", "numbers", "layouts"),
    [
        ({}, PUBLISHED, [(2, 4, 1), (1, 1, 1)]),
        ({}, PUBLISHED | {"decode_attention_dp_size": 8}, [(2, 4, 1), (1, 1, 8)]),
        (
            {"decode_attention_dp_size_recovered": "True", "prefill_attention_dp_size_recovered": "False"},
            PUBLISHED
            | {"prefill_num_workers_recovered": 3, "prefill_tp_size_recovered": 2}
            | {"decode_num_workers_recovered": 1, "decode_tp_size_recovered": 32},
            [(3, 2, 1), (1, 1, 32)],
        ),
    ],
)
def test_workers_of_both_stages_are_those_recovered_else_those_published(texts, numbers, layouts):
    pools, _ = case_pools(case({"mode": "disagg", **texts}, **numbers), RULES)
    assert [one["stages"] for one in pools] == [["prefill"], ["decode"]]
    found = [tuple(one.get(key, 1) for key in ("replicas", "tensor_parallel", "data_parallel")) for one in pools]
    assert found == layouts


def test_the_batch_of_a_decode_worker_is_that_of_its_recipe():
    texts = {"mode": "disagg", "engine": "trtllm", "recipe": "x/ctx1_gen4_tep8_batch24_eplb0_mtp0"}
    pools, _ = case_pools(case(texts, isl_mean=1024, osl_mean=64, concurrency=9, **PUBLISHED), RULES)
    assert pools[1]["engine_options"]["max_batch_size"] == 24
    assert pools[0]["engine_options"]["disable_overlap_scheduler"] is True


def test_the_drafts_of_a_recipe_are_those_that_are_not_none():
    recipe = "x/stp/ctx1_gen4_tep8_batch24_eplb0_mtp0.yaml|x/mtp/ctx1_gen4_tep8_batch24_eplb0_mtp3.yaml"
    assert case_facts(case({"recipe": recipe}), "gb200")["drafts"] == 3
    assert "drafts" not in case_facts(case({"recipe": "x/ctx1_gen4_tep8_batch24_eplb0_mtp0"}), "gb200")


def test_workers_that_nobody_knows_are_not_guessed():
    with pytest.raises(CaseError, match="the number of prefill workers was neither published nor can it be told"):
        case_pools(case({"mode": "disagg"}), RULES)


def test_names_are_told_by_the_rules():
    rules = LaunchRules(models={"Model-*": "Qwen3-8B"}, chips={"BIG*": "h200_sxm"})
    one = case({"model": "Org/Model-X", "gpu": "BIG 141", "precision": "fp8"}, isl_mean=10)
    assert (rules.model_name(one), rules.chip_name(one)) == ("Qwen3-8B", "h200_sxm")
    facts = case_facts(one, "h200_sxm")
    assert (facts["publisher"], facts["precision"], facts["isl"], "osl" in facts) == ("Org", "fp8", 10, False)


def test_recorded_requests_lie_beside_the_cases(tmp_path):
    with gzip.open(tmp_path / "sent.csv.gz", "wt") as stream:
        stream.write("arrival_s,isl,osl\n0,10,2\n")
    (tmp_path / "cases.csv").write_text(
        "case_id,model,gpu,engine,per_request_file,ttft_mean_ms\na,Qwen3-8B,h100_sxm,vllm,sent.csv.gz,1\n"
    )
    (one,) = read_cases(tmp_path / "cases.csv")
    assert case_replay(one, RULES).scenario.workload.trace == str(tmp_path / "sent.csv.gz")


@pytest.mark.parametrize(
    ("texts", "numbers", "sentence"),
    [
        ({}, {}, "neither concurrency nor per_request_file is given"),
        ({}, {"concurrency": 4}, "isl_mean is empty"),
        ({"gpu": "tpu"}, {"concurrency": 4, "isl_mean": 8}, "osl_mean is empty"),
        ({"engine": "tgi"}, {"concurrency": 4, "isl_mean": 8, "osl_mean": 8}, "'tgi': unknown name"),
    ],
)
def test_what_cannot_be_replayed_is_said(texts, numbers, sentence):
    with pytest.raises(UserError) as caught:
        case_replay(case(texts, **numbers), RULES)
    assert sentence in str(caught.value)
