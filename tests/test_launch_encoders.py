"""Launch files of deployments in which some servers only encode images."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from launched import run_script

from hardware.errors import UserError
from simulator import load_scenario, simulate
from simulator.export import write_result
from simulator.launch_deployment import read_deployment
from simulator.launch_folder import launch_files

KNOWN = json.loads((Path(__file__).parent / "recorded" / "engine_flags.json").read_text())
SPLITS = {
    "E-PD": (("encode",), ("prefill", "decode")),
    "E-P-D": (("encode",), ("prefill",), ("decode",)),
    "EP-D": (("encode", "prefill"), ("decode",)),
}
SCENARIO = """
name = "images"
[model]
name = "Qwen/Qwen2.5-VL-7B-Instruct"
[workload.synthetic]
requests = 5
arrivals = { kind = "constant", rate_per_s = 2.0 }
prompt_tokens = { kind = "fixed", value = 200 }
output_tokens = { kind = "fixed", value = 20 }
images = { kind = "fixed", value = 2 }
image_size = "1280x720"
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    def make(engine, split):
        folder = tmp_path_factory.mktemp("run")
        pools = [
            f'[[pool]]\nname = "pool-{number}"\nstages = {json.dumps(stages)}\nchip = "h100_sxm"\n'
            f'engine = "{engine}"\nreplicas = {2 - number % 2}\n'
            for number, stages in enumerate(SPLITS[split])
        ]
        (folder / "images.toml").write_text(SCENARIO + "".join(pools))
        with pytest.MonkeyPatch.context() as patch:
            for name in ("plot_cdf", "plot_timeline"):
                patch.setattr(f"simulator.export.{name}", lambda *arguments: arguments[-1].write_bytes(b""))
            write_result(simulate(load_scenario(folder / "images.toml")), folder / "run")
        return read_deployment(folder / "run")

    return cache(make)


def written(deployment, folder):
    files = launch_files(deployment)
    for name, text in files.items():
        (folder / name).write_text(text)
    return files


def flags(words):
    return {word for word in words if word.startswith("--")}


def known(engine):
    return {*KNOWN[engine]["value"], *KNOWN[engine]["switch"], *KNOWN[engine].get("serve", ())}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_server_is_told_what_its_engine_knows(simulated, tmp_path, engine, split):
    found = simulated(engine, split)
    written(found, tmp_path)
    for pool in found.pools:
        said = flags(run_script(tmp_path, f"serve-{pool.name}.sh", "0"))
        assert said <= known(engine) | {"--model-path"}, said - known(engine)


@pytest.mark.parametrize("split", ["E-PD", "E-P-D"])
def test_vllms_encoders_produce_and_prompts_consume(simulated, tmp_path, split):
    found = simulated("vllm", split)
    files = written(found, tmp_path)
    roles = []
    for pool in found.pools:
        said = run_script(tmp_path, f"serve-{pool.name}.sh", "0")
        assert "--enable-request-id-headers" in said
        config = json.loads(said[said.index("--ec-transfer-config") + 1]) if "--ec-transfer-config" in said else {}
        roles.append(config.get("ec_role"))
        assert ("--mm-encoder-only" in said) is (pool.role == "encode")
        assert ("--kv-transfer-config" in said) is (split == "E-P-D" and pool.role != "encode")
    assert roles == ["ec_producer", "ec_consumer", None][: len(roles)]
    assert "proxy of vLLM's examples" in files["README.md"]
    assert "encodes nothing: send the traffic itself" in files["README.md"]


@pytest.mark.parametrize(
    ("split", "prefill", "decode"),
    [
        ("E-PD", "disable", "http://127.0.0.1:8200"),
        ("E-P-D", "http://127.0.0.1:8200", "http://127.0.0.1:8300,http://127.0.0.1:8301"),
    ],
)
def test_vllms_proxy_knows_every_server_by_its_stage(simulated, tmp_path, monkeypatch, split, prefill, decode):
    written(simulated("vllm", split), tmp_path)
    monkeypatch.setenv("VLLM_SOURCE", "/vllm")
    said = run_script(tmp_path, "route.sh")
    assert said[1] == "/vllm/examples/disaggregated/disaggregated_encoder/disagg_epd_proxy.py"
    given = dict(zip(said[2:-1:2], said[3:-1:2], strict=True))
    assert given == {
        "--host": "0.0.0.0",  # noqa: S104 - a flag
        "--port": "8000",
        "--encode-servers-urls": "http://127.0.0.1:8100,http://127.0.0.1:8101",
        "--prefill-servers-urls": prefill,
        "--decode-servers-urls": decode,
    }


@pytest.mark.parametrize("split", ["E-PD", "E-P-D"])
def test_sglangs_prompts_are_fed_by_its_encoders(simulated, tmp_path, split):
    found = simulated("sglang", split)
    written(found, tmp_path)
    encoder, prompts, *rest = (run_script(tmp_path, f"serve-{pool.name}.sh", "0") for pool in found.pools)
    assert "--encoder-only" in encoder
    assert not {"--disaggregation-mode", "--language-only", "--encoder-urls"} & set(encoder)
    first = prompts.index("--encoder-urls")
    assert prompts[first + 1 : first + 3] == ["http://127.0.0.1:8100", "http://127.0.0.1:8101"]
    assert "--language-only" in prompts
    for words in rest:
        assert not {"--encoder-only", "--language-only"} & set(words)
    routed = run_script(tmp_path, "route.sh")
    assert not [word for word in routed if ":8100" in word or ":8101" in word]
    assert ("--pd-disaggregation" in routed) is (split == "E-P-D")


def test_images_encoded_where_prompts_are_computed_need_nothing(simulated, tmp_path):
    for engine in ("vllm", "sglang"):
        found = simulated(engine, "EP-D")
        written(found, tmp_path)
        said = run_script(tmp_path, "serve-pool-0.sh", "0")
        assert not {"--ec-transfer-config", "--mm-encoder-only", "--encoder-only", "--language-only"} & set(said)
        assert run_script(tmp_path, "route.sh")[0] in {"vllm-router", "python3"}


@pytest.mark.parametrize(("engine", "target"), [("trtllm", None), ("vllm", "dynamo"), ("vllm", "llm-d")])
def test_targets_without_servers_that_encode_say_so(simulated, engine, target):
    with pytest.raises(UserError, match="pool 'pool-0' only encodes, which files of this target do not cover"):
        launch_files(simulated(engine, "E-PD"), target)


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (("encode", "prefill", "decode"), "encodes beside a pool that only encodes"),
        (("encode", "decode"), "encodes and decodes but computes no prompts"),
    ],
)
def test_splits_that_no_engine_has_are_refused(simulated, stages, sentence):
    found = simulated("vllm", "E-PD")
    other = replace(found.pools[1], table=found.pools[1].table | {"stages": list(stages)})
    with pytest.raises(UserError, match=sentence):
        launch_files(replace(found, pools=(found.pools[0], other)))
