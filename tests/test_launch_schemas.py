"""Launch files that are not commands, against what their readers take: TensorRT-LLM, Dynamo and llm-d."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from benchmarks.record_dynamo import engine_names, flags_in
from benchmarks.record_dynamo import main as record_dynamo
from benchmarks.record_trtllm import schema_of
from hardware.errors import UserError
from simulator import load_scenario, simulate
from simulator.export import write_result
from simulator.launch_deployment import read_deployment
from simulator.launch_folder import launch_files
from simulator.launch_kubernetes import DYNAMO_RELEASE, dynamo_files, llm_d_files, model_label
from simulator.launch_scripts import server_scripts
from simulator.launch_servers import check_launchable, trtllm_config
from simulator.router import ROUTERS
from simulator.trtllm_options import TrtllmOptions

RECORDED = Path(__file__).parent / "recorded"
KNOWN = json.loads((RECORDED / "engine_flags.json").read_text())
NAMES = ("trtllm_args", "trtllm_disaggregated", "dynamo_graph", "llm_d_values")
ENGINES = ("vllm", "sglang", "trtllm")


@cache
def reader(name):
    return Draft202012Validator(json.loads((RECORDED / f"{name}.schema.json").read_text()))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Deployments of each engine, with stages apart and together."""

    def make(engine, scenario):
        pools = ("colocated",) if scenario == "quickstart" else ("prefill", "decode")
        changes = {f"pool.{pool}.engine": engine for pool in pools}
        folder = tmp_path_factory.mktemp("run")
        with pytest.MonkeyPatch.context() as patch:
            for name in ("plot_cdf", "plot_timeline"):
                patch.setattr(f"simulator.export.{name}", lambda *arguments: arguments[-1].write_bytes(b""))
            write_result(simulate(load_scenario(scenario, {"workload.synthetic.requests": 10} | changes)), folder)
        return read_deployment(folder)

    return cache(make)


def changed(deployment, number=0, **table):
    """Return a deployment with another table of a pool."""
    pools = list(deployment.pools)
    pools[number] = replace(pools[number], table=pools[number].table | table)
    return replace(deployment, pools=tuple(pools))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_is_a_schema_that_says_where_it_is_from(name):
    schema = reader(name).schema
    Draft202012Validator.check_schema(schema)
    assert schema["title"]
    assert schema["$comment"]


# --- TensorRT-LLM ---------------------------------------------------------------------------------------


def options():
    """Return tables of every option of ``trtllm-serve`` that is simulated."""
    cache_table = st.fixed_dictionaries(
        {},
        optional={
            "free_gpu_memory_fraction": st.sampled_from([0.5, 0.9]),
            "tokens_per_block": st.sampled_from([32, 64]),
            "enable_block_reuse": st.booleans(),
            "max_tokens": st.integers(1, 10**6),
            "max_gpu_total_bytes": st.sampled_from([0, 10**11]),
        },
    )
    scheduler = st.fixed_dictionaries(
        {},
        optional={
            "capacity_scheduler_policy": st.sampled_from(["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"]),
            "context_chunking_policy": st.sampled_from([None, "FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"]),
            "enable_prefix_aware_scheduling": st.booleans(),
        },
    )
    ranks = st.fixed_dictionaries(
        {},
        optional={
            "enable_balance": st.booleans(),
            "timeout_iters": st.integers(0, 99),
            "batching_wait_iters": st.integers(0, 99),
        },
    )
    return st.fixed_dictionaries(
        {"enable_chunked_prefill": st.just(value=True)},
        optional={
            "max_seq_len": st.integers(1, 10**6),
            "max_batch_size": st.integers(1, 4096),
            "max_num_tokens": st.integers(64, 10**5),
            "kv_cache_config": cache_table,
            "scheduler_config": scheduler,
            "attention_dp_config": ranks,
            "disable_overlap_scheduler": st.booleans(),
            "stream_interval": st.integers(1, 99),
            "batch_wait_timeout_ms": st.sampled_from([0.0, 2.5, 100.0]),
            "batch_wait_timeout_iters": st.integers(0, 99),
            "batch_wait_max_tokens_ratio": st.sampled_from([0.0, 0.5, 1.0]),
        },
    )


layouts = st.fixed_dictionaries(
    {
        "tensor_parallel": st.sampled_from([1, 2, 8]),
        "pipeline_parallel": st.sampled_from([1, 2]),
        "data_parallel": st.sampled_from([1, 4]),
        "expert_parallel": st.sampled_from([1, 8]),
        "speculation": st.sampled_from([None, {"draft_tokens": 2}]),
        "limits": st.fixed_dictionaries({"kv_blocks": st.sampled_from([None, 512])}),
    }
)


