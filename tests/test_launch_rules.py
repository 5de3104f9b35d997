"""Rules of how runs were launched: how they are read, and that those shipped say what they should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import CaseError
from simulator.engines import ENGINES
from simulator.launch_rules import FORMULAS, LaunchRules, load_rules

BLOCKS = {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.8}


def rules(*tables):
    return LaunchRules(rule=tables)


def options(facts, *tables):
    return rules(*tables).settings(facts).engine_options


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({}, True),
        ({"model": "DeepSeek-*"}, True),
        ({"model": "deepseek-r1"}, True),
        ({"model": "DeepSeek"}, False),
        ({"model": ["GLM-5", "DeepSeek-R1"]}, True),
        ({"concurrency": 16}, True),
        ({"concurrency": [8, 16]}, True),
        ({"concurrency": {"from": 16}}, True),
        ({"concurrency": {"below": 16}}, False),
        ({"concurrency": {"from": 8, "below": 17}}, True),
        ({"concurrency": {"from": 17}}, False),
        ({"date": {"from": "2026-01-21"}}, True),
        ({"date": {"below": "2026-01-21"}}, False),
        ({"date": {"from": "2026-01-22"}}, False),
        ({"chip": "h100_sxm"}, False),
        ({"isl": {"below": 9999}}, False),
        ({"model": "DeepSeek-*", "concurrency": 8}, False),
    ],
)
def test_a_rule_holds_if_all_of_it_does_and_what_is_not_known_meets_nothing(when, holds):
    facts = {"model": "DeepSeek-R1", "concurrency": 16.0, "date": "2026-01-21"}
    assert options(facts, {"when": when, "set": {"engine_options": {"a": 1}}}) == ({"a": 1} if holds else {})


def test_later_rules_count_and_tables_are_merged():
    first = {"set": {"engine_options": {"a": 1, "b": 2, "cache": {"x": 1, "y": 2}}}}
    second = {"set": {"engine_options": {"b": 3, "cache": {"y": 4}}}}
    assert options({}, first, second) == {"a": 1, "b": 3, "cache": {"x": 1, "y": 4}}


def test_a_formula_takes_the_numbers_of_the_case():
    table = {"set": {"engine_options": {"tokens": {"formula": "prompt_and_batch"}}}}
    assert options({"isl": 1024.0, "concurrency": 32.0}, table) == {"tokens": 1152}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("concurrency", 100),
        ("concurrency_per_rank", 13),
        ("two_prompts", 2048),
        ("longest", 1024 + 512 + 20),
        ("prompt_and_batch", 1216),
        ("prompt_and_batch_or_8192", 8192),
        ("recipe_batch", 48),
        ("recipe_drafts", 3),
        ("chips", 16),
    ],
)
def test_formulas(formula, value):
    facts = {"isl": 1024.0, "osl": 512.0, "concurrency": 100.0, "data_parallel": 8.0, "batch": 48.0}
    facts |= {"drafts": 3.0, "chips": 16.0}
    assert FORMULAS[formula](facts) == value


@given(st.integers(1, 10**5), st.integers(1, 4096))
def test_a_step_of_one_prompt_and_the_batch_is_the_least_multiple_of_64(prompt, users):
    found = FORMULAS["prompt_and_batch"]({"isl": float(prompt), "concurrency": float(users)})
    assert found % 64 == 0
    assert 0 <= found - (prompt + users + 64) < 64


def test_a_rule_may_say_that_a_case_is_not_replayed():
    with pytest.raises(CaseError, match=r"^for want of a reason$"):
        rules({"when": {"engine": "vllm"}, "skip": "for want of a reason"}).settings({"engine": "vllm"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[rules]]\n", "unknown key 'rules'; did you mean 'rule'?"),
        ('[[rule]]\nwhen = { gpu = "h100" }\n', "asks for 'gpu', which is not known of a case; expected one of"),
        ("[[rule]]\nset = { options = 1 }\n", "unknown key 'rule.0.set.options'; did you mean 'engine_options'?"),
        ("[[rule]\n", "not valid TOML"),
    ],
)
def test_a_wrong_rules_file_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CaseError) as caught:
        load_rules(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


def test_an_unknown_formula_is_refused_with_the_file(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nset.engine_options = { max_num_seqs = { formula = "concurency" } }\n', encoding="utf-8")
    with pytest.raises(CaseError, match=r"formula 'concurency' is unknown; did you mean 'concurrency'\?"):
        load_rules(path)


def test_a_formula_needs_its_numbers():
    table = {"set": {"engine_options": {"tokens": {"formula": "two_prompts"}}}}
    with pytest.raises(CaseError, match=r"tokens is computed by two_prompts, which needs isl"):
        options({}, table)


def test_a_file_may_add_to_the_rules_shipped(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        'extends = "shipped"\n[models]\n"Qwen3-32B*" = "mine"\n'
        '[[rule]]\nwhen = { engine = "vllm" }\nset.client = { shortest = 0.5 }\n'
    )
    found, shipped = load_rules(path), load_rules()
    assert found.rule[:-1] == shipped.rule
    assert found.settings({"engine": "vllm"}).client == {"requests_per_user": 10, "shortest": 0.5}
    assert next(name for pattern, name in found.models.items() if pattern == "Qwen3-32B*") == "mine"
    assert found.chips == shipped.chips


def deepseek(**facts):
    usual = {
        "origin": "InferenceX",
        "mode": "agg",
        "engine": "sglang",
        "model": "DeepSeek-R1",
        "chip": "b200_sxm",
        "precision": "fp8",
        "date": "2026-03-25",
        "isl": 1024.0,
        "osl": 1024.0,
        "concurrency": 8.0,
        "tensor_parallel": 8.0,
        "data_parallel": 1.0,
    }
    return load_rules().settings(usual | facts)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, {"scheduler_recv_interval": 10, "chunked_prefill_size": 32768, "max_running_requests": 128}),
        ({"concurrency": 16.0}, {"scheduler_recv_interval": 30}),
        ({"date": "2025-09-20"}, {"scheduler_recv_interval": 1}),
        ({"precision": "fp4"}, {"chunked_prefill_size": 16384, "max_running_requests": 256}),
        ({"tensor_parallel": 4.0, "isl": 8192.0}, {"max_running_requests": 32, "mem_fraction_static": 0.95}),
        ({"chip": "h200_sxm"}, {"max_running_requests": 512, "chunked_prefill_size": 32768}),
        ({"chip": "h200_sxm", "isl": 8192.0}, {"max_running_requests": 256}),
        ({"engine": "trtllm"}, {"max_num_tokens": 8192, "kv_cache_config": BLOCKS}),
        ({"engine": "trtllm", "date": "2025-11-10", "isl": 1024.0}, {"max_num_tokens": 1152}),
        ({"engine": "trtllm", "concurrency": 64.0}, {"batch_wait_timeout_iters": 40}),
        ({"engine": "trtllm", "model": "Llama-3.1-70B", "tensor_parallel": 4.0}, {"batch_wait_timeout_iters": 20}),
        ({"engine": "trtllm", "model": "Llama-3.1-70B"}, {"batch_wait_timeout_iters": None, "max_num_tokens": 16384}),
        ({"engine": "vllm", "model": "Kimi-K2.5", "precision": "int4"}, {"gpu_memory_utilization": 0.97}),
    ],
)
def test_the_rules_shipped_launch_runs_as_their_scripts_do(facts, found):
    settings = deepseek(**facts)
    assert {name: settings.engine_options.get(name) for name in found} == found


@pytest.mark.parametrize(
    ("facts", "weights", "kv_cache"),
    [
        ({}, "fp8_block", "fp8"),
        ({"precision": "fp4"}, "nvfp4", "fp8"),
        ({"chip": "h200_sxm"}, "fp8_block", None),
        ({"engine": "vllm", "model": "gpt-oss-120b", "precision": "fp4"}, "mxfp4_mxfp8", "fp8"),
        ({"engine": "trtllm", "model": "Qwen3-32B"}, "fp8", "fp8"),
        ({"engine": "trtllm", "model": "Qwen3-235B-A22B-FP8"}, "fp8_block", None),
        ({"engine": "vllm", "model": "gpt-oss-120b", "precision": "fp4", "chip": "h100_sxm"}, "mxfp4", None),
        ({"engine": "vllm", "model": "Llama-3.1-70B", "chip": "h200_sxm"}, "fp8", "fp8"),
        ({"engine": "vllm", "model": "Kimi-K2.5", "precision": "int4"}, "int4", None),
        ({"engine": "vllm", "model": "Llama-2-7b-hf", "precision": "fp16/bf16", "origin": "x"}, "bf16", None),
    ],
)
def test_the_rules_shipped_know_number_formats(facts, weights, kv_cache):
    model = deepseek(**facts).model
    assert (model["weights"], model.get("kv_cache")) == (weights, kv_cache)


@pytest.mark.parametrize(
    ("facts", "client"),
    [
        ({}, (10, 0.8)),
        ({"date": "2025-11-10"}, (50, 0.8)),
        ({"date": "2025-11-10", "osl": 8192.0}, (20, 0.8)),
        ({"origin": "elsewhere"}, (10, 1.0)),
    ],
)
def test_the_rules_shipped_know_the_clients(facts, client):
    found = deepseek(**facts).client
    assert (found["requests_per_user"], found["shortest"]) == client


def test_what_may_have_decoded_speculatively_is_not_replayed():
    with pytest.raises(CaseError, match="not known whether the run decoded speculatively"):
        deepseek(mtp_label="unknown-nomatch")


@pytest.mark.parametrize(
    ("facts", "drafts"),
    [
        ({"mtp_label": "mtp(ratio)"}, 2),
        ({"mtp_label": "mtp", "engine": "trtllm"}, 3),
        ({"mtp_label": "mtp", "engine": "trtllm", "data_parallel": 8.0}, 1),
        ({"mtp_label": "mtp", "engine": "trtllm", "data_parallel": 8.0, "mode": "disagg", "drafts": 2.0}, 2),
        ({"mtp_label": "none"}, None),
    ],
)
def test_runs_that_decoded_speculatively_draft_as_their_scripts_say(facts, drafts):
    found = deepseek(**facts).pool.get("speculation")
    assert found == (None if drafts is None else {"draft_tokens": drafts, "acceptance": 0.8})


@pytest.mark.parametrize("rule", load_rules().rule, ids=lambda rule: repr(rule.when)[:80])
def test_every_option_of_the_rules_shipped_is_one_of_its_engine(rule):
    engine = rule.when.get("engine")
    if engine is None:
        assert not rule.set.engine_options
        return
    known = {name for name, field in ENGINES[engine].options.model_fields.items() if not field.exclude}
    aliases = {"max_seq_len"} if engine == "trtllm" else set()
    assert rule.set.engine_options.keys() <= known | aliases
