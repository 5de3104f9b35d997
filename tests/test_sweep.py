"""``servesim sweep``: loads as asked for, the capacity where it is, and clear refusals."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import SCENARIO, draw_nothing, error_sentence, servesim, tree
from hypothesis import given
from hypothesis import strategies as st

import simulator.side_by_side
from perfdb.tables import installed_root
from simulator import load_scenario, simulate
from simulator.journal import Journal
from simulator.loads import loader, parse_grid
from simulator.parallel import run_points
from simulator.requests import build_requests
from simulator.scenario import load_changed
from simulator.sweep import find_capacity, sweep

LOOP = (
    "workload={closed_loop={concurrency=2, requests=40, prompt_tokens={kind='uniform', low=100, high=900}, "
    "output_tokens={kind='uniform', low=5, high=40}}}"
)
DRAW = {name: getattr(simulator.side_by_side, name) for name in ("plot_sweep", "plot_capacities")}
FILES = ["report.html", "sweep.json", "sweep.parquet", "sweep.png"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a scenario that saturates, and draw no picture, which is slow."""
    draw_nothing(monkeypatch, *DRAW)
    monkeypatch.chdir(tmp_path)
    busy = SCENARIO.replace("requests = 30", "requests = 120").replace("ttft_ms = 1000", "ttft_ms = 150")
    (tmp_path / "s.toml").write_text(busy.replace("mean = 300", "mean = 1500").replace("max = 2000", "max = 9000"))
    return tmp_path


def run_sweep(*arguments: str, code: int = 0) -> dict:
    result = servesim("sweep", "s.toml", *arguments, "--jobs", "1", "--json", "--out", "out")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def attained(content: dict) -> list[float]:
    return [load["mean"]["slo_attainment"] for load in content["loads"]]


# --- grids -------------------------------------------------------------------------------------------

WHOLE = st.integers(1, 400)


@given(WHOLE, WHOLE, WHOLE, st.sampled_from(["1", "0.1", "0.05"]))
def test_a_grid_is_what_it_looks_like(low: int, more: int, step: int, unit: str) -> None:
    low_d, high_d, step_d = (Decimal(n) * Decimal(unit) for n in (low, low + more, step))
    grid = parse_grid(f"{low_d}:{high_d}:{step_d}", "rate")
    assert grid[0] == low_d
    assert all(after - before == step_d for before, after in pairwise(grid))
    assert high_d - step_d < grid[-1] <= high_d
    assert (grid[-1] == high_d) == (more % step == 0)


@pytest.mark.parametrize(
    ("options", "found", "expected"),
    [
        pytest.param(("--rate", "5"), "--rate 5: found 1 numbers", "LOW:HIGH:STEP, for example 1:20:1", id="one"),
        pytest.param(("--rate", "1:2"), "found 2 numbers", "LOW:HIGH:STEP", id="two"),
        pytest.param(("--rate", ""), "found 1 numbers", "LOW:HIGH:STEP", id="empty"),
        pytest.param(("--rate", "1:x:1"), "--rate 1:x:1: 'x' is no number", "LOW:HIGH:STEP", id="text"),
        pytest.param(("--rate", "9:5:1"), "HIGH 5 is below LOW 9", "LOW:HIGH:STEP", id="high below low"),
        pytest.param(("--rate", "1:5:0"), "found 0", "a positive number", id="no step"),
        pytest.param(("--rate", "1:5:-1"), "found -1", "a positive number", id="step back"),
        pytest.param(("--rate", "0:5:1"), "found 0", "a positive number", id="no rate"),
        pytest.param(("--rate", "1:inf:1"), "found inf", "at most a billion", id="infinite"),
        pytest.param(("--rate", "1:nan:1"), "found nan", "at most a billion", id="NaN"),
        pytest.param(("--rate", "1:5:0.0001"), "over 1000 loads", "a larger STEP", id="too many"),
        pytest.param(("--concurrency", "1:5:0.5"), "found 0.5", "a whole number of users", id="half a user"),
        pytest.param(("--concurrency", "1:5:1"), "is an open loop", "--rate LOW:HIGH:STEP", id="wrong kind"),
        pytest.param(("--rate", "1:5:1", "--set", LOOP), "a closed loop", "--concurrency LOW:HIGH:STEP", id="loop"),
        pytest.param(
            ("--concurrency", "1:50:1", "--set", LOOP),
            "up to 50, but workload.closed_loop.requests is 40",
            "ten",
            id="few",
        ),
        pytest.param(
            ("--rate", "1:5:1", "--set", "workload.synthetic.arrivals={kind='burst'}"),
            "all 120 requests arrive at once",
            "arrivals over some time",
            id="burst",
        ),
        pytest.param(
            ("--rate", "1:5:1", "--set", "workload.warmup_s=100"),
            "rate 2: workload.warmup_s is 100",
            "lower it",
            id="warm",
        ),
        pytest.param(("--rate", "1:5:1", "--set", "slo.ttft=5"), "unknown key 'slo.ttft'", "'ttft_ms'?", id="key"),
        pytest.param(
            ("--rate", "1:5:1", "--out", "."), "--out .: holds 's.toml'", "an empty or a new folder", id="out"
        ),
    ],
)
def test_what_cannot_be_swept_is_refused(options: tuple[str, ...], found: str, expected: str) -> None:
    result = servesim("sweep", "s.toml", "--jobs", "1", *options)
    sentence = error_sentence(result.exit_code, result.stdout, result.stderr)
    assert found in sentence
    assert expected in sentence
    assert not Path("results/small-sweep").exists()