def test_strategies_name_every_option():
    own = {"gpu_memory_utilization", "block_size"}
    named = {"max_model_len", "enable_chunked_prefill", "kv_cache_config", "scheduler_config", "attention_dp_config"}
    named |= {"max_batch_size", "max_num_tokens", "disable_overlap_scheduler", "stream_interval"}
    named |= {"batch_wait_timeout_ms", "batch_wait_timeout_iters", "batch_wait_max_tokens_ratio"}
    assert set(TrtllmOptions.model_fields) - own == named


@settings(max_examples=200, deadline=None)
@given(
    table=options(),
    layout=layouts,
    scenario=st.sampled_from(["quickstart", "prefill-decode"]),
    cache_format=st.sampled_from(["bf16", "fp8"]),
)
def test_what_trtllm_serve_reads_is_what_its_models_take(simulated, table, layout, scenario, cache_format):
    found = simulated("trtllm", scenario)
    model = found.scenario["model"] | {"kv_cache": cache_format}
    read = TrtllmOptions.model_validate({"max_seq_len": 4096} | table)
    for pool in found.pools:
        asked = replace(
            pool,
            table=pool.table | layout,
            filled=read.model_dump(mode="json"),
            own=read.model_dump(mode="json", exclude_unset=True),
        )
        config, own = trtllm_config(replace(found, scenario=found.scenario | {"model": model}), asked)
        reader("trtllm_args").validate(config)
        assert {key.partition(".")[0] for key in own} <= {*config, "attention_dp_config"}


@pytest.mark.parametrize("router", ROUTERS)
def test_what_trtllm_serve_disaggregated_reads_is_what_it_takes(simulated, router):
    found = changed(simulated("trtllm", "prefill-decode"), router=router)
    reader("trtllm_disaggregated").validate(yaml.safe_load(server_scripts(found)["route.yaml"]))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"max_model_len": 4096}, "'max_model_len' was unexpected"),
        ({"kv_cache_config": {"block_size": 16}}, "'block_size' was unexpected"),
        ({"scheduler_config": {"context_chunking_policy": "FORCE_CHUNK"}}, "FORCE_CHUNK"),
        ({"cache_transceiver_config": {"backend": "nixl"}}, "nixl"),
        ({"enable_attention_dp": "yes"}, "is not of type 'boolean'"),
        ({"stream_interval": 0}, "0 is less than or equal to"),
    ],
)
def test_what_trtllm_serve_does_not_take_is_noticed(config, said):
    with pytest.raises(ValidationError, match=said):
        reader("trtllm_args").validate(config)


def test_a_policy_that_no_file_can_say_is_refused(simulated):
    found = simulated("trtllm", "quickstart")
    scheduler = found.pools[0].filled["scheduler_config"] | {"context_chunking_policy": "FORCE_CHUNK"}
    pool = replace(found.pools[0], filled=found.pools[0].filled | {"scheduler_config": scheduler})
    with pytest.raises(UserError, match="FORCE_CHUNK, which trtllm-serve takes from no file"):
        check_launchable(replace(found, pools=(pool,)), "trtllm", encodes=False)


SOURCE = '''
class Policy(StrEnum, metaclass=Meta):
    """Who is first."""
    FIRST = "FIRST"
    LAST = "LAST"
    def other(self): return 1

class Base(Strict):
    size: int = Field(default=1, ge=1, description="x")
    _hidden: int = PrivateAttr(default=1)

class Draft(Strict):
    kind: Literal["A", "B"] = "A"
    length: Optional[PositiveInt] = Field(default=None)

Either: TypeAlias = Annotated[Union[Draft, None], Field(discriminator="kind")]

class Root(Base):
    policy: Policy = Field(default=Policy.FIRST)
    share: float | None = None
    draft: Either = None
    sizes: Optional[List[int]] = None
    late: "bool" = False
    path: Path = None
'''


def test_a_schema_is_read_from_the_source_of_models():
    read = Draft202012Validator(schema_of(SOURCE, "Root"))
    read.validate({"size": 1, "policy": "LAST", "share": 0.5, "draft": {"kind": "B", "length": None}, "path": [1]})
    read.validate({"sizes": [1], "late": True, "share": None, "draft": None})
    for wrong in (
        {"size": 0},
        {"policy": "MIDDLE"},
        {"draft": {"kind": "C"}},
        {"draft": {"length": 0}},
        {"sizes": ["a"]},
        {"late": 1},
        {"_hidden": 1},
        {"other": 1},
    ):
        with pytest.raises(ValidationError):
            read.validate(wrong)


