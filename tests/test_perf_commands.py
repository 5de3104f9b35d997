"""``servesim perf``: what the tables hold, how far they can be trusted, and what a step costs."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from command import SCENARIO, error_sentence, servesim
from pricing import needs_tables
from test_perfdb_tables import attention_table, gemm_table, write

from perfdb.audit import audit_table, table_files
from perfdb.screening import Verdict
from perfdb.tables import find_table, installed_root
from simulator import load_scenario, simulate
from simulator.export import manifest


@pytest.fixture
def database(tmp_path):
    """Two frameworks on a chip; the first has launch time in its small projections, and one row out of the cache."""
    root = tmp_path / "systems"
    table = gemm_table(0.5)
    small = (table["n"] == 1024) & (table["m"] <= 64)
    cached = (table["n"] == 4096) & (table["k"] == 4096) & (table["m"] == 1)
    latency = table["latency"] * np.where(small, 6, np.where(cached, 0.3, 1))
    write(root, "gemm", "gemm", table | {"latency": latency})
    write(root, "gemm", "gemm", gemm_table(0.4), framework="sglang")
    write(root, "gemm", "gemm", gemm_table(0.4), version="0.9.0")
    slow = attention_table("generation_attention", (1, 4), (1, 101), lambda b, s: 9e6 * b + s)
    write(root, "attention", "generation_attention", slow)
    fast = attention_table("generation_attention", (1, 4), (1, 101), lambda b, s: 9e4 * b + s)
    write(root, "attention", "generation_attention", fast, framework="sglang")
    return tmp_path


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return str(path)


def refused(*arguments):
    found = servesim("perf", *arguments)
    return error_sentence(found.exit_code, found.stdout, found.stderr)


def words(text):
    """Return what a table says, its frame left out."""
    return " ".join(re.sub(r"[^\x20-\x7e\n]", " ", text).split())


# --- list and show -----------------------------------------------------------------------------------


def test_tables_are_listed_with_their_rows_and_the_version_that_counts(database):
    found = words(servesim("perf", "list", "--tables", str(database)).stdout)
    assert "5 kernel tables in" in found
    assert "h200_sxm gemm vllm 1.0.0* gemm 36" in found
    assert "h200_sxm gemm vllm 0.9.0 gemm 36" in found
    assert "all 116" in found
    only = words(servesim("perf", "list", "--tables", str(database), "--framework", "sglang").stdout)
    assert "2 kernel tables" in only
    assert "vllm" not in only


def test_rows_are_shown_by_value_without_what_is_the_same_in_all(database):
    options = ("show", "gemm", "--tables", str(database), "--framework", "vllm", "--where", "n=256", "--where", "k=256")
    found = words(servesim("perf", *options).stdout)
    assert "gemm of h200_sxm, vllm 1.0.0: 4 rows" in found
    assert "m latency" in found
    assert "gemm_dtype" not in found
    rows = list(csv.DictReader(io.StringIO(servesim("perf", *options, "--csv").stdout)))
    assert [row["m"] for row in rows] == ["1", "64", "1024", "8192"]
    assert {row["gemm_dtype"] for row in rows} == {"bfloat16"}
    few = words(servesim("perf", "show", "gemm", "--tables", str(database), "--limit", "2").stdout)
    assert "36 rows, the first 2" in few
    assert "0.9.0" in words(servesim("perf", "show", "gemm", "--tables", str(database), "--version", "0.9.0").stdout)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("show", "gem"), "table gem: there are no such tables in .*; did you mean 'gemm'"),
        (("list", "--chip", "h201_sxm"), "--chip h201_sxm: there are no such tables in .*; did you mean 'h200_sxm'"),
        (("list", "--framework", "orca"), "--framework orca: .*expected one of sglang, vllm"),
        (("show", "gemm", "--version", "2"), "--version 2: there is no such version of gemm"),
        (("show", "gemm", "--where", "o=1"), "--where o=1: expected COLUMN=VALUE"),
        (("show", "gemm", "--where", "n"), "--where n: expected COLUMN=VALUE"),
        (("show", "gemm", "--where", "n=7"), "--where n=7: no row has it; expected one of 1024, 256, 4096"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(database, options, sentence):
    assert re.match(sentence, refused(*options, "--tables", str(database)))


def test_a_folder_without_tables_is_refused(tmp_path):
    assert re.match(r".*: found no folder data in it; expected data/<chip>", refused("list", "--tables", str(tmp_path)))


# --- audit -------------------------------------------------------------------------------------------


def test_an_audit_counts_what_cannot_be_and_names_what_may_be(database, tmp_path):
    out = tmp_path / "audit"
    found = servesim("perf", "audit", "--tables", str(database), "--out", str(out))
    said = words(found.stdout)
    assert "h200_sxm vllm 1.0.0 gemm 36 1 6 0" in said
    assert "5 tables, 116 points: 7 cannot be and are not priced from; 4 more are far slower" in said
    tables = pd.read_csv(out / "audit.csv")
    assert tables["points"].sum() == 116
    slow = tables[tables["table"] == "generation_attention"].set_index("framework")["slower_than_siblings"]
    assert slow.to_dict() == {"sglang": 0, "vllm": 4}
    rows = pd.read_csv(out / "rows.csv")
    assert rows["reason"].value_counts().to_dict() == {"slower_than_siblings": 10, "faster_than_light": 1}
    cached = rows[rows["reason"] == "faster_than_light"].iloc[0]
    assert cached["us"] < cached["light_us"]
    assert cached["point"] == "gemm_dtype=bfloat16 n=4096 k=4096 m=1"


@needs_tables
@pytest.mark.parametrize(("chip", "worst_us"), [("h100_sxm", 60), ("h200_sxm", 60), ("b200_sxm", 170)])
def test_the_audit_finds_the_launches_in_block_fp8_projections_and_leaves_sound_tables_alone(chip, worst_us):
    root = installed_root()
    wanted = {"vllm": None, "sglang": None}
    for framework in wanted:
        path = find_table(root, chip, "gemm", framework, "gemm")
        file = next(one for one in table_files(root, chip, framework, "gemm") if one.path == path)
        wanted[framework] = audit_table(root, file)
    ours = wanted["vllm"]
    at = dict(zip(ours.columns, ours.values, strict=True))
    known = (at["gemm_dtype"] == "fp8_block") & (at["n"] == 5120) & (at["k"] == 5120) & (at["m"] <= 128)
    assert known.sum() > 20
    # One row of the H100 is a spike even above the launches.
    assert (ours.verdict[known] == Verdict.SLOWER_THAN_SIBLINGS).sum() >= known.sum() - 1
    assert (ours.verdict[known] != Verdict.SOUND).all()
    assert ours.ns[known].max() > worst_us * 1e3
    assert (at["gemm_dtype"][ours.verdict == Verdict.SLOWER_THAN_SIBLINGS] == "fp8_block").all()
    assert wanted["sglang"].count(Verdict.SLOWER_THAN_SIBLINGS) == 0
    assert (wanted["sglang"].verdict != Verdict.SOUND).mean() < 0.03


# --- price -------------------------------------------------------------------------------------------


def test_a_step_is_priced_operator_by_operator_in_each_pool(scenario):
    found = servesim("perf", "price", scenario, "--prefill", "512", "--prefill", "64@1000", "--decode", "8x100")
    said = words(found.stdout)
    assert "left: Qwen/Qwen3-8B on 1 x h100_sxm" in said
    assert "right: Qwen/Qwen3-8B on 1 x h200_sxm" in said
    assert re.search(r"mlp_in 36 [\d.,]+ [\d.,]+ [\d.]+% \d+% roofline", said)
    assert said.count("One pass over 512 tokens after 0, 64 tokens after 1,000, 8 x 100 decoded.") == 2


def test_the_lines_add_up_to_what_the_engine_pays(scenario):
    from simulator.build import build_pools
    from simulator.perf_price import parse_step, priced_pools

    loaded = load_scenario(scenario)
    prices = build_pools(loaded)[0].costs.prices
    for chunks, decode in (((), "8x100"), (("512",), None), (("512", "64@1000"), "3x999")):
        step = next(priced_pools(loaded, parse_step(chunks, decode)))
        assert sum(line.ns for line in step.lines) == pytest.approx(step.total_ns)
        rest = next(line for line in step.lines if line.name == "between_lengths")
        assert abs(rest.ns) < 0.01 * step.total_ns
        assert all(0 < line.light_ns <= line.each_ns for line in step.lines if not np.isnan(line.light_ns))
    assert next(priced_pools(loaded, parse_step((), "8x100"))).total_ns == prices.decode_ns(8, 100)


def test_a_pool_takes_the_part_that_its_stages_serve(scenario):
    changes = ("--set", 'pool.left.stages=["prefill"]', "--set", 'pool.right.stages=["decode"]')
    found = words(servesim("perf", "price", scenario, "--prefill", "512", "--decode", "8x100", *changes).stdout)
    assert "One pass over 512 tokens after 0. right:" in found
    assert found.endswith("One pass over 8 x 100 decoded.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "perf price: found neither --prefill nor --decode"),
        (("--prefill", "many"), "--prefill many: expected TOKENS or TOKENS@PAST"),
        (("--prefill", "0"), "--prefill 0: expected"),
        (("--decode", "64"), "--decode 64: expected SEQSxCONTEXT"),
        (("--prefill", "20000"), r"pool.left: the step has 20,000 tokens, expected at most [\d,]+"),
        (("--decode", "5000x10"), r"pool.left: the step has 5,000 sequences, expected at most [\d,]+"),
        (("--decode", "1x900000"), r"pool.left: the step has 900,001 tokens in one sequence, expected at most [\d,]+"),
    ],
)
def test_a_step_that_cannot_be_is_refused(scenario, options, sentence):
    assert re.match(sentence, refused("price", scenario, *options))


# --- which tables ------------------------------------------------------------------------------------


def test_a_pool_is_priced_from_the_tables_it_names_and_the_result_says_what_was_set_aside(database, scenario):
    changes = {
        "pool.left.tables": str(database),
        "pool.right.tables": str(database),
        "pool.left.chip": "h200_sxm",
        "pool.left.cost_sources": ["silicon", "borrowed", "roofline"],
        "pool.right.cost_sources": ["silicon", "roofline"],
    }
    result = simulate(load_scenario(scenario, changes))
    pools = result.summary["pools"]
    assert pools["left"]["rows_set_aside"] == 7
    assert pools["left"]["time_ms"]["borrowed"] > 0
    assert pools["right"]["time_ms"]["borrowed"] == 0
    assert 0 < result.summary["borrowed_share"] < 1
    said = manifest(result)["pools"]["left"]
    gemm = "h200_sxm/gemm/vllm/1.0.0/gemm_perf.parquet"
    assert said["rows_set_aside"][gemm] == {"rows": 36, "faster_than_light": 1, "slower_than_siblings": 6}
    assert gemm in said["tables"]
    json.dumps(said)


def test_a_folder_of_tables_that_is_none_is_said_with_its_key(scenario, tmp_path):
    found = servesim("run", scenario, "--set", f"pool.left.tables={tmp_path}", "--out", str(tmp_path / "out"))
    sentence = error_sentence(found.exit_code, found.stdout, found.stderr)
    assert sentence.startswith(f"pool.left.tables: {tmp_path}: found no folder data in it")


def test_a_pinned_engine_is_priced_from_the_tables_of_its_release(database, scenario):
    from simulator.build import build_pools

    changes = {
        "pool.left.chip": "h200_sxm",
        "pool.left.tables": str(database),
        "pool.left.cost_sources": ["silicon", "roofline"],
    }
    for engine, version in (("vllm", "1.0.0"), ("vllm@0.11", "0.9.0"), ("vllm@0.8", "0.9.0")):
        pool = build_pools(load_scenario(scenario, changes | {"pool.left.engine": engine}))[0]
        assert f"h200_sxm/gemm/vllm/{version}/gemm_perf.parquet" in pool.tables
