"""``servesim search``: bounds that hold, the answer of an exhaustive search, and nothing lost when it is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from command import draw_nothing, error_sentence, servesim
from hypothesis import given
from hypothesis import strategies as st

import simulator.journal
import simulator.race
import simulator.search_folder
from perfdb.load_model import load_model
from simulator import load_scenario
from simulator.entries import LONG, Entry, entry_of, ladder_of, place_of, trial_of
from simulator.fronts import area, front
from simulator.journal import Journal
from simulator.objectives import goal_of
from simulator.parallel import LocalExecutor, run_missing
from simulator.race import Race
from simulator.screening import Look, _look
from simulator.search import Search
from simulator.search_content import front_of, search_content
from simulator.search_folder import scenario_toml
from simulator.search_space import Pruned, Unit, choices_of, stages_of, units_apart
from simulator.search_table import load_searched
from simulator.step_bounds import Bound
from simulator.traffic import describe_traffic
from simulator.trials import Trial, Verdict, highest_kept, run_trial, trial_key, under

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Priced by the roofline, so that no kernel tables are read.
SCENARIO = """\
name = "small"
[model]
name = "Qwen/Qwen3-8B"
[workload.synthetic]
requests = 400
arrivals = { kind = "poisson", rate_per_s = 8.0 }
prompt_tokens = { kind = "lognormal", mean = 1000, sigma = 0.5, max = 4000 }
output_tokens = { kind = "uniform", low = 20, high = 120 }
[slo]
ttft_ms = 250
tpot_ms = 12
[[pool]]
chip = "h100_sxm"
replicas = 4
cost_sources = ["roofline"]
engine_options = { max_model_len = 8192, max_num_seqs = 256 }
[cost]
chip_hour = { h100_sxm = 2.5 }
[search]
tensor_parallel = [1, 2]
unit_instances = 3
duration_s = 6.0
requests = 160
engine_options = { vllm = { max_num_batched_tokens = [512, 4096] } }
"""

FILES = [
    "best.json",
    "colocated.toml",
    "deployments",
    "disaggregated.toml",
    "front.json",
    "pareto.png",
    "points.parquet",
    "report.html",
    "search.json",
    "winner.toml",
]


@pytest.fixture(scope="module")
def searched_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search once, on two processes, and return the folder of the results."""
    place = tmp_path_factory.mktemp("search")
    (place / "s.toml").write_text(SCENARIO)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        draw_nothing(patch)
        patch.setattr(simulator.search_folder, "plot_front", lambda *arguments: arguments[-1].write_bytes(b""))
        done = servesim("search", "s.toml", "--jobs", "2", "--json", "--out", "out")
    assert done.exit_code == 0, done.output
    (place / "stdout").write_text(done.stdout)
    return place / "out"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a scenario; draw no pictures, which are slow."""
    draw_nothing(monkeypatch)
    monkeypatch.setattr(simulator.search_folder, "plot_front", lambda *arguments: arguments[-1].write_bytes(b""))
    # Somebody may edit a module between a kill and the resumption.
    monkeypatch.setattr(simulator.journal, "program_sha256", lambda: "as it is now")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def made(runs, work):
    return run_missing(runs, work, Journal(Path("points")))


def searched(*changes: str, objective: str | None = None):
    one = load_searched("s.toml", changes, gpus=None, objective=objective)
    goal = goal_of(one.table.objective, one.scenario, one.table.chips, describe_traffic(one.scenario))
    return one, goal


def found(*changes: str, objective: str | None = None, late=lambda _: False):
    one, goal = searched(*changes, objective=objective)
    result = Search(one, goal, made, late).run()
    return result, search_content(one, goal, result)


def search(*arguments: str, code: int = 0) -> dict:
    result = servesim("search", "s.toml", "--jobs", "1", "--json", "--out", "out", *arguments)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def refused(*arguments: str) -> str:
    result = servesim("search", "s.toml", "--jobs", "1", *arguments)
    return error_sentence(result.exit_code, result.stdout, result.stderr)


# --- bounds ------------------------------------------------------------------------------------------

#: Each makes another part of the bound the one that counts.
SITUATIONS = {
    "prompts and tokens": (),
    "tight TPOT": ("slo.tpot_ms=8.0",),
    "tight TTFT": ("slo.ttft_ms=80.0", "slo.tpot_ms=40.0"),
    "no TPOT": ("slo={ttft_ms=300.0, e2e_ms=1000.0}",),
    "end to end": ("slo={e2e_ms=1500.0}",),
    "few may miss it": ("slo.attainment=0.99",),
    "half may miss it": ("slo.attainment=0.5",),
    "little KV": ("pool.0.engine_options.gpu_memory_utilization=0.3", "slo={ttft_ms=1000.0}"),
    "short answers": ("workload.synthetic.output_tokens={kind='fixed', value=2}",),
    "a shared prefix": ("workload.synthetic.shared_prefix_tokens=2000",),
    "prompts first": ("pool.0.engine='sglang'", "pool.0.engine_options={}", "search.engine_options={}"),
    "experts": ("model.name='Qwen/Qwen3-30B-A3B'", "search.data_parallel=[1,2]"),
    "stages": ("search.tensor_parallel=[1]", "search.pipeline_parallel=[2,4]", "slo={ttft_ms=300.0, tpot_ms=40.0}"),
    "bursts": ("workload.synthetic.arrivals={kind='gamma', rate_per_s=8.0, burstiness=0.2}",),
}


#: Images are encoded by engines in their steps, or apart.
IMAGES = (
    "model.name='Qwen/Qwen2.5-VL-7B-Instruct'",
    "workload.synthetic.prompt_tokens={kind='uniform', low=50, high=400}",
    "workload.synthetic.images={kind='uniform', low=1, high=3}",
    "workload.synthetic.image_size=['1280x720', '640x480']",
    "workload.synthetic.text_only_share=0.2",
    "slo={ttft_ms=400.0, tpot_ms=15.0}",
    "search.data_parallel=[1,2]",
)
MULTIMODAL = {
    "images": (),
    "images, tight TTFT": ("slo.ttft_ms=200.0",),
    "images, prompts first": ("pool.0.engine='sglang'", "pool.0.engine_options={}", "search.engine_options={}"),
    "small images": ("workload.synthetic.image_size='224x224'",),
    "sizes that vary": ("workload.synthetic.image_size_sigma=0.5",),
    "tiles": (
        "model.name='OpenGVLab/InternVL3-8B'",
        "slo={ttft_ms=2000.0, tpot_ms=20.0}",
        "workload.synthetic.images={kind='fixed', value=1}",
    ),
    "equal images": ("workload.synthetic.image_pool=50",),
    "equal images, stored": ("workload.synthetic.image_pool=50", "network.feature_transfer={mode='store'}"),
    "dealt to all encoders": ("network.feature_transfer={shard_images=true}",),
}
SITUATIONS |= {name: (*IMAGES, *changes) for name, changes in MULTIMODAL.items()}


def units_of(one, rates) -> list[Unit]:
    """Return a unit of every ratio of every combination that is possible, split by split."""
    encodes = load_model(one.scenario.model.name).encoder is not None
    units = []
    for split in one.table.splits:
        pools = stages_of(split, encodes=encodes)
        kinds = [[choice for choice in rates if choice.pool.stages == stages] for stages in pools]
        for choices in product(*kinds):
            units += [Unit(((choices[0], 1),))] if len(choices) == 1 else units_apart(choices, one.table)
    return units


def some_of(units: list[Unit]) -> list[Unit]:
    """Return a few units of each split."""
    few = 6 // len({unit.split for unit in units})
    groups = [list(group) for _, group in groupby(units, lambda unit: unit.split)]
    return [unit for group in groups for unit in group[:: -(-len(group) // few)]]


@pytest.mark.parametrize("changes", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_no_deployment_bears_more_than_its_bound(changes):
    one, goal = searched(*changes)
    choices = choices_of(one, Pruned())
    looks = {choice: _look(Look.at(choice, one.scenario, goal.traffic)) for choice in choices}
    bounds = {choice: Bound(**look["bound"]) for choice, look in looks.items() if look["reason"] is None}
    units = units_of(one, bounds)
    assert len(units) > 3
    borne, slo = 0, one.scenario.slo
    for unit in some_of(units):
        rate = min(bounds[choice].rate_per_s * count for choice, count in unit.members)
        entry = Entry(unit, 1, rate, 0.0, rate)
        # Loads far above the bound are tried too.
        ladder = tuple(rate * 1.5 * 0.94**step for step in range(48))
        rung = LONG._replace(at_least=400)
        trial = trial_of(entry, one.scenario, goal, rung, ladder, hint=7, floor=None, allowed_s=0.3)
        verdict = Verdict.of(run_trial("x", trial, Journal(Path("points"))))
        borne += verdict.place is not None
        # A run ends before a queue that grows by a little has grown too long.
        queued_s = max(bound for bound in (slo.ttft_ms, slo.e2e_ms) if bound is not None) / 1e3
        load = 0.0 if verdict.place is None else ladder[verdict.place]
        assert load <= rate * (1 + queued_s * load / trial.requests), unit.label()
        alone = [bounds[choice].misses(one.scenario.slo.attainment) for choice, _ in unit.members]
        assert verdict.place is None or alone == [None] * len(alone), unit.label()
    assert borne > 1


# --- the answer --------------------------------------------------------------------------------------


def exhaustive(one, goal) -> dict[str, dict[str, float]]:
    """Return what every possible deployment is worth in long runs, by split."""
    worth: dict[str, dict[str, float]] = {split: {} for split in one.table.splits}
    for entry in every_entry(one, goal):
        if entry.point is not None:
            worth[entry.unit.split][entry.unit.label()] = entry.worth(goal)
    return worth


def every_entry(one, goal) -> Iterator[Entry]:
    """Yield every possible deployment, put under load in long runs."""
    choices = choices_of(one, Pruned())
    looks = {choice: _look(Look.at(choice, one.scenario, goal.traffic, speeds=goal.of_fronts)) for choice in choices}
    bounds = {choice: Bound(**look["bound"]) for choice, look in looks.items() if look["reason"] is None}
    allowed_s = one.table.duration_s / LONG.lasts
    for unit in units_of(one, bounds):
        entry = entry_of(unit, [bounds[choice] for choice, _ in unit.members], goal, one.table.gpus)
        ladder = ladder_of(entry, goal, LONG, one.table.gpus, allowed_s)
        if not entry.units or not ladder:
            continue
        hint = 0 if goal.axis == "units" else place_of(ladder, 0.5 * ladder[0])
        rung = LONG._replace(at_least=one.table.requests)
        trial = trial_of(entry, one.scenario, goal, rung, ladder, hint=hint, floor=None, allowed_s=allowed_s)
        entry.trials["long"] = (trial, Verdict.of(made({trial_key(trial): trial}, run_trial)[trial_key(trial)]))
        yield entry


FEW_WAYS = (
    "search.tensor_parallel=[1]",
    "search.data_parallel=[1]",
    "search.unit_instances=4",
    "search.duration_s=10.0",
    "search.engine_options={vllm={max_num_batched_tokens=[1024]}}",
)


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        ("goodput", ()),
        ("cost", ("slo.ttft_ms=120.0", "search.engine_options={vllm={max_num_batched_tokens=[4096]}}")),
        ("chips", ("workload.synthetic.arrivals.rate_per_s=40.0", "search.gpus=12")),
        ("goodput", ("slo.tpot_ms=7.0", "search.engine_options={}", "search.splits=['disaggregated']")),
        ("goodput", (*IMAGES, *FEW_WAYS)),
    ],
)
def test_the_answer_is_that_of_an_exhaustive_search(objective, changes):
    one, goal = searched(*changes, objective=objective)
    every = exhaustive(one, goal)
    result, content = found(*changes, objective=objective)
    for confirmed in result.confirmed:
        split = confirmed.entry.unit.split
        best = max(every[split].values())
        assert every[split][confirmed.entry.unit.label()] >= best - 0.05 * abs(best)
    assert {one.entry.unit.split for one in result.confirmed} == {split for split, all_of in every.items() if all_of}
    assert content["counts"]["simulated"] < content["counts"]["considered"]


def test_the_front_is_that_of_an_exhaustive_search_and_within_bounds():
    few = ("search.engine_options={vllm={max_num_batched_tokens=[512]}}",)
    one, goal = searched(*few, objective="pareto")
    entries = [entry for entry in every_entry(one, goal) if entry.point is not None]
    Race(one, goal, made, lambda _: False).trace(entries, LONG, goal)
    for entry in entries:
        for user, chip in entry.places(goal):
            # Answers of a run are not those of all traffic.
            assert any(user <= fast and chip <= 1.03 * most for fast, most in entry.corners), entry.unit.label()
    every = front(place for entry in entries for place in entry.places(goal))
    result, content = found(*few, objective="pareto")
    ours = front((row["tokens_per_s_per_user"], row["tokens_per_s_per_chip"]) for row in content["front"])
    # Shares of loads are few, so that fronts are compared as they are drawn, straight between their points.
    users, chips = zip(*ours[::-1], strict=True)
    for user, chip in every:
        assert np.interp(0.95 * user, users, chips, right=0.0) >= 0.9 * chip
    assert area(ours) >= 0.95 * area(every)
    assert content["counts"]["simulated"] < len(entries)
    best = max(result.confirmed, key=lambda one: area(one.entry.places(goal)))
    assert content["best"]["deployment"] == best.entry.unit.label(best.units)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.one_of(st.none(), st.integers(0, 60)))
def test_the_first_place_kept_is_found_and_no_place_is_asked_for_twice(first, hint, last, floor):
    asked: list[int] = []

    def keeps(place: int) -> bool:
        asked.append(place)
        return place >= first

    end = last if floor is None else floor
    assert highest_kept(keeps, hint=hint, last=end, only_last=floor) == (first if first <= end else None)
    assert len(asked) == len(set(asked)) <= 14
    assert all(0 <= place <= end for place in asked)


def test_a_rung_asked_for_alone_is_the_floor():
    assert highest_kept(lambda place: place >= 5, hint=3, last=4, only_last=4) is None


def test_time_that_is_up_ends_the_search_and_is_said():
    calls = iter([False] * 2 + [True] * 1000)
    result, content = found(late=lambda _: next(calls))
    assert content["stopped"] is not None
    assert result.confirmed


def test_time_that_is_short_is_shared_by_splits(monkeypatch):
    # Rounds stand for time. Colocated deployments, one at a time, and stages alone would take all of it.
    monkeypatch.setattr(simulator.race, "WAVE", 1)
    rounds = 7
    one, goal = searched()
    done = 0

    def counted(runs, work):
        nonlocal done
        done += work is run_trial
        return made(runs, work)

    result = Search(one, goal, counted, lambda share: done > share * rounds).run()
    assert result.stopped is not None
    assert {found.entry.unit.split for found in result.confirmed} == set(one.table.splits)


def test_the_front_holds_what_nothing_surpasses(searched_folder):
    content = json.loads((searched_folder / "search.json").read_text())
    rows = pd.DataFrame(content["front"])
    assert (rows["tokens_per_s_per_user"].diff().dropna() < 0).all()
    assert (rows["tokens_per_s_per_chip"].diff().dropna() > 0).all()
    points = pd.read_parquet(searched_folder / "points.parquet").query("keeps_slo and round != 'stage'")
    for row in content["front"]:
        faster = points["tokens_per_s_per_user"] > row["tokens_per_s_per_user"]
        assert not (faster & (points["tokens_per_s_per_chip"] >= row["tokens_per_s_per_chip"])).any()
    assert front_of([]) == []


# --- what is left ------------------------------------------------------------------------------------


def test_a_search_leaves_a_complete_folder_and_a_winner_that_runs(searched_folder):
    out = searched_folder
    content = json.loads((out / "search.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (out.parent / "stdout").read_text() == json.dumps(content, indent=2) + "\n"
    best = content["best"]
    assert json.loads((out / "best.json").read_text())["best"] == best
    assert json.loads((out / "front.json").read_text())["front"] == content["front"]
    rows = pd.read_parquet(out / "points.parquet")
    assert len(rows) == content["counts"]["runs"]
    assert {"stage", "short", "longer", "long", "curve"} <= set(rows["round"])
    ran = servesim("run", str(out / "winner.toml"), "--json", "--out", "again")
    assert ran.exit_code == 0
    summary = json.loads(ran.stdout)
    kept = json.loads((out / f"deployments/{best['split']}/summary.json").read_text())
    assert {key: value for key, value in summary.items() if key != "cpu_s"} == kept
    assert summary["slo_attainment"] == best["slo_attainment"] >= 0.9
    assert summary["chips"] == best["chips"] <= 4
    shown = servesim("show", str(out))
    assert shown.exit_code == 0
    assert f"Best: {best['deployment'][:20]}" in shown.stdout
    assert servesim("show", str(out), "--json").stdout == json.dumps(content, indent=2) + "\n"
    shutil.copytree(out, "copy")
    assert servesim("search", "s.toml", "--gpus", "1", "--quiet", "--jobs", "1", "--out", "copy").exit_code in {0, 3}


def test_why_others_lost_and_what_was_left_out_is_said():
    experts = ("search.data_parallel=[1,2]", "model.name='Qwen/Qwen3-30B-A3B'", "search.splits=['colocated']")
    content = search(*(argument for change in experts for argument in ("--set", change)))
    assert all(one["why"] for one in content["deployments"][1:] if one["split"] == content["best"]["split"])
    counts = content["counts"]
    assert counts["ruled_out"] == sum(one["count"] for one in content["pruned"])
    assert counts["considered"] >= counts["simulated"] + counts["bounded"]
    assert any("misses" in one["why"] for one in content["deployments"])


def test_no_deployment_that_meets_the_slo_is_exit_code_3():
    content = search("--set", "slo.ttft_ms=1.0", code=3)
    assert content["best"] is None
    assert {one["reason"] for one in content["pruned"]} == {"misses TTFT even with one request at a time"}
    assert not Path("out/winner.toml").exists()


def test_the_scenario_of_a_winner_reads_back_as_it_was():
    one, _ = searched("pool.0.router='power_of_two'", "network.kv_transfer={mode='layerwise'}", "pool.0.power_cap=0.9")
    choices = choices_of(one, Pruned())
    pair = [next(choice for choice in choices if choice.role == role) for role in ("prefill", "decode")]
    scenario = Unit(tuple((choice, 2) for choice in pair)).scenario(one.scenario, 3)
    Path("w.toml").write_text(scenario_toml(scenario))
    assert load_scenario("w.toml") == scenario
    assert [pool.power_cap for pool in scenario.pool] == [0.9, 0.9]


def test_killed_and_gone_on_a_search_ends_as_one_on_other_processes_that_was_not(searched_folder):
    program = """\