@pytest.mark.parametrize("options", [(), ("--rate", "1:2:1", "--concurrency", "1:2:1")], ids=["none", "both"])
def test_a_sweep_takes_one_kind_of_load(options: tuple[str, ...]) -> None:
    result = servesim("sweep", "s.toml", *options)
    assert result.exit_code == 2
    assert "expected one of --rate LOW:HIGH:STEP and --concurrency LOW:HIGH:STEP" in result.stderr


# --- loads -------------------------------------------------------------------------------------------

ARRIVALS = [
    "{kind='constant', rate_per_s=3}",
    "{kind='poisson', rate_per_s=3}",
    "{kind='gamma', rate_per_s=3, burstiness=0.5}",
    "{kind='weibull', rate_per_s=3, shape=0.8}",
    "{kind='ramp', start_per_s=1, end_per_s=9}",
    "{kind='mmpp', states=[{rate_per_s=1, mean_s=5}, {rate_per_s=9, mean_s=5}]}",
]


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_every_open_loop_is_put_at_the_rate_asked_for(arrivals: str) -> None:
    base = load_changed(
        "s.toml",
        [f"workload.synthetic.arrivals={arrivals}", "workload.synthetic.requests=3000", "workload.rate_scale=2"],
    )
    patterns = []
    for rate in (4, 8):
        times_ns = build_requests(loader(base)(Decimal(rate))).times_ns
        measured = (len(times_ns) - 1) / ((times_ns[-1] - times_ns[0]) / 1e9)
        # Arrivals with a rate of their own have it in the long run only; five standard errors.
        exact = "rate_per_s=3" not in arrivals
        assert measured == pytest.approx(rate, rel=1e-6 if exact else 0.13)
        patterns.append(np.diff(times_ns) / np.diff(times_ns).mean())
    assert patterns[0] == pytest.approx(patterns[1], abs=1e-6)


def test_a_trace_is_put_at_the_rate_asked_for() -> None:
    rows = "".join(f"{second},{10 + second % 7},5\n" for second in range(0, 200, 2))
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    content = run_sweep("--rate", "2:8:2", "--no-refine", "--set", "workload.trace=t.csv", "--set", "slo.ttft_ms=9e9")
    assert content["kind"] == "rate"
    points = pd.read_parquet("out/sweep.parquet")
    # 99 gaps of 1/rate, and the last answer.
    assert list(points["duration"]) == pytest.approx([99 / rate for rate in (2, 4, 6, 8)], rel=0.02)


def test_a_closed_loop_is_swept_over_its_users() -> None:
    content = run_sweep("--concurrency", "1:9:4", "--set", LOOP, "--set", "slo={tpot_ms=1000}")
    assert [load["concurrency"] for load in content["loads"]] == [1, 5, 9]
    assert list(pd.read_parquet("out/sweep.parquet")["max_concurrent_requests"]) == [1, 5, 9]
    assert (content["capacity"], content["missed_at"]) == (9, None)


def test_a_load_gives_what_a_run_at_that_rate_gives() -> None:
    content = run_sweep("--rate", "20:40:20", "--no-refine")
    for load in content["loads"]:
        alone = simulate(load_scenario("s.toml", {"workload.synthetic.arrivals.rate_per_s": load["rate"]})).summary
        assert {key: alone[key] for key in load["mean"] if key != "utilisation"} == {
            key: value for key, value in load["mean"].items() if key != "utilisation"
        }


# --- capacity ----------------------------------------------------------------------------------------


