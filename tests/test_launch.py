"""``servesim launch``: no option is dropped, every flag exists, and scripts say what was simulated."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from command import servesim
from launched import run_script

from simulator import load_scenario, simulate
from simulator.engine_options import VllmOptions
from simulator.export import write_result
from simulator.launch_bench import bench_commands, request_table, requests_jsonl
from simulator.launch_deployment import read_deployment
from simulator.launch_flags import SGLANG_FLAGS, VLLM_FLAGS, Elsewhere, Flag, option_arguments
from simulator.launch_folder import TARGETS, launch_files
from simulator.launch_scripts import _POLICIES, server_scripts
from simulator.launch_servers import sglang_arguments, trtllm_config, vllm_arguments
from simulator.router import ROUTERS
from simulator.sglang_options import SglangOptions
from simulator.trtllm_options import TrtllmOptions
from workloads.traces import read_trace

KNOWN = json.loads((Path(__file__).parent / "recorded" / "engine_flags.json").read_text())
BASE = {"workload.synthetic.requests": 20}


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """Draw no pictures, which are slow."""
    for name in ("plot_cdf", "plot_timeline"):
        monkeypatch.setattr(f"simulator.export.{name}", lambda *arguments: arguments[-1].write_bytes(b""))


@cache
def simulated(name, changes):
    return simulate(load_scenario(name, BASE | dict(changes)))


@pytest.fixture
def deployed(tmp_path):
    def make(name="quickstart", **changes):
        pool = "colocated" if name == "quickstart" else None
        keys = {
            key.replace("__", ".") if pool is None else f"pool.{pool}.{key.replace('__', '.')}": value
            for key, value in changes.items()
        }
        write_result(simulated(name, tuple(keys.items())), tmp_path / "run")
        return read_deployment(tmp_path / "run")

    return make


# --- tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "flags"), [(VllmOptions, VLLM_FLAGS), (SglangOptions, SGLANG_FLAGS)])
def test_every_option_has_a_flag_or_a_reason(options, flags):
    assert set(options.model_fields) == set(flags)


@pytest.mark.parametrize(("engine", "flags"), [("vllm", VLLM_FLAGS), ("sglang", SGLANG_FLAGS)])
def test_every_flag_is_known_to_the_parser_of_its_engine_and_takes_what_it_is_given(engine, flags):
    for flag in flags.values():
        if isinstance(flag, Flag):
            kind = "value" if flag.off is None else "switch"
            assert {name for name in (flag.name, flag.off) if name} <= set(KNOWN[engine][kind]), flag


@pytest.mark.parametrize(
    ("options", "flags", "only"), [(VllmOptions, VLLM_FLAGS, "prefill"), (SglangOptions, SGLANG_FLAGS, "decode")]
)
def test_an_option_that_is_set_is_said(options, flags, only):
    filled = options().model_dump()
    for option, flag in flags.items():
        if isinstance(flag, Elsewhere):
            continue
        for value in (True, False) if flag.off is not None else ("word", 17):
            found = list(option_arguments(flags, filled, {option: value}, role=only, ranks=2))
            words = [one.words for one in found if one.is_chosen]
            expected = [(flag.name, str(value))] if flag.off is None else [(flag.name,)] if value else [(flag.off,)]
            assert words == [one for one in expected if one != ("",)]


def test_every_router_has_a_policy_that_the_routers_know():
    for engine, policies in _POLICIES.items():
        assert set(policies) == set(ROUTERS), engine


# --- servers --------------------------------------------------------------------------------------------


def words(arguments):
    return [word for one in arguments for word in one.words]


def test_what_is_chosen_is_told_from_defaults(deployed):
    found = deployed(engine_options__max_num_seqs=99)
    by_flag = {one.words[0]: one for one in vllm_arguments(found, found.pools[0])}
    assert by_flag["--max-num-seqs"].words[1] == "99"
    assert by_flag["--max-num-seqs"].is_chosen
    assert by_flag["--tensor-parallel-size"].words[1] == "2"
    assert by_flag["--max-num-batched-tokens"].words[1] == "8192"
    assert not by_flag["--max-num-batched-tokens"].is_chosen


def test_a_release_is_not_told_what_it_does_not_know(deployed):
    found = deployed(engine="vllm@0.11")
    flags = words(vllm_arguments(found, found.pools[0]))
    assert "--max-num-seqs" in flags
    assert "--watermark" not in flags
    assert "--scheduler-reserve-full-isl" not in flags


@pytest.mark.parametrize("scenario", ["quickstart", "prefill-decode"])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_all_flags_of_a_server_are_known(deployed, scenario, engine):
    pools = ("colocated",) if scenario == "quickstart" else ("prefill", "decode")
    changes = {("" if len(pools) == 1 else f"pool__{pool}__") + "engine": engine for pool in pools}
    found = deployed(scenario, **changes)
    make = vllm_arguments if engine == "vllm" else sglang_arguments
    for pool in found.pools:
        for one in make(found, pool):
            kind = "value" if len(one.words) == 2 else "switch"
            assert one.words[0] in KNOWN[engine][kind], one


def test_attention_ranks_are_sglangs_tensor_ranks_and_its_budgets_are_for_all_of_them(deployed):
    found = deployed(engine="sglang", data_parallel=2, tensor_parallel=1, engine_options__max_running_requests=64)
    flags = words(sglang_arguments(found, found.pools[0]))
    assert flags[flags.index("--tp-size") + 1] == flags[flags.index("--dp-size") + 1] == "2"
    assert "--enable-dp-attention" in flags
    assert flags[flags.index("--max-running-requests") + 1] == "64"
    # What was simulated is a share of each rank; SGLang deals its own default.
    assert "--chunked-prefill-size" not in flags


def test_the_file_of_trtllm_has_every_option(deployed):
    found = deployed(engine="trtllm", engine_options__max_batch_size=77)
    config, own = trtllm_config(found, found.pools[0])
    renamed = {"max_model_len": "max_seq_len"}
    unset = {name for name, value in found.pools[0].filled.items() if value is None}
    wanted = {
        renamed.get(name, name)
        for name, field in TrtllmOptions.model_fields.items()
        if not field.exclude and name not in unset
    }
    assert wanted - {"attention_dp_config"} <= set(config)
    assert "max_batch_size" in own
    assert "max_num_tokens" not in own
    text = server_scripts(found)["colocated.yaml"]
    assert yaml.safe_load(text) == config
    assert re.search(r"max_batch_size: 77 +# chosen", text)
    assert re.search(r"  enable_block_reuse: true +# default", text)


# --- files ----------------------------------------------------------------------------------------------


def test_scripts_start_the_servers_that_were_simulated(deployed, tmp_path):
    found = deployed("prefill-decode")
    for name, text in launch_files(found).items():
        (tmp_path / name).write_text(text)
    prefill, decode = found.pools
    said = run_script(tmp_path, "serve-prefill.sh", "1")
    assert said[:5] == ["vllm", "serve", "Qwen/Qwen3-32B", "--port", "8101"]
    assert said[5:] == [*words(vllm_arguments(found, prefill)), "on 1"]
    said = run_script(tmp_path, "serve-decode.sh", "0")
    assert said[4:] == ["8200", *words(vllm_arguments(found, decode)), "on 2,3"]
    assert json.loads(said[said.index("--kv-transfer-config") + 1])["kv_connector"] == "NixlConnector"
    routed = run_script(tmp_path, "route.sh")
    assert routed[0] == "vllm-router"
    assert {word for word in routed if word.startswith("--")} <= {
        *KNOWN["vllm-router"]["value"],
        *KNOWN["vllm-router"]["switch"],
    }
    assert [word for word in routed if word.startswith("http")] == [
        f"http://127.0.0.1:{port}" for port in (8100, 8101, 8200)
    ]


def test_sglang_has_a_router_that_knows_where_prompts_come_from(deployed, tmp_path):
    found = deployed("prefill-decode", pool__prefill__engine="sglang", pool__decode__engine="sglang")
    for name, text in launch_files(found).items():
        (tmp_path / name).write_text(text)
    routed = run_script(tmp_path, "route.sh")
    known = {*KNOWN["sglang-router"]["value"], *KNOWN["sglang-router"]["switch"]}
    assert {word for word in routed if word.startswith("--")} <= known
    assert routed[routed.index("http://127.0.0.1:8101") + 1] == "8999"
    assert "8999" in run_script(tmp_path, "serve-prefill.sh", "1")


def test_trtllm_servers_of_both_stages_are_listed_for_its_own_router(deployed, tmp_path):
    found = deployed("prefill-decode", pool__prefill__engine="trtllm", pool__decode__engine="trtllm")
    files = launch_files(found)
    config = yaml.safe_load(files["route.yaml"])
    assert config["context_servers"]["urls"] == ["localhost:8100", "localhost:8101"]
    assert config["generation_servers"]["num_instances"] == 1
    assert yaml.safe_load(files["prefill.yaml"])["cache_transceiver_config"]["backend"] == "NIXL"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    said = run_script(tmp_path, "serve-prefill.sh", "0")
    assert said[:6] == ["trtllm-serve", "Qwen/Qwen3-32B", "--host", "0.0.0.0", "--port", "8100"]  # noqa: S104 - a flag
    assert said[6] == "--extra_llm_api_options"
    assert said[7].endswith("prefill.yaml")
    assert run_script(tmp_path, "route.sh")[:3] == ["trtllm-serve", "disaggregated", "-c"]


# --- what would verify it -------------------------------------------------------------------------------


def test_the_requests_are_those_of_the_simulation(deployed, tmp_path):
    found = deployed()
    result = simulated("quickstart", ())
    (tmp_path / "requests.jsonl").write_text(requests_jsonl(request_table(found.folder)))
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [line["timestamp"] for line in lines] == pytest.approx((result.requests["arrival_s"] * 1e3).tolist())
    assert [line["input_length"] for line in lines] == result.requests["prompt_tokens"].tolist()
    assert [line["output_length"] for line in lines] == result.requests["output_tokens"].tolist()
    hashes = [block for line in lines for block in line["hash_ids"]]
    assert len(set(hashes)) == len(hashes)
    read_trace(str(tmp_path / "requests.jsonl"))


def test_the_benchmark_asks_what_the_simulation_asked(deployed):
    found = deployed()
    command = bench_commands(found)["vllm"]
    assert {word for word in command if word.startswith("--")} <= set(KNOWN["vllm"]["bench"])
    assert command[command.index("--goodput") + 1 : command.index("--goodput") + 3] == ["ttft:1000", "tpot:40"]
    files = launch_files(found)
    assert json.loads(files["expected.json"])["p99_tpot_ms"] == found.summary["p99_tpot_ms"]
    assert f"| `p99_tpot_ms` | {found.summary['p99_tpot_ms']:,.6g} |" in files["README.md"]
    aiperf = json.loads(files["profile_export_aiperf.json"])
    for tag, metric in (("time_to_first_token", "ttft"), ("inter_token_latency", "tpot"), ("request_latency", "e2el")):
        statistics = aiperf[tag]
        assert statistics["avg"] == pytest.approx(found.summary[f"mean_{metric}_ms"])
        assert statistics["p99"] == pytest.approx(found.summary[f"p99_{metric}_ms"])
        assert statistics["min"] <= statistics["p1"] <= statistics["p99"] <= statistics["max"]
    assert aiperf["request_count"]["avg"] == found.summary["completed"]


# --- what is refused, and the command -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "target", "sentence"),
    [
        ({}, "sglang", "was simulated with vllm, not sglang"),
        ({"engine": "sarathi"}, None, "is of engine 'sarathi', which is simulated alone"),
        ({"engine": "sglang"}, "llm-d", "was simulated with sglang, not vllm"),
    ],
)
def test_what_a_target_cannot_express_is_refused_in_a_sentence(deployed, tmp_path, changes, target, sentence):
    deployed(**changes)
    options = () if target is None else ("--target", target)
    result = servesim("launch", str(tmp_path / "run"), *options, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_writes_into_a_folder_of_its_own_and_replaces_nothing_else(deployed, tmp_path):
    deployed()
    run, out = str(tmp_path / "run"), tmp_path / "run-launch"
    for _ in range(2):
        result = servesim("launch", run)
        assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == json.loads((out / "launch.json").read_text())["files"]
    assert os.access(out / "verify.sh", os.X_OK)
    (out / "notes.txt").write_text("mine")
    assert servesim("launch", run).exit_code == 2
    assert servesim("launch", str(tmp_path)).exit_code == 2


def test_every_target_can_be_asked_for():
    assert list(TARGETS) == re.findall(r"vllm|sglang|trtllm|dynamo|llm-d", servesim("launch", "--help").stdout)[:5]


# --- the engines themselves, where they are installed ---------------------------------------------------


def test_vllm_parses_what_it_is_told(deployed):
    pytest.importorskip("vllm.engine.arg_utils")
    from benchmarks.record_flags import vllm_parser

    found = deployed("prefill-decode")
    for pool in found.pools:
        parsed = vllm_parser().parse_args(["--model", found.model, *words(vllm_arguments(found, pool))])
        assert parsed.max_num_seqs == pool.filled["max_num_seqs"]
        assert parsed.tensor_parallel_size == pool.table["tensor_parallel"]


def test_sglang_parses_what_it_is_told(deployed):
    arguments = pytest.importorskip("sglang.srt.server_args")
    import argparse

    found = deployed(engine="sglang", engine_options__chunked_prefill_size=4096)
    parser = argparse.ArgumentParser()
    arguments.ServerArgs.add_cli_args(parser)
    parsed = parser.parse_args(["--model-path", found.model, *words(sglang_arguments(found, found.pools[0]))])
    assert (parsed.tp_size, parsed.chunked_prefill_size) == (2, 4096)
