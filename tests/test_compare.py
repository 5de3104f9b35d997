"""``servesim compare``: the same arrivals for all, exact differences, complete folders, and clear refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import CANDIDATES, RESULT, SCENARIO, draw_nothing, error_sentence, servesim, servesim_process, tree
from hypothesis import given
from hypothesis import strategies as st

import simulator.export
import simulator.side_by_side
from hardware.errors import ScenarioError
from simulator.candidates import load_candidate, load_cases, load_swept
from simulator.compare import default_seeds
from simulator.intervals import paired_interval, student_t
from simulator.measures import MEASURES

KEYS = [measure.key for measure in MEASURES]
DRAW = simulator.side_by_side.plot_candidates
DRAW_LINKS = simulator.side_by_side.plot_links
APART = """
[[candidate]]
name = "apart"
set = { "pool.left.stages" = ["prefill"], "pool.right.stages" = ["decode"], "network.kv_transfer.efficiency" = 1e-3 }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with two scenarios and a file of candidates; draw no pictures, which are slow."""
    draw_nothing(monkeypatch, "plot_links", "plot_candidates")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(SCENARIO)
    (tmp_path / "b.toml").write_text(SCENARIO.replace('"small"', '"larger"').replace("replicas = 2", "replicas = 4"))
    (tmp_path / "c.toml").write_text(SCENARIO + CANDIDATES)
    return tmp_path


def compare(*arguments: str, code: int = 0) -> dict:
    result = servesim("compare", *arguments, "--jobs", "1", "--json", "--out", "out")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def refused(*arguments: str) -> str:
    before = tree(Path())
    result = servesim("compare", *arguments, "--jobs", "1")
    assert tree(Path()) == before
    return error_sentence(result.exit_code, result.stdout, result.stderr)


# --- laws --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", ["1", "3"])
def test_a_candidate_compared_with_itself_differs_by_exactly_nothing(folder: Path, seeds: str) -> None:
    (folder / "same.toml").write_text(SCENARIO)
    first, second = compare("a.toml", "same.toml", "--seeds", seeds)["candidates"]
    assert first["mean"] == second["mean"]
    width = None if seeds == "1" else 0.0
    assert second["difference"] == {key: {"mean": 0.0, "half_width": width} for key in KEYS}


def test_candidates_see_the_same_arrivals() -> None:
    compare("a.toml", "b.toml", "--seeds", "2")
    tables = [pd.read_parquet(f"out/candidates/{name}/requests.parquet") for name in ("small", "larger")]
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        pd.testing.assert_series_equal(tables[0][column], tables[1][column])
    assert not tables[0]["decode_instance"].equals(tables[1]["decode_instance"])
    points = pd.read_parquet("out/points.parquet")
    totals = points.pivot_table(index="seed", columns="candidate", values="total_input_tokens")
    assert (totals["small"] == totals["larger"]).all()
    assert totals["small"].nunique() == 2


def test_differences_and_intervals_are_those_of_the_pairs() -> None:
    content = compare("a.toml", "b.toml", "--seeds", "3")
    points = pd.read_parquet("out/points.parquet")
    small, larger = (points[points["candidate"] == name].set_index("seed") for name in ("small", "larger"))
    assert list(small.index) == content["seeds"] == [7, 8, 9]
    for key in KEYS:
        pairs = larger[key] - small[key]
        found = content["candidates"][1]["difference"][key]
        assert found["mean"] == pytest.approx(pairs.mean())
        # 4.303 is Student's 97.5 % quantile of two degrees of freedom, as every table of it has it.
        assert found["half_width"] == pytest.approx(4.302653 * pairs.std() / math.sqrt(3), rel=1e-6)
        assert content["candidates"][1]["mean"][key] == pytest.approx(larger[key].mean())


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (29, 2.0452), (99, 1.9842)]
)
def test_students_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_t(degrees) == pytest.approx(quantile, abs=5e-5)
    assert student_t(degrees, 0.9) < quantile < student_t(degrees, 0.99)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), st.floats(-100, 100))
def test_an_interval_moves_with_its_differences(differences: list[float], shift: float) -> None:
    here, there = paired_interval(differences), paired_interval([value + shift for value in differences])
    assert there.mean == pytest.approx(here.mean + shift, abs=1e-6)
    assert there.half_width == pytest.approx(here.half_width, rel=1e-6, abs=1e-6)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draws = np.random.default_rng(1).normal(3.0, 2.0, (2000, 5))
    found = [paired_interval(row.tolist()) for row in draws]
    held = sum(abs(interval.mean - 3.0) <= interval.half_width for interval in found) / len(found)
    assert held == pytest.approx(0.95, abs=0.015)


def test_a_candidate_gives_what_a_run_of_it_gives() -> None:
    compare("c.toml", "--seeds", "2")
    ran = servesim("run", "a.toml", "--set", "pool.right.replicas=4", "--set", "name='big'", "--out", "ran", "--quiet")
    assert ran.exit_code == 0
    theirs, ours = (json.loads(Path(f"{place}/summary.json").read_text()) for place in ("ran", "out/candidates/big"))
    assert ours == {key: value for key, value in theirs.items() if key != "cpu_s"}
    assert Path("ran/requests.parquet").read_bytes() == Path("out/candidates/big/requests.parquet").read_bytes()


# --- what it leaves and prints -----------------------------------------------------------------------


def test_a_comparison_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator.side_by_side, "plot_candidates", DRAW)
    result = servesim("compare", "c.toml", "--jobs", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    place = Path("results/small-compare")
    assert tree(Path("results")) == sorted(
        [
            "small-compare",
            *(
                f"small-compare/{name}"
                for name in ("candidates", "cdf.png", "compare.json", "points.parquet", "report.html")
            ),
            *(f"small-compare/candidates/{name}" for name in ("as is", "big")),
            *(f"small-compare/candidates/{name}/{file}" for name in ("as is", "big") for file in RESULT),
        ]
    )
    assert (place / "cdf.png").read_bytes().startswith(b"\x89PNG\r\n")
    points = pd.read_parquet(place / "points.parquet")
    assert list(points["candidate"]) == ["as is"] * 5 + ["big"] * 5
    assert list(points["seed"]) == [7, 8, 9, 10, 11] * 2
    assert set(KEYS) | {"chips", "utilisation", "utilisation_left", "preemptions"} <= set(points.columns)
    assert "cpu_s" not in points.columns
    for part in ("2 candidates on the same arrivals, seeds 7 to 11", "Latency, ms", "cost per", "Difference to as is"):
        assert part in result.stdout
    assert " ± " in result.stdout
    shown = servesim("show", str(place))
    assert (shown.exit_code, shown.stdout) == (0, result.stdout)


def test_the_manifest_says_which_candidate_it_was() -> None:
    compare("c.toml", "--seeds", "1")
    texts = {name: Path(f"out/candidates/{name}/manifest.json").read_text() for name in ("as is", "big")}
    manifests = {name: json.loads(text) for name, text in texts.items()}
    assert manifests["as is"]["candidate"] == {"name": "as is", "set": {}}
    assert manifests["big"]["candidate"] == {"name": "big", "set": {"pool.right.replicas": 4}}
    assert [manifests[name]["scenario"]["pool"][1]["replicas"] for name in manifests] == [2, 4]


def test_costs_follow_from_prices_and_goodput() -> None:
    content = compare("a.toml", "b.toml", "--seeds", "1")
    points = pd.read_parquet("out/points.parquet")
    per_second = (2.5 + 3.5 * (points["chips"] - 1)) / 3600
    assert list(points["cost_per_slo_met_request"]) == pytest.approx(list(per_second / points["request_goodput"]))
    assert content["best"] == "small"


def test_without_prices_the_most_goodput_per_chip_is_best() -> None:
    result = servesim("compare", "c.toml", "--jobs", "1", "--seeds", "2", "--out", "out", "--set", "cost.chip_hour={}")
    content = json.loads(Path("out/compare.json").read_text())
    assert [candidate["mean"]["cost_per_slo_met_request"] for candidate in content["candidates"]] == [None, None]
    assert content["candidates"][1]["difference"]["cost_per_slo_met_request"] is None
    assert "n/a" in result.stdout
    assert "Best: as is, with the most goodput per chip" in result.stdout


def test_one_seed_has_no_interval_and_says_so() -> None:
    result = servesim("compare", "c.toml", "--jobs", "1", "--seeds", "1", "--out", "out")
    assert "no confidence interval" in result.stdout
    assert " ± " not in result.stdout


def test_a_trace_takes_one_seed_unless_told() -> None:
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,3\n1,20,4\n")
    trace = ("--set", "workload.trace=t.csv")
    assert compare("c.toml", *trace)["seeds"] == [7]
    told = servesim("compare", "c.toml", *trace, "--seeds", "2", "--jobs", "1", "--out", "out")
    assert "The requests of a trace are the same under every seed" in told.stdout
    assert default_seeds(load_cases(["c.toml"])[1][0].scenario) == 5


def test_missing_the_slo_everywhere_exits_3_and_leaves_a_result() -> None:
    content = compare("a.toml", "b.toml", "--seeds", "1", "--set", "slo.ttft_ms=0.001", code=3)
    assert content["best"] is None
    assert [candidate["meets_slo"] for candidate in content["candidates"]] == [False, False]
    assert servesim("show", "out").stdout.count("No candidate has an SLO attainment of 0.9.") == 1


def test_one_good_candidate_is_enough(folder: Path) -> None:
    (folder / "slow.toml").write_text(SCENARIO.replace('"small"', '"slow"').replace("h200_sxm", "a100_80_sxm"))
    points = compare("a.toml", "slow.toml", "--seeds", "1")["candidates"]
    bound = sum(candidate["mean"]["p99_tpot_ms"] for candidate in points) / 2
    content = compare("slow.toml", "a.toml", "--seeds", "1", "--set", f"slo={{tpot_ms={bound}, attainment=0.95}}")
    assert [candidate["meets_slo"] for candidate in content["candidates"]] == [False, True]
    assert content["best"] == "small"


def test_names_are_shown_as_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator.side_by_side, "plot_candidates", DRAW)
    (folder / "c.toml").write_text(SCENARIO + CANDIDATES.replace('"big"', '"[b]"').replace("as is", "$a_$"))
    result = servesim("compare", "c.toml", "--seeds", "1", "--jobs", "1", "--out", "out")
    assert result.exit_code == 0
    for part in ("│ [b]", "│ $a_$", "Difference to $a_$"):
        assert part in result.stdout


def test_a_picture_of_requests_without_tpot_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator.side_by_side, "plot_candidates", DRAW)
    compare("c.toml", "--seeds", "1", "--set", "workload.synthetic.output_tokens={kind='fixed', value=1}")
    assert Path("out/cdf.png").stat().st_size > 10_000


def test_an_earlier_comparison_is_replaced() -> None:
    compare("a.toml", "b.toml", "--seeds", "1")
    compare("c.toml", "--seeds", "1")
    assert sorted(path.name for path in Path("out/candidates").iterdir()) == ["as is", "big"]
    assert [name for name in tree(Path()) if "partial" in name] == []


def test_links_of_candidates_that_hand_over_are_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator.side_by_side, "plot_links", DRAW_LINKS)
    (folder / "c.toml").write_text(SCENARIO + CANDIDATES + APART)
    result = servesim("compare", "c.toml", "--jobs", "1", "--seeds", "2", "--out", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    found = {one["name"]: one for one in json.loads(Path("out/compare.json").read_text())["candidates"]}
    assert found["as is"]["busiest_link"] is None
    assert found["as is"]["mean"]["busiest_link_utilisation"] is None
    mean, peak = (found["apart"]["mean"][f"busiest_link_{kind}utilisation"] for kind in ("", "peak_"))
    assert 0 < mean < peak <= 1
    assert "Busiest link, mean over seeds" in result.stdout
    assert found["apart"]["busiest_link"] in result.stdout.replace("\n", "")
    assert Path("out/links.png").read_bytes().startswith(b"\x89PNG\r\n")
    # Such a folder is one of ours, and a comparison without links leaves no picture of them.
    assert "Busiest link" not in servesim("compare", "a.toml", "b.toml", "--jobs", "1", "--out", "out").stdout
    assert not Path("out/links.png").exists()


# --- candidates --------------------------------------------------------------------------------------


def test_a_candidate_may_bring_pools_of_its_own(folder: Path) -> None:
    pools = '[[candidate]]\nname = "one"\n[[candidate.set.pool]]\nname = "only"\nchip = "h200_sxm"\n'
    (folder / "c.toml").write_text(SCENARIO + CANDIDATES + pools)
    _, cases = load_cases(["c.toml"])
    assert [[pool.name for pool in case.scenario.pool] for case in cases] == [["left", "right"]] * 2 + [["only"]]


def test_the_candidates_in_the_documentation_are_read(folder: Path) -> None:
    root = Path(__file__).parents[1]
    written = (root / "docs" / "comparing.md").read_text(encoding="utf-8")
    tables = written.partition("```toml\n")[2].partition("```")[0]
    (folder / "docs.toml").write_text((root / "scenarios" / "quickstart.toml").read_text(encoding="utf-8") + tables)
    _, cases = load_cases(["docs.toml"])
    assert [len(case.scenario.pool) for case in cases] == [1, 1, 2]


def test_a_change_for_all_yields_to_that_of_a_candidate() -> None:
    _, cases = load_cases(["c.toml"], ["pool.right.replicas=3", "pool.left.replicas=2"])
    assert [[pool.replicas for pool in case.scenario.pool] for case in cases] == [[2, 3], [2, 4]]


def test_one_candidate_is_picked_and_changed() -> None:
    picked = load_candidate("c.toml", "big", {"pool.right.replicas": 5, "seed": 9})
    assert (picked.name, picked.seed, [pool.replicas for pool in picked.pool]) == ("big", 9, [1, 5])
    with pytest.raises(ScenarioError, match="there is no candidate 'bigg'; did you mean 'big'"):
        load_candidate("c.toml", "bigg")
    with pytest.raises(ScenarioError, match="there is no candidate 'big'; it has no"):
        load_candidate("a.toml", "big")
    with pytest.raises(ScenarioError, match="found 2 scenarios, expected the one to pick it from"):
        load_swept(["c.toml", "a.toml"], candidate="big")
    with pytest.raises(ScenarioError, match=r"--set pool\.rite\.replicas: there is no pool 'rite'"):
        load_candidate("c.toml", "big", {"pool.rite.replicas": 1})


def test_a_picked_candidate_runs_as_a_scenario_does() -> None:
    ran = servesim("run", "c.toml", "--candidate", "as is", "--seed", "3", "--json", "--out", "picked")
    plain = servesim("run", "a.toml", "--seed", "3", "--json", "--out", "plain")
    found, expected = (json.loads(result.stdout) for result in (ran, plain))
    for summary in (found, expected):
        del summary["cpu_s"], summary["scenario"]
    assert found == expected


def test_a_sweep_puts_one_candidate_under_load() -> None:
    arguments = ("--rate", "1:3:1", "--no-refine", "--jobs", "1", "--json", "--out", "swept")
    swept = servesim("sweep", "c.toml", "--candidate", "big", "--set", "workload.synthetic.requests=5", *arguments)
    content = json.loads(swept.stdout)
    assert content["name"] == "big"
    assert [pool["replicas"] for pool in content["scenario"]["pool"]] == [1, 4]
    assert content["scenario"]["workload"]["synthetic"]["requests"] == 5


def test_copies_of_a_file_go_by_their_file_names(folder: Path) -> None:
    (folder / "copy.toml").write_text(SCENARIO)
    title, cases = load_cases(["a.toml", "copy.toml"])
    assert (title, [case.name for case in cases]) == ("small", ["a", "copy"])


def test_workloads_that_differ_are_refused_shared_or_kept(folder: Path) -> None:
    (folder / "b.toml").write_text(SCENARIO.replace('"small"', '"b"').replace("requests = 30", "requests = 20"))
    sentence = refused("a.toml", "b.toml")
    for part in ("workload.synthetic.requests is 20 for 'b' and 30 for 'small'", "--same-workload", "--own-workloads"):
        assert part in sentence
    same = compare("a.toml", "b.toml", "--seeds", "1", "--same-workload")
    assert same["same_workload"]
    assert set(pd.read_parquet("out/points.parquet")["num_prompts"]) == {30}
    own = compare("a.toml", "b.toml", "--seeds", "1", "--own-workloads")
    assert not own["same_workload"]
    assert list(pd.read_parquet("out/points.parquet")["num_prompts"]) == [30, 20]


GOOD = '[[candidate]]\nname = "good"\n'
BAD_CANDIDATES = [
    pytest.param("", "found 0 [[candidate]] tables", "at least two", id="none"),
    pytest.param(GOOD, "found 1 [[candidate]] tables", "at least two", id="one"),
    pytest.param("[candidate]\nname = 'x'\n", "'candidate'", "expected a list", id="no list"),
    pytest.param(
        GOOD + "[[candidate]]\nnam = 'x'\n", "unknown key 'candidate.1.nam'", "mean 'name'?", id="unknown key"
    ),
    pytest.param(GOOD + "[[candidate]]\nset = {}\n", "'candidate.1.name' is missing", "c.toml", id="no name"),
    pytest.param(GOOD + "[[candidate]]\nname = 'a/b'\n", "'candidate.1.name' is 'a/b'", "without slashes", id="slash"),
    pytest.param(GOOD * 2, "two candidates are named 'good'", "names that differ", id="name twice"),
    pytest.param(GOOD + "[[candidate]]\nname = 'GOOD'\n", "two candidates are named 'GOOD'", "than case", id="case"),
    pytest.param(
        GOOD + "[[candidate]]\nname = 'x'\nset = { 'pool.left.replica' = 2 }\n",
        "c.toml with candidate 'x': unknown key 'pool.0.replica'",
        "did you mean 'replicas'?",
        id="unknown key in set",
    ),
    pytest.param(
        GOOD + "[[candidate]]\nname = 'x'\nset = { 'pool.lef.replicas' = 2 }\n",
        "c.toml: candidate 'x' set pool.lef.replicas: there is no pool 'lef'",
        "did you mean 'left'?",
        id="unknown pool",
    ),
    pytest.param(
        GOOD + "[[candidate]]\nname = 'x'\nset = { pool.left.replicas = 2 }\n",
        "'pool' is a table",
        'in quotation marks, as in { "pool.0.replicas" = 4 }',
        id="no quotation marks",
    ),
    pytest.param(
        GOOD + "[[candidate]]\nname = 'x'\nset = { seed = 2 }\n", "'seed' cannot differ", "whole file", id="seed"
    ),
    pytest.param(
        GOOD + "[[candidate]]\nname = 'x'\nset = { 'slo.ttft_ms' = 5 }\n",
        "slo.ttft_ms is 5.0 for 'x' and 1000.0 for 'good'",
        "the same SLO",
        id="another SLO",
    ),
    pytest.param(
        GOOD + "[[candidate]]\nname = 'x'\nset = { 'pool.left.tensor_parallel' = 3 }\n",
        "candidate 'x': pool.left.tensor_parallel is 3",
        "use one of 1, 2, 4",
        id="impossible",
    ),
]


@pytest.mark.parametrize(("tables", "found", "expected"), BAD_CANDIDATES)
def test_bad_candidates_are_refused(folder: Path, tables: str, found: str, expected: str) -> None:
    (folder / "c.toml").write_text(f"{SCENARIO}\n{tables}")
    result = servesim("compare", "c.toml", "--jobs", "1", "--out", "out")
    sentence = error_sentence(result.exit_code, result.stdout, result.stderr)
    assert found in sentence
    assert expected in sentence
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_help_is_light_and_names_every_option(folder: Path, command: str) -> None:
    done = servesim_process(command, "--help", cwd=folder, flags=("-X", "importtime"))
    for part in ("--set KEY=VALUE", "--seeds", "--out DIR", "--jobs", "--json", "Exit code 3"):
        assert part in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert imported & {"numpy", "pandas", "matplotlib", "pyarrow", "pydantic", "rich", "hardware"} == set()
    assert "click" in imported


def test_a_file_with_candidates_stands_alone() -> None:
    both = ("a.toml", "c.toml")
    for command in (("run", "c.toml"), ("sweep", *both, "--rate", "1:2:1"), ("compare", *both)):
        result = servesim(*command)
        sentence = error_sentence(result.exit_code, result.stdout, result.stderr)
        expected = (
            "c.toml: has [[candidate]] tables: 'servesim compare c.toml' and 'servesim sweep c.toml' read them all, "
            "--candidate NAME picks one"
        )
        assert expected in sentence


def test_one_scenario_alone_is_nothing_to_compare() -> None:
    assert "a.toml: found 0 [[candidate]] tables, expected at least two" in refused("a.toml")
    assert "two candidates are named 'a'" in refused("a.toml", "a.toml")


def put_notes() -> None:
    Path("out/notes.txt").write_text("mine")


def put_notes_deep() -> None:
    Path("out/candidates/big/notes.txt").write_text("mine")


def put_file_among_candidates() -> None:
    Path("out/candidates/notes.txt").write_text("mine")


def forge() -> None:
    Path("out/compare.json").write_text('{"servesim": "sweep"}')


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (put_notes, "notes.txt"),
        (put_notes_deep, "candidates/big/notes.txt"),
        (put_file_among_candidates, "candidates/notes.txt"),
        (forge, "candidates"),
    ],
)
def test_a_folder_with_anything_else_in_it_is_not_replaced(change: object, found: str) -> None:
    compare("c.toml", "--seeds", "1")
    change()  # type: ignore[operator]
    assert f"--out out: holds '{found}'" in refused("c.toml", "--out", "out")


def test_a_comparison_does_not_replace_a_run_nor_a_run_a_comparison() -> None:
    compare("c.toml", "--seeds", "1")
    result = servesim("run", "a.toml", "--out", "out")
    assert "--out out: holds 'candidates'" in error_sentence(result.exit_code, result.stdout, result.stderr)
    servesim("run", "a.toml", "--out", "ran", "--quiet")
    assert "--out ran: holds 'manifest.json'" in refused("c.toml", "--out", "ran")