def pretend(attainment: object) -> tuple[list[float], object]:
    """Return the rates asked for so far, and a stand-in for runs with an attainment by rate."""
    asked: list[float] = []

    def run(points: list) -> list[dict]:
        found = []
        for point in points:
            rate = point.scenario.workload.synthetic.arrivals.rate_per_s
            asked.append(rate)
            pools = {"p": {"utilisation": 0.5, "chips": 1}}
            known = {
                "request_goodput": 1.0,
                "output_throughput": 1.0,
                "cost_per_million_output_tokens": None,
                "cost_per_hour": None,
                "skipped_rows": {},
            }
            shown = dict.fromkeys(
                ("p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "p99_tpot_ms", "request_throughput", "goodput_per_chip"),
                1.0,
            )
            shown |= {"p99_e2el_ms": 1.0, "busiest_link_utilisation": None, "busiest_link_peak_utilisation": None}
            found.append({"slo_attainment": attainment(rate), "pools": pools, "chips": 1} | known | shown)
        return found

    return asked, run


SOME = load_scenario("quickstart")


@given(st.floats(0.5, 25), st.integers(1, 8))
def test_bisection_finds_where_attainment_breaks(breaks_at: float, step: int) -> None:
    asked, run = pretend(lambda rate: 1.0 if rate <= breaks_at else 0.0)
    grid = parse_grid(f"1:20:{step}", "rate")
    capacity = sweep(SOME, grid, [0, 1], run).capacity
    assert not capacity.regained
    if breaks_at < 1:
        assert (capacity.load, capacity.missed_at) == (None, 1)
    elif breaks_at >= grid[-1]:
        assert (capacity.load, capacity.missed_at) == (grid[-1], None)
    else:
        assert float(capacity.load) <= breaks_at < float(capacity.missed_at)
        assert float(capacity.missed_at / capacity.load) <= 1.02
    # Two seeds; halving a step of at most 8 down to 2 % of at least 1.
    assert len(asked) <= 2 * (len(grid) + 9)


def test_the_target_decides() -> None:
    _, run = pretend(lambda rate: 1 - rate / 100)
    for target, capacity in ((0.95, 5), (0.9, 10)):
        scenario = SOME.model_copy(update={"slo": SOME.slo.model_copy(update={"attainment": target})})
        assert sweep(scenario, parse_grid("1:20:1", "rate"), [0], run, refine=False).capacity.load == capacity


def test_the_first_stretch_counts_and_a_second_is_said() -> None:
    _, run = pretend(lambda rate: 0.0 if rate in {5, 6, 9} else 1.0)
    found = sweep(SOME, parse_grid("1:9:1", "rate"), [0], run, refine=False)
    assert (found.capacity.load, found.capacity.missed_at, found.capacity.regained) == (4, 5, True)
    assert find_capacity(found.loads[4:], 0.9).load == 8


def test_the_capacity_found_agrees_with_a_fine_grid() -> None:
    # Enough requests that one more or less does not decide.
    enough = ("--seeds", "3", "--set", "workload.synthetic.requests=400")
    coarse = run_sweep("--rate", "5:105:50", *enough)
    low, high = coarse["capacity"], coarse["missed_at"]
    assert 1 < high / low <= 1.02
    fine = run_sweep("--rate", f"{low * 0.9:.2f}:{high * 1.1:.2f}:{low * 0.02:.2f}", "--no-refine", *enough)
    assert not fine["regained"]
    assert fine["capacity"] / low == pytest.approx(1, abs=0.03)


def test_attainment_falls_as_load_rises() -> None:
    content = run_sweep("--rate", "10:170:40", "--seeds", "2", "--no-refine")
    shares = attained(content)
    assert shares[0] > 0.95
    assert shares[-1] < 0.2
    # A request more or less of 240 may go the other way where the curve is flat.
    assert all(later <= earlier + 0.02 for earlier, later in pairwise(shares))
    latencies = [load["mean"]["p99_ttft_ms"] for load in content["loads"]]
    assert latencies[-1] > 3 * latencies[0]


def test_more_replicas_never_lower_the_capacity_of_the_quickstart(folder: Path) -> None:
    if installed_root() is None:
        pytest.skip("the kernel tables (aiconfigurator-core) are not installed on this platform")
    changes = {"workload.synthetic.requests": 300, "slo.ttft_ms": 300, "slo.tpot_ms": 25}
    found = []
    for replicas in (1, 2, 3):
        scenario = load_scenario("quickstart", changes | {"pool.0.replicas": replicas})
        run = Journal(folder / "points")
        grid = parse_grid("2:62:15", "rate")
        found.append(sweep(scenario, grid, [0], lambda points, run=run: run_points(points, run)).capacity.load)
    assert found[0] < found[1] < found[2]


# --- what it leaves and prints -----------------------------------------------------------------------


def test_a_sweep_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator.side_by_side, "plot_sweep", DRAW["plot_sweep"])
    result = servesim("sweep", "s.toml", "--rate", "20:100:40", "--seeds", "2", "--jobs", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert tree(Path("results")) == ["small-sweep", *(f"small-sweep/{name}" for name in FILES)]
    assert Path("results/small-sweep/sweep.png").read_bytes().startswith(b"\x89PNG\r\n")
    content = json.loads(Path("results/small-sweep/sweep.json").read_text())
    points = pd.read_parquet("results/small-sweep/sweep.parquet")
    assert list(points["rate"]) == [load["rate"] for load in content["loads"] for _ in range(2)]
    assert list(points["seed"]) == [7, 8] * len(content["loads"])
    assert list(points["rate"]) == sorted(points["rate"])
    assert [load["rate"] for load in content["loads"] if not load["refined"]] == [20, 60, 100]
    assert {"p99_ttft_ms", "request_goodput", "utilisation", "utilisation_left"} <= set(points.columns)
    for part in ("small: Qwen/Qwen3-8B on 3 chips", "TTFT", f"Capacity: {content['capacity']:g} requests/s"):
        assert part in result.stdout
    shown = servesim("show", "results/small-sweep")
    assert (shown.exit_code, shown.stdout) == (0, result.stdout)


def test_no_load_that_keeps_the_slo_exits_3_and_leaves_a_result() -> None:
    result = servesim("sweep", "s.toml", "--rate", "500:900:400", "--jobs", "1", "--quiet", "--out", "out")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "No load has an SLO attainment of 0.9; try lower ones than 500 requests/s." in result.stderr
    assert tree(Path("out")) == FILES
    assert json.loads(Path("out/sweep.json").read_text())["capacity"] is None


def test_a_sweep_without_bounds_says_that_everything_counts() -> None:
    result = servesim("sweep", "s.toml", "--rate", "9:9:1", "--set", "slo={}", "--jobs", "1", "--out", "out")
    assert "No bound is given in [slo]" in result.stdout
    assert "Capacity: at least 9 requests/s, the highest tried" in " ".join(result.stdout.split())


def test_an_earlier_sweep_is_replaced_and_nothing_else() -> None:
    run_sweep("--rate", "10:20:10")
    run_sweep("--rate", "10:30:10", "--seeds", "2")
    assert [name for name in tree(Path()) if "partial" in name] == []
    assert len(pd.read_parquet("out/sweep.parquet")) == 6
    Path("out/sweep.json").write_text("{}")
    result = servesim("sweep", "s.toml", "--rate", "10:20:10", "--out", "out")
    assert "holds 'report.html'" in error_sentence(result.exit_code, result.stdout, result.stderr)


# --- several candidates ------------------------------------------------------------------------------

CANDIDATES = """
[[candidate]]
name = "as is"
[[candidate]]
name = "big $x_"
set = { "pool.right.replicas" = 4 }
"""
SLOW_LINKS = """
[[candidate]]
name = "apart"
set = { "pool.left.stages" = ["prefill"], "pool.right.stages" = ["decode"], "network.kv_transfer.efficiency" = 1e-4 }
"""


def alone(content: dict) -> dict:
    """Return what a sweep says, but for the name of its scenario."""
    said = {key: value for key, value in content.items() if key not in {"name", "set", "scenario", "scenario_sha256"}}
    return said | {"pools": content["scenario"]["pool"]}


def test_candidates_are_swept_as_each_would_be_alone(folder: Path) -> None:
    (folder / "c.toml").write_text(Path("s.toml").read_text() + CANDIDATES)
    result = servesim("sweep", "c.toml", "--rate", "20:80:30", "--jobs", "1", "--json", "--out", "all")
    content = json.loads(result.stdout)
    assert [candidate["name"] for candidate in content["candidates"]] == ["as is", "big $x_"]
    assert [candidate["set"] for candidate in content["candidates"]] == [{}, {"pool.right.replicas": 4}]
    for candidate, change in zip(content["candidates"], ([], ["--set", "pool.right.replicas=4"]), strict=True):
        assert alone(candidate) == alone(run_sweep("--rate", "20:80:30", *change))
    points = pd.read_parquet("all/sweep.parquet")
    loads = [len(candidate["loads"]) for candidate in content["candidates"]]
    assert list(points["candidate"]) == ["as is"] * loads[0] + ["big $x_"] * loads[1]
    # The first two instances are there in both.
    assert content["candidates"][1]["capacity"] > content["candidates"][0]["capacity"]


def test_a_sweep_of_candidates_is_complete(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, draw in DRAW.items():
        monkeypatch.setattr(simulator.side_by_side, name, draw)
    (folder / "b.toml").write_text(Path("s.toml").read_text().replace('"small"', '"[b]"'))
    options = ("--rate", "30:90:30", "--no-refine", "--jobs", "1")
    result = servesim("sweep", "s.toml", "b.toml", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert tree(Path("results")) == ["small-sweep", *(f"small-sweep/{name}" for name in FILES)]
    assert Path("results/small-sweep/sweep.png").read_bytes().startswith(b"\x89PNG\r\n")
    for part in ("small: 2 candidates under load", "Capacity, requests/s", "[b]", "1.00 x", "Most per chip: small, "):
        assert part in result.stdout
    shown = servesim("show", "results/small-sweep")
    assert (shown.exit_code, shown.stdout) == (0, result.stdout)
    # A sweep of one scenario may take the place of one of several, and the other way round.
    assert servesim("sweep", "s.toml", *options, "--quiet").exit_code == 0
    assert "candidates" not in json.loads(Path("results/small-sweep/sweep.json").read_text())


def test_rates_of_their_own_do_not_keep_scenarios_apart(folder: Path) -> None:
    other = Path("s.toml").read_text().replace('"small"', '"b"').replace("rate_per_s = 20.0", "rate_per_s = 3.0")
    (folder / "b.toml").write_text(other)
    options = ("--rate", "30:30:1", "--jobs", "1", "--json", "--out", "out")
    content = json.loads(servesim("sweep", "s.toml", "b.toml", *options).stdout)
    first, second = content["candidates"]
    assert first["loads"] == second["loads"]
    assert content["same_workload"]
    result = servesim("compare", "s.toml", "b.toml", "--jobs", "1")
    assert "rate_per_s is 3.0 for 'b'" in error_sentence(result.exit_code, result.stdout, result.stderr)


def test_candidates_that_all_miss_the_slo_exit_3(folder: Path) -> None:
    (folder / "c.toml").write_text(Path("s.toml").read_text() + CANDIDATES)
    result = servesim("sweep", "c.toml", "--rate", "500:900:400", "--jobs", "1", "--out", "out")
    assert result.exit_code == 3
    assert "No candidate has an SLO attainment of 0.9; try lower loads than 500 requests/s." in result.stderr
    assert "none" in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "options", "found"),
    [
        pytest.param("ttft_ms = 150", "ttft_ms = 99", (), "slo.ttft_ms is 99.0 for 'b'", id="slo"),
        pytest.param("requests = 120", "requests = 99", (), "workload.synthetic.requests is 99 for 'b'", id="workload"),
        pytest.param(
            "[[pool]]", "[[pool]]", ("--set", "workload.warmup_s=100"), "candidate 'small', rate 20: workload", id="run"
        ),
    ],
)
def test_candidates_that_cannot_be_swept_are_refused(
    folder: Path, old: str, new: str, options: tuple[str, ...], found: str
) -> None:
    (folder / "b.toml").write_text(Path("s.toml").read_text().replace('"small"', '"b"').replace(old, new, 1))
    result = servesim("sweep", "s.toml", "b.toml", "--rate", "20:40:20", "--jobs", "1", *options)
    assert found in error_sentence(result.exit_code, result.stdout, result.stderr)
    assert not Path("results").exists() or tree(Path("results")) == []


def test_the_busiest_link_is_shown_where_something_is_handed_over(folder: Path) -> None:
    (folder / "c.toml").write_text(Path("s.toml").read_text() + CANDIDATES + SLOW_LINKS)
    run = ("--rate", "5:25:10", "--no-refine", "--jobs", "1", "--set", "slo={}")
    servesim("sweep", "c.toml", *run, "--out", "out")
    colocated, _, apart = json.loads(Path("out/sweep.json").read_text())["candidates"]
    assert {load["mean"]["busiest_link_utilisation"] for load in colocated["loads"]} == {None}
    busy = [load["mean"]["busiest_link_utilisation"] for load in apart["loads"]]
    assert busy == sorted(busy)
    assert 0.01 < busy[0] < busy[-1] <= 1
    pools = ("--set", "pool.left.stages=['prefill']", "--set", "pool.right.stages=['decode']")
    assert " link" in servesim("sweep", "s.toml", *run, *pools, "--out", "one").stdout
    assert " link" not in servesim("sweep", "s.toml", *run, "--out", "two").stdout