def test_overlap_where_only_prompts_are_computed_is_a_note(simulated):
    found = simulated("trtllm", "prefill-decode")
    assert "`disable_overlap_scheduler = true`" in launch_files(found)["README.md"]
    prefill = replace(found.pools[0], filled=found.pools[0].filled | {"disable_overlap_scheduler": True})
    told = replace(found, pools=(prefill, found.pools[1]))
    assert "disable_overlap_scheduler" not in launch_files(told)["README.md"]


# --- Dynamo ---------------------------------------------------------------------------------------------


def graph(deployment):
    return yaml.safe_load(dynamo_files(deployment)["dynamo.yaml"])


def container(component):
    return component["podTemplate"]["spec"]["containers"][0]


@pytest.mark.parametrize("scenario", ["quickstart", "prefill-decode"])
@pytest.mark.parametrize("engine", ENGINES)
def test_dynamo_gets_a_graph_that_it_takes(simulated, engine, scenario):
    found = simulated(engine, scenario)
    said = graph(found)
    reader("dynamo_graph").validate(said)
    frontend, *workers = said["spec"]["components"]
    assert [(one["type"], one["replicas"]) for one in workers] == [
        (pool.role or "worker", pool.replicas) for pool in found.pools
    ]
    assert [container(one)["resources"]["limits"]["nvidia.com/gpu"] for one in workers] == [
        str(pool.chips) for pool in found.pools
    ]
    assert container(frontend)["command"] == ["python3", "-m", "dynamo.frontend"]


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scenario", ["quickstart", "prefill-decode"])
def test_every_flag_in_a_graph_is_known_to_the_command_it_is_for(simulated, engine, scenario, router):
    frontend, *workers = graph(changed(simulated(engine, scenario), router=router))["spec"]["components"]
    dynamo = KNOWN["ai-dynamo"]
    words = container(frontend)["args"]
    assert {word for word in words if word.startswith("--")} <= set(dynamo["frontend"]["flags"])
    assert words[words.index("--router-mode") + 1] in dynamo["frontend"]["choices"]["--router-mode"]
    engines_own = set(KNOWN[engine]["value"]) | set(KNOWN[engine]["switch"]) if engine in KNOWN else set()
    known = (engines_own | {"--model"}) - set(dynamo["lacks"].get(engine, ())) | set(dynamo[engine]["flags"])
    for worker in workers:
        said = {word for word in container(worker)["args"] if word.startswith("--")}
        assert said <= known, said - known


def test_the_graph_is_for_the_release_that_was_recorded():
    dynamo = KNOWN["ai-dynamo"]
    assert dynamo["version"] == DYNAMO_RELEASE
    assert {"prefill", "decode"} <= set(dynamo["modes"])
    assert set(dynamo["engines"]) == set(ENGINES)


def test_trtllm_in_a_graph_is_told_what_its_models_take(simulated):
    for worker in graph(simulated("trtllm", "prefill-decode"))["spec"]["components"][1:]:
        words = container(worker)["args"]
        reader("trtllm_args").validate(json.loads(words[words.index("--override-engine-args") + 1]))


def test_no_two_components_share_a_name(simulated):
    found = simulated("vllm", "prefill-decode")
    pools = tuple(replace(pool, name=name) for pool, name in zip(found.pools, ("a b", "a-b"), strict=True))
    assert [one["name"] for one in graph(replace(found, pools=pools))["spec"]["components"]] == [
        "Frontend",
        "ABWorker",
        "ABWorker2",
    ]


def test_a_name_that_is_cut_is_still_one_of_kubernetes(simulated):
    found = simulated("vllm", "quickstart")
    long = replace(found, scenario=found.scenario | {"name": "x" * 49 + " and more"})
    reader("dynamo_graph").validate(graph(long))


def test_an_option_newer_than_the_engine_in_dynamos_image_is_left_out_or_refused(simulated):
    found = simulated("sglang", "quickstart")
    assert "--prefill-decode-interval-min-bs" not in container(graph(found)["spec"]["components"][1])["args"]
    pool = replace(found.pools[0], own={"prefill_decode_interval_min_bs": 4})
    with pytest.raises(UserError, match="sets --prefill-decode-interval-min-bs, which the engine of Dynamo"):
        graph(replace(found, pools=(pool,)))


@pytest.mark.parametrize("make", [dynamo_files, llm_d_files])
def test_images_for_nvidia_are_not_started_on_other_chips(simulated, make):
    found = simulated("vllm", "quickstart")
    with pytest.raises(UserError, match="for NVIDIA's chips"):
        make(replace(found, pools=(replace(found.pools[0], vendor="amd"),)))