import os, signal, sys
import simulator.journal, simulator.parallel
simulator.journal.program_sha256 = lambda: "as it is now"
store, kept = simulator.journal.Journal.store, []
def counted(journal, key, summary):
    store(journal, key, summary)
    kept.append(key)
    if len(kept) == 25:
        os.kill(os.getpid(), signal.SIGKILL)
simulator.journal.Journal.store = counted
from simulator.cli import main
main()
"""
    Path("program.py").write_text(program)
    killed = subprocess.run(
        [sys.executable, "program.py", "search", "s.toml", "--jobs", "1", "--quiet", "--out", "out"],
        env={**os.environ, "MPLBACKEND": "Agg"},
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -9
    assert not Path("out").exists()
    assert len(list(Path(".servesim-out.partial/points").glob("*.json"))) == 25
    assert servesim("search", "s.toml", "--jobs", "1", "--quiet", "--out", "out").exit_code == 0
    assert not Path(".servesim-out.partial").exists()
    for name in FILES:
        assert name == "deployments" or Path("out", name).read_bytes() == (searched_folder / name).read_bytes()


# --- other traffic -----------------------------------------------------------------------------------


def test_a_closed_loop_is_searched_by_its_users():
    lengths = "prompt_tokens={kind='fixed', value=800}, output_tokens={kind='fixed', value=60}"
    loop = f"{{concurrency=8, requests=200, {lengths}}}"
    result, content = found(f"workload={{closed_loop={loop}}}", "search.splits=['colocated']")
    assert content["axis"] == "users"
    best = result.confirmed[0]
    assert best.scenario.workload.closed_loop.concurrency == best.point["load"]
    assert best.point["slo_attainment"] >= 0.9


def test_a_plain_scenario_needs_no_search_table_and_a_table_no_pools():
    plain = SCENARIO.partition("[search]")[0]
    Path("s.toml").write_text(plain)
    one, _ = searched()
    assert (one.table.gpus, one.table.engines, one.table.chips) == (4, ("vllm",), ("h100_sxm",))
    before, _, after = plain.partition("[[pool]]")
    chips = '[search]\nchips = ["h100_sxm"]\nengines = ["vllm", "sglang"]\ngpus = 2\n'
    Path("s.toml").write_text(before + "[cost]" + after.partition("[cost]")[2] + chips)
    one, _ = searched()
    assert {choice.pool.engine for choice in choices_of(one, Pruned())} == {"vllm", "sglang"}


def test_many_units_are_simulated_some_at_a_time_on_their_share_of_the_traffic():
    one, _ = searched("search.gpus=64")
    (choice, *_) = choices_of(one, Pruned())
    trial = Trial(Unit(((choice, 1),)).scenario(one.scenario), "x", "rate", (80.0,), 0, 64, 16, 4000, 0.0)
    part = under(trial, 0)
    assert (part.pool[0].replicas, part.workload.share) == (16, 0.25)
    whole = under(replace(trial, together=64), 0)
    assert (whole.pool[0].replicas, whole.workload.share) == (64, 1.0)
    assert part.workload.synthetic == whole.workload.synthetic


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("slo={attainment=0.9}", "[slo] has no bound"),
        ("search.objective='speed'", "search.objective"),
        ("search.tensor_parallel=[]", "search.tensor_parallel"),
        ("search.splits=[]", "search.splits"),
        ("search.splits=['E-PD']", "Qwen/Qwen3-8B has no encoder"),
        ("search.weights=['fp7']", "search.weights"),
        ("search.nodes=2", "search.nodes"),
        ("search.chips=['h1000']", "h1000"),
        ("operations.switching={between=['pool0','pool0'], every_s=1.0}", "pool"),
        ("candidate=[{name='a'}]", "[[candidate]]"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_sentence(change, expected):
    assert expected in refused("--set", change)


def test_encoders_apart_are_searched_where_there_are_images():
    model = "model.name='Qwen/Qwen2.5-VL-7B-Instruct'"
    assert "no request of the workload has an image" in refused("--set", model, "--set", "search.splits=['E-P-D']")
    assert searched()[0].table.splits == searched(model)[0].table.splits == ("colocated", "disaggregated")
    one, goal = searched(*IMAGES)
    assert one.table.splits == ("colocated", "disaggregated", "E-PD", "E-P-D")
    assert {unit.split for unit in units_of(one, choices_of(one, Pruned()))} == set(one.table.splits)
    assert goal.traffic.media.encoded.items == pytest.approx(1.6, abs=0.15)


def test_a_front_needs_answers_of_several_tokens():
    output = "workload.synthetic.output_tokens={kind='fixed', value=1}"
    assert "no user has a speed" in refused("--objective", "pareto", "--set", output)


def test_a_cost_needs_prices_and_the_fewest_chips_a_rate():
    assert "cost.chip_hour" in refused("--objective", "cost", "--set", "cost.chip_hour={}")
    loop = "{concurrency=8, requests=20, prompt_tokens={kind='fixed', value=8}, output_tokens={kind='fixed', value=6}}"
    assert "no rate" in refused("--objective", "chips", "--set", f"workload={{closed_loop={loop}}}")


def test_a_folder_with_anything_else_in_it_is_refused():
    Path("out").mkdir()
    Path("out/mine.txt").write_text("keep me")
    assert "mine.txt" in refused("--out", "out")


def test_processes_that_stay_make_several_rounds():
    with LocalExecutor(2) as executor:
        for _ in range(2):
            assert list(executor.make({"a": 1, "b": 2}, echo, Journal(Path("j")), lambda **_: None)) == [
                {"key": "a", "run": 1},
                {"key": "b", "run": 2},
            ]


def echo(key, run, _journal):
    return {"key": key, "run": run}
