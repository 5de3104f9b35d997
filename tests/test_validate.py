"""``servesim validate``: replays, scores, skips, and the same bytes whatever the number of processes."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest
from command import error_sentence, servesim
from test_perfdb_tables import gemm_table, write

import simulator.replay
from simulator.build import build_pools
from simulator.case_scenario import Replay
from simulator.replay import ALL, figures, run_replay
from simulator.requests import build_requests
from simulator.run import run_built, simulated
from simulator.scenario import resolve_scenario

RULES = """\
[models]
"Small*" = "Qwen3-8B"
[[rule]]
set.pool = { cost_sources = ["roofline"] }
[[rule]]
when = { case_id = "again*" }
set.client = { sent_before = true }
[[rule]]
when = { case_id = "tricky" }
skip = "it is tricky"
"""
HEADER = (
    "case_id,source,model,gpu,engine,tp,concurrency,isl_mean,osl_mean,per_request_file,ttft_mean_ms,tpot_mean_ms,clean"
)
CASES = """\
a,lab,Small-X,h100_sxm,vllm,1,4,256,16,,10,5,1
b,lab,Small-X,h100_sxm,sglang,1,4,256,16,,10,5,1
twin,lab,Small-X,h100_sxm,vllm,1,4,256,16,,20,,0
absent,lab,Large,h100_sxm,vllm,1,4,256,16,,10,5,1
tricky,lab,Small-X,h100_sxm,vllm,1,4,256,16,,10,5,1
split,lab,Small-X,h100_sxm,vllm,3,4,256,16,,10,5,1
long,lab,Small-X,h100_sxm,trtllm,1,4,9000,16,,10,5,1
run/all,recorded,Small-X,h100_sxm,vllm,1,,,,sent.csv.gz,10,5,
run/stage0,recorded,Small-X,h100_sxm,vllm,1,,,,sent.csv.gz,10,5,
run/stage1,recorded,Small-X,h100_sxm,vllm,1,,,,sent.csv.gz,10,5,
run/stage2,recorded,Small-X,h100_sxm,vllm,1,,,,sent.csv.gz,10,5,
again,recorded,Small-X,h100_sxm,vllm,1,,,,sent.csv.gz,10,5,
"""
#: Six prompts in pairs: the second of each pair repeats the text of the first.
SENT = "arrival_s,isl,osl,prompt_id,stage\n" + "".join(f"{n},1600,8,{n // 2},{n // 4}\n" for n in range(6))


def filled(path):
    (path / "cases.csv").write_text(f"{HEADER}\n{CASES}")
    (path / "rules.toml").write_text(RULES)
    with gzip.open(path / "sent.csv.gz", "wt") as stream:
        stream.write(SENT)
    return path


@pytest.fixture
def folder(tmp_path):
    return filled(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a folder with a validation of every case in it, and what that printed."""
    path = filled(tmp_path_factory.mktemp("whole"))
    return path, json.loads(validated(path, "--json").stdout)


def validated(folder, *more, out="out", jobs=1):
    paths = ("--cases", str(folder / "cases.csv"), "--rules", str(folder / "rules.toml"), "--out", str(folder / out))
    result = servesim("validate", *paths, "--jobs", str(jobs), *more)
    assert result.exit_code == 0, result.stderr
    return result


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def predictions(folder):
    return {(row["case_id"], row["metric"]): float(row["predicted"]) for row in rows(folder / "predictions.csv")}


def test_every_case_is_predicted_or_skipped_with_a_sentence(whole):
    folder, _ = whole
    found = predictions(folder / "out")
    skipped = {row["case_id"]: row["reason"] for row in rows(folder / "out" / "skipped.csv")}
    assert {name for name, _ in found} == {"a", "b", "twin", "run/all", "run/stage0", "run/stage1", "again"}
    assert set(skipped) == {"absent", "tricky", "split", "long", "run/stage2"}
    assert skipped["tricky"] == "it is tricky"
    assert skipped["absent"].startswith("model.name: 'Large' is neither a preset nor a config.json")
    assert "tensor_parallel is 3, which does not divide the 32 attention heads" in skipped["split"]
    assert skipped["long"].startswith("40 of 40 requests were refused or failed")
    assert skipped["run/stage2"] == "the recorded requests name no stage2"
    assert found["a", "ttft_mean"] == found["twin", "ttft_mean"]