def test_the_old_shape_of_a_graph_is_noticed():
    old = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoGraphDeployment", "metadata": {"name": "a"}}
    with pytest.raises(ValidationError):
        reader("dynamo_graph").validate(old | {"spec": {"services": {}}})


def test_flags_are_read_from_calls_that_add_them():
    flags, choices = flags_in(
        'add_argument(g, flag_name="--one", obsolete_flag="--uno", choices=["a", "b"])\n'
        'add_negatable_bool_argument(g, flag_name="--two")\n'
        'group.add_argument("-t", "--three", choices=KINDS)\n'
        'print("--four")\n'
    )
    assert flags == {"--one", "--uno", "--two", "--no-two", "--three"}
    assert choices == {"--one": ["a", "b"]}


def test_names_of_an_engine_are_read_from_its_wheel(tmp_path):
    with ZipFile(tmp_path / "engine.whl", "w") as wheel:
        wheel.writestr("vllm/engine/arg_utils.py", 'group.add_argument("--max-num-seqs", **kwargs)')
        wheel.writestr(
            "sglang/srt/arg_groups/fields/some.py", "class A:\n    max_running_requests: int = 1\n    b = 2\n"
        )
    with ZipFile(tmp_path / "engine.whl") as wheel:
        assert engine_names(wheel, "vllm") == {"--max-num-seqs"}
        assert engine_names(wheel, "sglang") == {"--max-running-requests"}


def test_dynamo_is_recorded_from_all_of_its_wheels_or_not_at_all(tmp_path, capsys):
    with ZipFile(tmp_path / "vllm-1.whl", "w"):
        pass
    assert record_dynamo([tmp_path / "vllm-1.whl"]) == 1
    assert "expected the wheels of ai-dynamo, vllm and sglang, got ['vllm']" in capsys.readouterr().err


# --- llm-d ----------------------------------------------------------------------------------------------


def values(deployment):
    return yaml.safe_load(llm_d_files(deployment)["llm-d-values.yaml"])


@pytest.mark.parametrize("scenario", ["quickstart", "prefill-decode"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_llm_d_gets_values_that_its_chart_takes(simulated, scenario, ranks):
    found = changed(simulated("vllm", scenario), number=-1, data_parallel=ranks)
    said = values(found)
    reader("llm_d_values").validate(said)
    pool = found.pools[-1]
    decode = said["decode"]["containers"][0]
    assert said["decode"]["replicas"] == pool.replicas
    assert decode["resources"]["limits"] == {"nvidia.com/gpu": str(pool.chips)}
    # The chart says these itself, from the same numbers.
    assert not {"--tensor-parallel-size", "--data-parallel-size"} & set(decode["args"])
    assert said["decode"]["parallelism"] == {
        "tensor": pool.table["tensor_parallel"],
        "data": ranks,
        "dataLocal": ranks,
        "workers": 1,
    }
    apart = scenario == "prefill-decode"
    assert said["routing"]["proxy"]["enabled"] is apart
    assert said["prefill"]["create"] is apart
    assert ("--kv-transfer-config" in decode["args"]) is apart
    assert ("env" in decode) is apart


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"routing": {"inferencePool": {"create": True}}}, "inferencePool"),
        ({"routing": {"epp": {"create": True}}}, "epp"),
        ({"decode": {"containers": [{"image": "a", "modelCommand": "serve"}]}}, "serve"),
        ({"modelArtifacts": {"name": "a", "uri": "/models/a"}}, "does not match"),
    ],
)
def test_values_that_the_chart_does_not_take_are_noticed(said, found):
    base = {"modelArtifacts": {"name": "a", "uri": "hf://a"}}
    with pytest.raises(ValidationError, match=found):
        reader("llm_d_values").validate(base | said)


@given(st.text(max_size=200))
def test_any_model_has_a_label(model):
    said = {"modelArtifacts": {"name": "a", "uri": "hf://a", "labels": {"llm-d.ai/model": model_label(model)}}}
    reader("llm_d_values").validate(said)


# --- what the page says ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "router", "target", "note"),
    [
        ("vllm", "session", "dynamo", "The router has no session; round-robin comes nearest."),
        ("vllm", "round_robin", "dynamo", None),
        ("trtllm", "least_loaded", "trtllm", None),
        ("trtllm", "random", "trtllm", "The router has no random; round_robin comes nearest."),
        ("vllm", "round_robin", "llm-d", "an InferencePool that selects `llm-d.ai/model=Qwen3-32B` finds them"),
    ],
)
def test_a_router_that_chooses_otherwise_is_named(simulated, engine, router, target, note):
    page = launch_files(changed(simulated(engine, "prefill-decode"), router=router), target)["README.md"]
    assert note in page if note else "comes nearest" not in page.replace("least_loaded", "")
