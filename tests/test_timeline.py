"""How a run unfolds: windows that lose nothing, and columns that add up to the summary."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfdb.tables import installed_root
from simulator import load_scenario, simulate
from simulator.clock import Urgent
from simulator.export import write_result
from simulator.fabric import Fabric
from simulator.plots_timeline import Caption, plot_links, plot_timeline
from simulator.timeline import LINK, timeline_table
from simulator.windows import mean_open, mean_rate, percentiles, window_edges, window_of

TIMES = st.integers(-50, 1500)


@st.composite
def cut(draw):
    """Edges of windows of any lengths."""
    inner = draw(st.lists(st.integers(1, 999), max_size=6, unique=True))
    return np.array([0, *sorted(inner), 1000])


# --- windows -------------------------------------------------------------------------------------------


@given(st.integers(0, 10**14))
def test_windows_cover_a_run_in_equal_round_parts(end_ns):
    edges = window_edges(end_ns)
    assert (edges[0], edges[-1]) == (0, max(end_ns, 10**6))
    lengths = np.diff(edges)
    assert len(lengths) <= 200
    assert len(lengths) >= 80 or end_ns < 80 * 10**6
    if len(lengths) > 1:
        assert (lengths[:-1] == lengths[0]).all()
        assert 0.5 <= lengths[-1] / lengths[0] <= 1.5
        assert str(lengths[0]).rstrip("0") in {"1", "2", "5"}


@given(st.lists(TIMES, max_size=20), cut())
def test_every_time_falls_into_one_window(times, edges):
    for time, window in zip(times, window_of(np.array(times, np.int64), edges), strict=True):
        low, high = edges[window], edges[window + 1]
        assert low <= min(max(time, 0), 1000)
        assert time < high or window == len(edges) - 2


@given(st.lists(st.tuples(TIMES, st.integers(0, 900), st.integers(0, 9)), max_size=20), cut())
def test_open_intervals_are_counted_by_their_time_inside(rows, edges):
    starts, lasted, weights = np.array(rows, np.int64).reshape(-1, 3).T
    found = mean_open(starts, starts + lasted, edges, weights)
    for mean, (low, high) in zip(found, pairwise(edges), strict=True):
        inside = sum(max(0, min(a + d, high) - max(a, low)) * w for a, d, w in rows)
        assert mean == pytest.approx(inside / (high - low), abs=1e-9)
    alike = mean_open(starts, starts + lasted, edges)
    assert alike == pytest.approx(mean_open(starts, starts + lasted, edges, np.ones(len(starts), int)))


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0, 5)), min_size=1, max_size=12), cut())
def test_rates_over_windows_are_those_of_lines_between_samples(parts, edges):
    times = np.cumsum([0, *(length for length, _ in parts), 1000])
    amounts = np.cumsum([0.0, *(amount for _, amount in parts), 0.0])
    found = mean_rate(times, np.column_stack([amounts, 2 * amounts]), edges)
    expected = np.diff(np.interp(edges, times, amounts)) / np.diff(edges)
    assert found[:, 0] == pytest.approx(expected, abs=1e-9)
    assert found[:, 1] == pytest.approx(2 * expected, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1e6) | st.just(float("nan")), st.integers(0, 4)), max_size=40))
def test_percentiles_are_those_of_numpy_in_every_window(rows):
    values, window = np.array([value for value, _ in rows], float), np.array([number for _, number in rows], int)
    found = percentiles(values, window, 5, (0, 50, 99, 100))
    for number in range(5):
        here = values[(window == number) & ~np.isnan(values)]
        expected = np.percentile(here, (0, 50, 99, 100)) if len(here) else np.full(4, np.nan)
        assert [column[number] for column in found] == pytest.approx(expected.tolist(), rel=1e-12, nan_ok=True)


# --- the table -----------------------------------------------------------------------------------------


@cache
def result(name, **changes):
    if installed_root() is None:
        pytest.skip("the kernel tables (aiconfigurator-core) are not installed on this platform")
    keys = {"requests": "workload.synthetic.requests", "longest": "pool.0.engine_options.max_model_len"}
    return simulate(load_scenario(name, {keys[key]: value for key, value in changes.items()}))


RUNS = [
    pytest.param(("quickstart", {"requests": 600}), id="colocated"),
    pytest.param(("quickstart", {"requests": 600, "longest": 3000}), id="some refused"),
    pytest.param(("prefill-decode", {"requests": 600}), id="disaggregated"),
    pytest.param(("quickstart", {"requests": 1}), id="one request"),
    pytest.param(("quickstart", {"requests": 3, "longest": 10}), id="all refused"),
]


@pytest.fixture(params=RUNS)
def run(request):
    name, changes = request.param
    return result(name, **changes)


def total(table: pd.DataFrame, column: str) -> float:
    """Return an average over time, of all windows together."""
    lengths = table["end_s"] - table["start_s"]
    return float((table[column] * lengths).sum() / lengths.sum())


def test_every_request_is_counted_once(run):
    table, summary = run.timeline, run.summary
    assert table["arrived"].sum() == summary["num_prompts"]
    assert table["finished"].sum() == summary["completed"]
    assert table["failed"].sum() == summary["failed"]
    met = (table["slo_attainment"] * (table["finished"] + table["failed"])).sum()
    assert met == pytest.approx(summary["slo_attainment"] * summary["num_prompts"])


def test_pools_are_busy_for_as_long_as_the_summary_says(run):
    for name, pool in run.summary["pools"].items():
        assert total(run.timeline, f"utilisation_{name}") == pytest.approx(pool["utilisation"], abs=1e-12)
        assert run.timeline[f"utilisation_{name}"].max() <= 1 + 1e-12


def test_littles_law_holds_between_the_table_and_the_latencies(run):
    """Requests in the system, averaged over the run, are the sum of their times over its length."""
    table, run_s = run.timeline, float(run.timeline["end_s"].iloc[-1])
    inside = sum(total(table, f"{kind}_{pool}") for kind in ("queued", "running") for pool in run.summary["pools"])
    assert inside == pytest.approx(float(run.requests["e2e_ms"].sum()) / 1e3 / run_s, rel=1e-9, abs=1e-12)
    if "kv_transfers" in table:
        transfers = run.summary["transfers"]
        expected = transfers["count"] * transfers["mean_ms"] / 1e3 / run_s
        assert total(table, "kv_transfers") == pytest.approx(expected, rel=1e-9)


def test_latencies_are_those_of_the_requests_of_a_window():
    found = result("quickstart", requests=600)
    requests, table = found.requests, found.timeline
    first_s, end_s = (requests["arrival_s"] + requests[column] / 1e3 for column in ("ttft_ms", "e2e_ms"))
    for row in table.sample(10, random_state=1).itertuples():
        inside = requests["ttft_ms"][first_s.between(row.start_s, row.end_s, inclusive="left")]
        over = requests[end_s.between(row.start_s, row.end_s, inclusive="left")]
        for value, column, q in (
            (row.p50_ttft_ms, inside, 0.5),
            (row.p99_ttft_ms, inside, 0.99),
            (row.p99_tpot_ms, over["tpot_ms"], 0.99),
            (row.p99_e2el_ms, over["e2e_ms"], 0.99),
        ):
            assert value == pytest.approx(column.quantile(q), nan_ok=True)


def test_decode_batches_average_to_the_decoding_there_was():
    """Batch times time decoding is the time all sequences together spent decoding."""
    found = result("quickstart", requests=600)
    steps = [log.table() for log in found.run.cluster.logs]
    spent = sum(int((t["decodes"] * t["duration_ns"]).sum()) for t in steps)
    decoding = sum(int(t["duration_ns"][t["decodes"] > 0].sum()) for t in steps)
    batch = found.timeline["decode_batch_colocated"]
    assert batch.min() <= spent / decoding <= batch.max()
    assert batch.min() >= 1


def test_requests_in_progress_fill_the_caches_for_as_long_as_they_last():
    """Prompt and half the answer, from the first step to the last token; while it moves, KV is in both places."""
    for name, pools in (("quickstart", ("colocated", "colocated")), ("prefill-decode", ("prefill", "decode"))):
        found = result(name, requests=600)
        ledger, summary = found.run.cluster.ledger, found.summary["pools"]
        run_ns = float(found.timeline["end_s"].iloc[-1]) * 1e9
        admitted, first, ready, finish = (
            ledger.column(f"{when}_ns") for when in ("admitted", "first_token", "kv_ready", "finish")
        )
        prompts = ledger.column("prompt_tokens")
        whole = prompts + ledger.column("output_tokens") // 2
        apart = pools[0] != pools[1]
        spent = {pools[0]: prompts * (ready - admitted)} if apart else {}
        spent[pools[1]] = whole * (finish - (first if apart else admitted))
        for pool, token_ns in spent.items():
            room = summary[pool]["kv_blocks"] * summary[pool]["replicas"] * 16
            assert total(found.timeline, f"kv_held_{pool}") == pytest.approx(token_ns.sum() / run_ns / room, rel=1e-6)


def test_links_are_as_busy_as_the_summary_says():
    found = result("prefill-decode", requests=600)
    names = [name for name in found.timeline if name.startswith(LINK)]
    links = found.summary["links"]
    busiest = max(links, key=lambda name: links[name]["utilisation"])
    assert found.summary["busiest_link"] == busiest == names[0].removeprefix(LINK)
    assert found.summary["busiest_link_utilisation"] == links[busiest]["utilisation"]
    assert found.summary["busiest_link_peak_utilisation"] == found.timeline[names[0]].max()
    assert 2 <= len(names) <= 5
    for name in names:
        assert total(found.timeline, name) == pytest.approx(links[name.removeprefix(LINK)]["utilisation"], rel=1e-9)
        assert found.timeline[name].between(0, 1 + 1e-12).all()


def test_a_degraded_link_shows_in_the_windows_it_was_degraded_in(monkeypatch):
    """A link at a five-thousandth of its capacity from 30 s to 60 s: full meanwhile, with hand-overs piling up."""
    make = Fabric.carrier

    def degraded(fabric, env):
        carrier = make(fabric, env)
        link = next(link for link in fabric.topology.links if (link.source, link.target) == ("n0/gpu0", "n0/nvswitch"))
        for time_s, share in ((30, 2e-4), (60, 1.0)):
            rate = share * link.capacity_bytes_per_s
            Urgent(env, time_s * 10**9).callbacks.append(
                lambda _, rate=rate: carrier.network.set_capacity(link.id, rate)
            )
        return carrier

    monkeypatch.setattr(Fabric, "carrier", degraded)
    table = simulate(load_scenario("prefill-decode", {"workload.synthetic.requests": 600})).timeline
    before, meanwhile = table[table["end_s"] <= 30], table[table["start_s"].between(35, 55)]
    assert table.columns[table.columns.str.startswith(LINK)][0] == f"{LINK}n0/gpu0>n0/nvswitch"
    assert before[f"{LINK}n0/gpu0>n0/nvswitch"].max() < 0.05
    assert meanwhile[f"{LINK}n0/gpu0>n0/nvswitch"].min() > 0.99
    assert meanwhile["queued_decode"].min() > 8 * before["queued_decode"].max()
    assert meanwhile["kv_transfers"].min() > 8 * before["kv_transfers"].max()
    assert meanwhile["p99_ttft_ms"].max() > 5 * before["p99_ttft_ms"].max()


def test_without_hand_over_there_is_no_link():
    found = result("quickstart", requests=600)
    assert not [name for name in found.timeline if name.startswith((LINK, "kv_transfers"))]
    assert (found.summary["busiest_link"], found.summary["busiest_link_utilisation"]) == (None, None)


def test_incidents_stand_in_the_window_they_happened_in():
    from dataclasses import replace

    run = result("quickstart", requests=600).run
    end_ns = run.cluster.env.now
    told = ((0, "first"), (end_ns // 2, "half"), (end_ns // 2, "again"), (end_ns + 1, "never"))
    table = timeline_table(replace(run, incidents=told))
    assert table["incidents"].iloc[0] == "first"
    half = table[(table["start_s"] <= end_ns / 2e9) & (end_ns / 2e9 < table["end_s"])]
    assert list(half["incidents"]) == ["half; again"]
    assert (table["incidents"] != "").sum() == 2


# --- pictures ------------------------------------------------------------------------------------------

BOUNDS = {"ttft": 1000.0, "tpot": 40.0, "e2el": None}


def test_a_picture_is_drawn_of_every_run(run, tmp_path):
    incidents = tuple((i * 10**9, f"link $a_{i}$ at {i} %") for i in range(20))
    path = tmp_path / "timeline.png"
    plot_timeline(run.timeline, Caption("a $b_", BOUNDS, incidents, 1.5), path)
    assert path.stat().st_size > 10_000


def test_a_picture_of_links_is_drawn(tmp_path):
    edges = np.array([0.0, 1.0, 2.5])
    curves = {f"candidate {number} $x_": (edges, np.array([0.1, 0.2]) * number) for number in range(12)}
    plot_links(curves, "links", tmp_path / "links.png")
    assert (tmp_path / "links.png").stat().st_size > 10_000


def test_a_result_folder_holds_the_table_that_python_gives(tmp_path):
    found = result("prefill-decode", requests=600)
    write_result(found, tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "timeline.parquet"), found.timeline)
