"""Every shipped scenario runs, keeps its laws, and gives its golden summary; real traces run whole."""

from __future__ import annotations

import json

import pytest
from goldens import FOLDER, SCENARIOS, missing_trace, summary_of

from perfdb.estimate import Origin
from perfdb.tables import installed_root
from simulator.run import run_scenario
from simulator.scenario import load_scenario, scenario_names

REQUESTS = {"azure-conversation": 19_366, "mooncake-conversation": 12_031}


def need(name):
    if missing_trace(name):
        pytest.skip(f"the trace of {name} is not at hand: {missing_trace(name)}")
    if installed_root() is None:
        pytest.skip("the kernel tables (aiconfigurator-core) are not installed on this platform")


def same(found, expected):
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, float):
        # The last digits of means and square roots may differ between builds of numpy.
        return found == pytest.approx(expected, rel=1e-6)
    return found == expected


def test_every_shipped_scenario_has_a_golden_summary():
    """Those of papers are compared with the papers (tests/test_papers.py)."""
    assert {name for name in scenario_names() if not name.startswith("papers/")} == set(SCENARIOS)
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SCENARIOS)


def test_the_readme_shows_the_golden_latencies():
    page = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    golden = json.loads((FOLDER / "quickstart.json").read_text(encoding="utf-8"))
    for label, metric in (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("E2E", "e2el")):
        row = next(line for line in page.splitlines() if line.startswith(f"│ {label} "))
        shown = [float(cell.replace(",", "")) for cell in row.split("│")[2:7]]
        expected = [golden[f"{statistic}_{metric}_ms"] for statistic in ("mean", "p50", "p90", "p95", "p99")]
        assert shown == pytest.approx(expected, abs=0.0051), label


@pytest.mark.parametrize("name", SCENARIOS)
def test_golden_summary(name):
    need(name)
    expected = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    found = summary_of(name)
    assert same(found, expected), "summaries changed; if that is meant, run: python tests/goldens.py"
    # The law beside the golden: time is spent where its origins say, and nothing is lost.
    shares = [found[f"{origin.name.lower()}_share"] for origin in Origin]
    shares.append(found["host_share"])
    assert sum(shares) == pytest.approx(1)
    assert found["completed"] + found["failed"] == found["num_prompts"]


@pytest.mark.parametrize("overload", [1, 8])
@pytest.mark.parametrize("name", REQUESTS)
def test_real_traces_run_whole_and_lose_nothing(name, overload):
    need(name)
    result = run_scenario(load_scenario(name, SCENARIOS[name] | {"workload.rate_scale": overload}))
    summary, requests = result.summary, result.requests
    assert summary["completed"] == len(requests) == REQUESTS[name]
    assert summary["failed"] == 0
    assert summary["total_output_tokens"] == requests["output_tokens"].sum()
    if overload > 1:
        assert summary["slo_attainment"] < 0.5
        assert next(iter(summary["pools"].values()))["kv_peak"] > 0.95


@pytest.mark.parametrize("rate_scale", [1, 12])
def test_summaries_do_not_depend_on_macro_steps(rate_scale):
    need("quickstart")
    changes = {"workload.synthetic.requests": 400, "workload.rate_scale": rate_scale, "pool.0.limits.kv_blocks": 3000}
    found = []
    for macro_steps in (True, False):
        summary = run_scenario(load_scenario("quickstart", changes), macro_steps=macro_steps).summary
        found.append({key: value for key, value in summary.items() if key not in ("events", "cpu_s")})
    assert found[0] == found[1]


@pytest.mark.parametrize("blocks", [260, 20_000])
def test_summaries_of_vllm_of_2023_do_not_depend_on_macro_steps_either(blocks):
    need("quickstart")
    engine = {"pool.0.engine": "vllm@0.2", "pool.0.chip": "a100_80_sxm", "pool.0.engine_options.max_model_len": 4096}
    changes = {"workload.synthetic.requests": 300, "workload.rate_scale": 3, "pool.0.limits.kv_blocks": blocks}
    found = []
    for macro_steps in (True, False):
        summary = run_scenario(load_scenario("quickstart", engine | changes), macro_steps=macro_steps).summary
        found.append({key: value for key, value in summary.items() if key not in ("events", "cpu_s")})
    assert found[0] == found[1]
    assert (found[0]["preemptions"] > 0) == (blocks == 260)


def test_twice_the_chips_serve_an_overload_better():
    need("azure-conversation")
    changes = SCENARIOS["azure-conversation"] | {"workload.rate_scale": 4, "workload.limit": 6000}
    attained = [
        run_scenario(load_scenario("azure-conversation", changes | {"pool.0.replicas": replicas})).summary[
            "slo_attainment"
        ]
        for replicas in (2, 4)
    ]
    assert attained[0] < attained[1]