def test_predictions_are_those_of_a_run_of_the_scenario(folder):
    validated(folder, "--where", "case_id=a", "--quiet")
    table = {
        "model": {"name": "Qwen3-8B"},
        "workload": {
            "closed_loop": {
                "concurrency": 4,
                "requests": 40,
                "prompt_tokens": {"kind": "fixed", "value": 256},
                "output_tokens": {"kind": "fixed", "value": 16},
            }
        },
        "pool": [{"chip": "h100_sxm", "engine": "vllm", "cost_sources": ["roofline"]}],
    }
    scenario = resolve_scenario(table, folder / "x.toml", "x")
    summary = run_built(scenario, build_requests(scenario), build_pools(scenario)).summary
    found = predictions(folder / "out")
    assert found["a", "ttft_mean"] == pytest.approx(summary["mean_ttft_ms"])
    assert found["a", "tpot_mean"] == pytest.approx(summary["mean_tpot_ms"])
    assert found["a", "e2e_p99"] == pytest.approx(summary["p99_e2el_ms"])
    assert found["a", "itl_mean"] == pytest.approx(summary["mean_itl_ms"])
    assert found["a", "req_s"] == pytest.approx(summary["request_throughput"])
    assert found["a", "output_tok_s"] == pytest.approx(summary["output_throughput"])


def test_a_repeated_prompt_is_found_in_the_cache_and_so_is_one_sent_before(whole):
    found = predictions(whole[0] / "out")
    # Of six prompts the first of each pair is computed; sent before, none is.
    computed, hit = found["run/all", "ttft_p99"], found["again", "ttft_p50"]
    assert computed > hit + 20
    assert found["run/all", "ttft_mean"] == pytest.approx((computed + hit) / 2, rel=0.1)
    assert found["again", "ttft_p99"] == pytest.approx(hit, rel=0.05)


def test_stages_share_one_run_and_part_it(folder, monkeypatch):
    runs = []
    monkeypatch.setattr(simulator.replay, "simulated", lambda *args: runs.append(1) or simulated(*args))
    validated(folder, "--where", "case_id=run/all|run/stage0|run/stage1", "--quiet")
    assert len(runs) == 1
    found = predictions(folder / "out")
    parts = 4 * found["run/stage0", "e2e_mean"] + 2 * found["run/stage1", "e2e_mean"]
    assert parts == pytest.approx(6 * found["run/all", "e2e_mean"])
    assert ("run/stage0", "itl_mean") not in found


def test_the_number_of_processes_changes_no_byte(whole, folder):
    path, content = whole
    assert json.loads(validated(folder, "--json", jobs=2).stdout) == content
    names = sorted(one.name for one in (folder / "out").iterdir())
    assert {"predictions.csv", "skipped.csv", "report.json", "report.md", "ttft_mean.png", "users.png"} <= set(names)
    assert names == sorted(one.name for one in (path / "out").iterdir())
    for name in names:
        assert (folder / "out" / name).read_bytes() == (path / "out" / name).read_bytes(), name


def test_interrupted_it_goes_on_where_it_stopped(folder, monkeypatch):
    runs = []

    def counted(*args):
        runs.append(1)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return simulated(*args)

    monkeypatch.setattr(simulator.replay, "simulated", counted)
    paths = ("--cases", str(folder / "cases.csv"), "--rules", str(folder / "rules.toml"), "--out", str(folder / "out"))
    arguments = ("validate", *paths, "--where", "case_id=a|b", "--jobs", "1", "--quiet")
    assert servesim(*arguments).exit_code == 1
    assert not (folder / "out").exists()
    assert servesim(*arguments).exit_code == 0
    # The first was kept, the second is made again.
    assert len(runs) == 3
    assert {name for name, _ in predictions(folder / "out")} == {"a", "b"}


def test_the_report_scores_trusted_cases_and_all(whole):
    folder, content = whole
    found = predictions(folder / "out")
    assert (content["cases"], content["predicted"], sum(content["skipped"].values())) == (12, 7, 5)
    clean, every = (content["scores"][name]["ttft_mean"]["total"] for name in ("clean", "all"))
    assert (clean["cases"], clean["predicted"], every["cases"], every["predicted"]) == (11, 6, 12, 7)
    only = {tuple(one["group"]): one for one in content["scores"]["all"]["ttft_mean"]["source"]}
    one = only["lab", "agg", "sglang", "h100_sxm"]
    assert one["mean_ape"] == pytest.approx(abs(100 * (found["b", "ttft_mean"] / 10 - 1)))
    # The case that is not clean has no measured TPOT.
    assert content["scores"]["all"]["tpot_mean"]["total"]["cases"] == 11


def test_tables_are_printed_and_written(folder):
    printed = validated(folder, "--where", "source=lab").stdout
    assert "7 cases, 3 predicted" in printed
    assert "1 skipped: it is tricky" in printed
    shown = servesim("show", str(folder / "out")).stdout
    assert printed.startswith(shown.partition("Results:")[0])
    text = (folder / "out" / "report.md").read_text()
    assert "## ttft_mean, clean and distinct cases, by source, mode, engine, chip" in text
    assert "## tpot_mean, all cases, by engine, users" in text
    assert "| lab, agg, sglang, h100_sxm | 1 | 100% |" in text


