"""Calibrations: the file, what it changes in a pool, and what a fit finds in runs whose constants are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import error_sentence, servesim
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.catalogue import load_chip
from hardware.errors import CaseError, ScenarioError, TraceError
from perfdb.calibrated import CalibratedChain, KernelFactors, calibrated_chain
from perfdb.operators import AllReduce, Attention, Gemm
from perfdb.sources import DEFAULT_SOURCES, source_chain
from simulator.calibrate import CONSTANTS, fit
from simulator.calibration import Calibration, read_calibration
from simulator.cases import read_cases
from simulator.export import manifest
from simulator.launch_rules import load_rules
from simulator.measured import calibrated, measured_cases, read_measured
from simulator.run import run_scenario
from simulator.scenario import resolve_scenario

TRUE = Calibration.model_validate(
    {
        "host": {"step_ns": 1_500_000, "sequence_ns": 10_000},
        "front_end": {"latency_ns": 12_000_000},
        "kernels": {"per_token": 1.15, "generation_attention": 1.2},
    }
)


def scenario(rate_per_s=6.0, seed=1, requests=120, **pool):
    table = {
        "seed": seed,
        "model": {"name": "Qwen/Qwen3-8B"},
        "workload": {
            "synthetic": {
                "requests": requests,
                "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
                "prompt_tokens": {"kind": "lognormal", "mean": 1000, "sigma": 0.7, "max": 8000},
                "output_tokens": {"kind": "uniform", "low": 40, "high": 120},
            }
        },
        "pool": [{"chip": "h100_sxm", "engine": "vllm@0.15", "cost_sources": ["roofline"], **pool}],
    }
    return resolve_scenario(table, Path("here.toml"), "here.toml")


def write_bench(path, result):
    """Write what ``vllm bench serve --save-detailed`` would have of a run, in another order than sent."""
    requests = result.requests.iloc[::-1]
    gaps = [[tpot / 1e3] * (n - 1) for tpot, n in zip(requests.tpot_ms, requests.output_tokens, strict=True)]
    content = {
        "start_times": (1000 + requests.arrival_s).tolist(),
        "input_lens": requests.prompt_tokens.tolist(),
        "output_lens": requests.output_tokens.tolist(),
        "ttfts": (requests.ttft_ms / 1e3).tolist(),
        "itls": gaps,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for seed, rate in ((1, 3.0), (2, 12.0)):
        server = scenario(rate, seed)
        bench = write_bench(folder / f"bench{seed}.json", run_scenario(calibrated(server, TRUE)))
        found.append(read_measured(bench, server))
    return found


# --- the file ----------------------------------------------------------------------------------------

tables = st.fixed_dictionaries(
    {},
    optional={
        "host": st.fixed_dictionaries({}, optional={"step_ns": st.integers(0, 10**9)}),
        "front_end": st.fixed_dictionaries({}, optional={"request_ns": st.integers(0, 10**9)}),
        "kernels": st.fixed_dictionaries({}, optional={"collectives": st.floats(0.1, 10)}),
        "fit": st.fixed_dictionaries(
            {
                "runs": st.lists(st.sampled_from(["a.json", 'b "c".json', "d\\e.json", "ü.json"])).map(tuple),
                "error_before": st.floats(0, 1),
                "error_after": st.floats(0, 1),
                "uncertainty": st.dictionaries(st.sampled_from(["step_ns", "per_token"]), st.floats(0, 1e6)),
            }
        ),
    },
)


@given(tables.map(Calibration.model_validate))
def test_what_is_written_is_read_back(tmp_path_factory, calibration):
    path = tmp_path_factory.mktemp("file") / "calibration.toml"
    path.write_text(calibration.toml(), encoding="utf-8")
    assert read_calibration(path) == calibration


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("[host]\nstep = 3\n", ("unknown key 'host.step'", "step_ns")),
        ("[host]\nstep_ns = -1\n", ("'host.step_ns' is -1",)),
        ("[host]\nstep_ns = 0.5\n", ("'host.step_ns' is 0.5",)),
        ("[kernels]\nper_token = 0\n", ("'kernels.per_token' is 0",)),
        ("[kernel]\n", ("unknown key 'kernel'", "kernels")),
        ("host\n", ("not valid TOML",)),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(tmp_path, content, fragments):
    path = tmp_path / "c.toml"
    path.write_text(content)
    with pytest.raises(ScenarioError) as problem:
        scenario(calibration=str(path))
    for fragment in (str(path), *fragments):
        assert fragment in str(problem.value)


def test_a_file_that_is_not_there_is_refused_by_name():
    with pytest.raises(ScenarioError, match=r"missing\.toml: cannot be read"):
        scenario(calibration="missing.toml")


def test_a_profile_of_whole_steps_takes_no_calibration():
    with pytest.raises(ScenarioError, match="step_profile and calibration"):
        scenario(calibration={"host": {"step_ns": 1}}, step_profile="any", cost_sources=list(DEFAULT_SOURCES))


def test_a_file_is_found_beside_the_scenario_and_recorded_in_the_manifest(tmp_path):
    (tmp_path / "c.toml").write_text(TRUE.toml())
    table = scenario(requests=5).model_dump(mode="json", exclude_unset=True)
    table["pool"][0]["calibration"] = "c.toml"
    found = resolve_scenario(table, tmp_path / "s.toml", "s.toml")
    assert found.pool[0].calibration == TRUE
    recorded = manifest(run_scenario(found))["scenario"]["pool"][0]["calibration"]
    assert Calibration.model_validate(recorded) == TRUE


# --- what it changes ---------------------------------------------------------------------------------


NOTHING = {"latency_ns": 0, "request_ns": 0, "token_ns": 0, "output_ns": 0}


def alone(calibration, **pool):
    """Return TTFT and TPOT, ms, of one request on a server by itself."""
    found = run_scenario(calibrated(scenario(requests=1, **pool), Calibration.model_validate(calibration))).requests
    return found.ttft_ms[0], found.tpot_ms[0]


def test_times_of_the_host_and_the_front_end_add_to_a_lone_request():
    hosts = ({"step_ns": 0, "sequence_ns": 0}, {"step_ns": 3_000_000, "sequence_ns": 500_000})
    (first, each), (later, slower) = (alone({"host": host}) for host in hosts)
    assert slower - each == pytest.approx(3.5, abs=1e-6)
    assert later - first == pytest.approx(3.5, abs=1e-6)
    fronts = (NOTHING, NOTHING | {"latency_ns": 7_000_000, "request_ns": 2_000_000})
    (first, each), (later, same) = (alone({"front_end": front}) for front in fronts)
    assert (later - first, same - each) == pytest.approx((9.0, 0.0), abs=1e-6)


@settings(max_examples=10)
@given(st.floats(0.3, 3))
def test_kernels_of_every_kind_take_as_many_times_as_long(factor):
    kinds = ("per_token", "context_attention", "generation_attention", "collectives")
    host = {"step_ns": 0, "sequence_ns": 0}
    usual = alone({"host": host, "front_end": NOTHING}, tensor_parallel=2)
    scaled = alone({"host": host, "front_end": NOTHING, "kernels": dict.fromkeys(kinds, factor)}, tensor_parallel=2)
    assert scaled == pytest.approx(tuple(factor * time for time in usual), rel=1e-3)


def test_each_factor_multiplies_its_kind_of_kernel_alone():
    usual = source_chain(load_chip("h100_sxm"), "vllm", ("roofline",))
    chain = calibrated_chain(usual, KernelFactors(2, 3, 5, 7))
    points, tokens = np.array([1, 64, 512]), np.array([100, 1000, 4000])
    for operator, factor in ((Gemm("mlp", 4096, 4096, "bf16"), 2), (AllReduce("sum", 4096, 4), 7)):
        np.testing.assert_allclose(chain.rows(operator, points).ns, factor * usual.rows(operator, points).ns)
    for name, factor in (("context_attention", 3), ("generation_attention", 5)):
        kernel = Attention(name, 32, 8, 128, "bf16", 0, 36)
        found, known = (each.attention(kernel, points, tokens) for each in (chain, usual))
        np.testing.assert_allclose(found.ns, factor * known.ns)
        assert (found.origin == known.origin).all()
    assert isinstance(chain, CalibratedChain)
    assert calibrated_chain(usual, KernelFactors()) is usual


# --- the fit -----------------------------------------------------------------------------------------


def test_a_fit_to_two_loads_predicts_a_third(runs):
    found = fit(runs)
    record = found.calibration.fit
    assert record.runs == tuple(run.name for run in runs)
    assert record.error_before > 0.15
    assert record.error_after < 0.03
    third = scenario(7.0, 3, requests=200)
    meant, told, usual = (
        run_scenario(calibrated(third, each)).summary for each in (TRUE, found.calibration, Calibration())
    )
    for name in ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms"):
        assert told[name] == pytest.approx(meant[name], rel=0.03)
        assert abs(usual[name] / meant[name] - 1) > 0.1


def test_a_constant_that_no_run_tells_keeps_its_usual_value_and_spread(runs):
    found = fit(runs[:1])
    names = [constant.name for constant in found.constants]
    assert "collectives" not in names
    assert len(names) == len(CONSTANTS) - 1
    by_name = dict(zip(names, zip(found.usual, found.values, found.told, strict=True), strict=True))
    usual, value, told = by_name["request_ns"]
    assert told < 0.7
    assert abs(value - usual) < 1_500_000
    assert by_name["latency_ns"][2] > 0.9


def test_a_server_as_usual_is_found_to_be_so(tmp_path):
    server = scenario(4.0, 5)
    found = fit([read_measured(write_bench(tmp_path / "b.json", run_scenario(server)), server)])
    assert found.calibration.fit.error_before == found.calibration.fit.error_after == 0
    assert found.values == found.usual


# --- measured runs -----------------------------------------------------------------------------------


def test_latencies_are_those_of_the_requests_in_the_order_sent(runs):
    result = run_scenario(calibrated(runs[0].scenario, TRUE))
    np.testing.assert_allclose(runs[0].ttft_ms, result.requests.ttft_ms, rtol=1e-9)
    np.testing.assert_allclose(runs[0].tpot_ms, result.requests.tpot_ms, rtol=1e-9)
    assert runs[0].predicted(TRUE) == pytest.approx(runs[0].figures)
    assert len(runs[0].figures) == 16


GOOD = {"start_times": [0.0], "input_lens": [5], "output_lens": [3], "ttfts": [0.1], "itls": [[0.01, 0.02]]}


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"ttfts": []}, "no list 'ttfts'"),
        ({"itls": None}, "no list 'itls'"),
        ({"ttfts": [0.1, 0.2]}, "2 ttfts"),
        ({"ttfts": ["soon"]}, "no number"),
        ({"itls": [3]}, "no number"),
        ({"ttfts": [0.0]}, "ttfts above 0"),
    ],
)
def test_a_result_without_the_latency_of_every_request_is_refused(tmp_path, change, fragment):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(TraceError) as problem:
        read_measured(path, scenario())
    assert str(path) in str(problem.value)
    assert fragment in str(problem.value)


def test_a_server_on_which_requests_fail_is_refused(runs):
    server = runs[0].scenario.pool[0].model_dump(exclude_unset=True) | {"engine_options": {"max_model_len": 500}}
    with pytest.raises(TraceError, match="do not complete"):
        read_measured(runs[0].name, scenario(**server)).predicted(Calibration())


# --- measured cases ----------------------------------------------------------------------------------

RULES = """\
[models]
"Small*" = "Qwen3-8B"
[[rule]]
set.pool = { cost_sources = ["roofline"] }
"""
HEADER = "case_id,model,gpu,engine,tp,concurrency,isl_mean,osl_mean,ttft_mean_ms,tpot_mean_ms,ttft_p90_ms,e2e_mean_ms"


def write_cases(folder, *measured):
    """Write cases of closed loops, each the users and what was measured, and the rules they were launched by."""
    rows = (
        f"c{number},Small-X,h100_sxm,vllm,1,{users},512,64,{figures}"
        for number, (users, figures) in enumerate(measured)
    )
    (folder / "cases.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (folder / "rules.toml").write_text(RULES)
    return measured_cases(read_cases(folder / "cases.csv"), load_rules(folder / "rules.toml"))


def test_cases_of_one_run_are_simulated_once_and_fitted_together(tmp_path):
    unknown = write_cases(tmp_path, (4, "1,1,1,1"), (16, "1,,,1"), (4, "1,1,,1"))
    assert [len(run.cases) for run in unknown] == [2, 1]
    told = [run.predicted(TRUE) for run in unknown]
    assert list(told[0]) == ["ttft_mean c0", "ttft_p90 c0", "tpot_mean c0", "ttft_mean c2", "tpot_mean c2"]
    assert told[0]["ttft_mean c0"] == told[0]["ttft_mean c2"]
    ttft, p90, tpot, *_ = told[0].values()
    runs = write_cases(tmp_path, (4, f"{ttft},{tpot},{p90},1"), (16, f"{told[1]['ttft_mean c1']},,,1"))
    assert runs[0].predicted(TRUE) == pytest.approx(runs[0].figures)
    found = fit(runs)
    assert found.calibration.fit.error_after < found.calibration.fit.error_before / 4
    result = servesim(
        *("calibrate", str(tmp_path / "cases.csv"), "--rules", str(tmp_path / "rules.toml"), "--quiet"),
        *("--where", "concurrency=4", "-o", str(tmp_path / "c.toml")),
    )
    assert (result.exit_code, result.stdout) == (0, "")
    assert read_calibration(tmp_path / "c.toml").fit.runs == ("c0",)


def test_a_case_without_a_latency_is_refused(tmp_path):
    with pytest.raises(CaseError, match=r"cases\.csv:2: nothing to fit, expected one of ttft_mean"):
        write_cases(tmp_path, (4, ",,,5"))


# --- the command -------------------------------------------------------------------------------------

SERVER = """\
[model]
name = "Qwen/Qwen3-8B"
[workload]
trace = "bench.json"
[[pool]]
chip = "h100_sxm"
engine = "vllm@0.15"
cost_sources = ["roofline"]
"""


def test_the_command_writes_a_calibration_and_prints_the_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("server.toml").write_text(SERVER)
    write_bench(Path("bench.json"), run_scenario(calibrated(scenario(requests=40), TRUE)))
    result = servesim("calibrate", "server.toml", "-o", "c.toml")
    assert result.exit_code == 0, result.stderr
    for part in ("host.step_ns", "kernels.per_token", "bench.json", 'calibration = "c.toml"'):
        assert part in result.stdout
    first = read_calibration("c.toml")
    assert first.host.step_ns > 600_000
    again = servesim("calibrate", "bench.json", "--scenario", "server.toml", "-o", "d.toml", "--quiet")
    assert (again.exit_code, again.stdout) == (0, "")
    assert read_calibration("d.toml") == first


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("bench.json", "-o", "c.toml"), ("bench.json", "--scenario")),
        (("gone.json", "--scenario", "server.toml", "-o", "c.toml"), ("gone.json", "cannot be read")),
        (("server.toml", "-o", "nowhere/c.toml"), ("-o nowhere/c.toml", "folder that exists")),
        (("quickstart.toml", "-o", "c.toml"), ("quickstart.toml",)),
        (("bench.json", "--scenario", "gone.toml", "-o", "c.toml"), ("gone.toml",)),
    ],
)
def test_the_command_refuses_wrong_input_in_one_sentence(tmp_path, monkeypatch, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    Path("server.toml").write_text(SERVER)
    Path("bench.json").write_text(json.dumps(GOOD))
    result = servesim("calibrate", *arguments)
    sentence = error_sentence(result.exit_code, result.stdout, result.stderr)
    for fragment in fragments:
        assert fragment in sentence
    assert not Path("c.toml").exists()