def test_columns_that_nothing_looks_at_are_named(folder):
    (folder / "cases.csv").write_text(f"{HEADER},concurency\n{CASES.splitlines()[0]},9\n")
    result = servesim(
        *("validate", "--cases", str(folder / "cases.csv"), "--rules", str(folder / "rules.toml")),
        *("--out", str(folder / "out"), "--quiet"),
    )
    assert result.stderr == "servesim: columns that no replay looks at: concurency\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--cases", "absent.csv"), "absent.csv: cannot be read (No such file or directory)"),
        (("--cases", "cases.csv", "--where", "engin=vllm"), "did you mean 'engine'?"),
        (("--cases", "cases.csv", "--rules", "absent.toml"), "absent.toml: cannot be read"),
    ],
)
def test_wrong_input_is_one_sentence(folder, monkeypatch, arguments, sentence):
    monkeypatch.chdir(folder)
    result = servesim("validate", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("servesim: error: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_of_something_else_is_not_replaced(folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    paths = ("--cases", str(folder / "cases.csv"), "--rules", str(folder / "rules.toml"), "--out", str(folder / "out"))
    result = servesim("validate", *paths)
    assert result.exit_code == 2
    assert "thesis.txt" in result.stderr


def test_figures_are_of_the_requests_that_count(folder):
    table = {
        "model": {"name": "Qwen3-8B"},
        "workload": {"trace": str(folder / "sent.csv.gz"), "format": "csv"},
        "pool": [{"chip": "h100_sxm", "cost_sources": ["roofline"]}],
    }
    scenario = resolve_scenario(table, folder / "x.toml", "x")
    result = run_built(scenario, build_requests(scenario), build_pools(scenario))
    which = np.array([True, False, True, False, False, False])
    ttft = result.run.times.ttft_ms
    found = figures(result.run, which)
    assert found["ttft_mean"] == pytest.approx((ttft[0] + ttft[2]) / 2)
    assert found["ttft_p90"] == pytest.approx(np.percentile(ttft[[0, 2]], 90))
    finish = result.run.cluster.ledger.column("finish_ns")
    assert found["output_tok_s"] == pytest.approx(16 / ((finish[2] - 0) / 1e9))


def test_a_replay_that_fails_is_kept_as_skipped(tmp_path):
    class Kept:
        def store(self, key, summary):
            self.found = (key, summary)

    table = {
        "model": {"name": "Qwen/Qwen3-32B"},
        "workload": {"closed_loop": {"concurrency": 1, "requests": 1, "prompt_tokens": {"kind": "fixed", "value": 8},
                                     "output_tokens": {"kind": "fixed", "value": 8}}},
        "pool": [{"chip": "l4"}],
    }  # fmt: skip
    journal = Kept()
    run_replay("key", Replay(resolve_scenario(table, tmp_path / "x.toml", "x")), journal)
    key, summary = journal.found
    assert (key, list(summary)) == ("key", ["skipped"])
    assert ALL not in summary


# --- which tables ------------------------------------------------------------------------------------


def test_every_case_is_priced_from_the_tables_that_are_named(folder):
    rules = folder / "rules.toml"
    rules.write_text(rules.read_text().replace('["roofline"]', '["silicon", "roofline"]'))
    for name, utilisation in (("slow", 0.1), ("fast", 0.4)):
        write(folder / name / "systems", "gemm", "gemm", gemm_table(utilisation), system="h100_sxm")
    found = {}
    for name in ("slow", "fast"):
        tables = str(folder / name)
        options = ("--where", "case_id=a|b", "--tables", tables, "--json")
        content = json.loads(validated(folder, *options, out=f"{name}-out").stdout)
        assert content["tables"]["folder"] == str((folder / name / "systems").resolve())
        found[name] = predictions(folder / f"{name}-out"), content["tables"]["sha256"]
        assert f"2 predicted from the kernel tables in {tables}" in (folder / f"{name}-out" / "report.md").read_text()
    assert found["slow"][1] != found["fast"][1]
    assert found["slow"][0]["a", "tpot_mean"] > 2 * found["fast"][0]["a", "tpot_mean"]
    # There are tables of vLLM alone.
    assert found["slow"][0]["b", "tpot_mean"] == found["fast"][0]["b", "tpot_mean"]


def test_without_named_tables_the_report_names_none(whole):
    assert whole[1]["tables"] is None


def test_a_folder_that_holds_no_tables_is_refused(folder):
    paths = ("--cases", str(folder / "cases.csv"), "--tables", str(folder), "--out", str(folder / "out"))
    found = servesim("validate", *paths)
    sentence = error_sentence(found.exit_code, found.stdout, found.stderr)
    assert sentence.startswith(f"{folder}: found no folder data in it; expected data/<chip>/")
    assert not (folder / "out").exists()
