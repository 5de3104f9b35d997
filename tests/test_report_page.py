"""``report.html``: one file, well formed, whose figures are those of the run."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import CANDIDATES, SCENARIO, draw_nothing, servesim
from hypothesis import given
from hypothesis import strategies as st

from simulator import load_scenario, simulate
from simulator.charts import Axis, Chart, Curve, Point, draw, ticks
from simulator.compare_page import pareto_chart
from simulator.export import manifest
from simulator.page import bars, page, paragraph, table
from simulator.page_curves import slack_chart, within
from simulator.page_trust import ReplayedRuns, errors_table, replayed_runs
from simulator.page_words import answer, deployment
from simulator.run_page import run_page, stage_times

ROOT = Path(__file__).parents[1]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Checks that elements close in order, and keeps what a reader sees and what a browser would fetch."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.text, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in {"src", "href", "srcset", "action", "xlink:href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    outline = Outline()
    outline.feed(html)
    outline.close()
    assert outline.open == []
    return outline


@cache
def story(name, **changes):
    result = simulate(load_scenario(name, {key.replace("__", "."): value for key, value in changes.items()}))
    return result.summary, manifest(result), result.requests, result.timeline


def quick():
    return story("quickstart", workload__synthetic__requests=300)


def apart():
    return story("prefill-decode", workload__synthetic__requests=300)


def seeing(**changes):
    """Return a run of requests with images: of an engine that encodes them itself, or takes them for text."""
    images = {
        "workload__synthetic__images": {"kind": "fixed", "value": 1},
        "workload__synthetic__image_size": "640x480",
    }
    model = {"model__name": "Qwen/Qwen2.5-VL-7B-Instruct", "workload__synthetic__requests": 40}
    table = {key.replace("__", "."): value for key, value in (images | model | changes).items()}
    result = simulate(load_scenario("quickstart", table))
    return result.summary, manifest(result), result.requests, result.timeline


# --- a page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [quick, apart])
def test_a_report_is_one_well_formed_file_that_fetches_nothing(parts):
    html = run_page(*parts())
    outline = read(html)
    assert outline.fetched == []
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert not re.search(r"\bnan\b", "".join(outline.text), re.IGNORECASE)


def test_a_report_says_the_figures_of_its_run():
    summary, made, requests, timeline = apart()
    text = " ".join(read(run_page(summary, made, requests, timeline)).text)
    for figure in (
        f"{summary['p99_tpot_ms']:,.4g}",
        f"{summary['transfers']['count']:,} times",
        f"{summary['cost_per_million_output_tokens']:,.3g}",
        made["scenario_sha256"],
        "h200_sxm 3.5 per hour",
        "1 x vllm on h200_sxm, TP2; decode",
        "gpu_memory_utilization",
    ):
        assert figure in text, figure


def test_latencies_fit_a_phone_in_as_many_columns_as_there_are():
    summary, made, requests, timeline = apart()
    html = run_page(summary, made, requests, timeline)
    table_ = re.search(r"<h2>Latency</h2>\n<div class=\"wide\"><table>(.*?)</table>", html)[1]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>(.*?)</tr>", table_)]
    assert {len(row) for row in rows} == {5}
    shown = {row[0]: row[1:] for row in rows}
    assert list(shown) == ["ms", "mean", "p50", "p90", "p95", "p99", "SLO", "within"]
    assert shown["p99"][:2] == [f"{summary[f'p99_{key}_ms']:,.4g}" for key in ("ttft", "tpot")]
    assert shown["SLO"] == ["1,000", "40", "", ""]
    assert shown["within"][0] == f"{(requests['ttft_ms'] <= 1000).mean():.2%}"


def test_equal_runs_give_equal_reports():
    """But for the time they took, which stands nowhere in them."""
    summary, made, requests, timeline = quick()
    assert run_page(summary | {"cpu_s": 1.0}, made, requests, timeline) == run_page(*quick())


def test_names_cannot_become_markup():
    summary, made, requests, timeline = quick()
    named = made | {"scenario": made["scenario"] | {"name": "<script>alert(1)</script>"}}
    html = run_page(summary, named, requests, timeline)
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html


def test_a_run_without_any_finished_request_has_a_report():
    summary, made, requests, timeline = quick()
    requests = requests.assign(completed=False, met_slo=False, ttft_ms=np.nan, tpot_ms=np.nan, e2e_ms=np.nan)
    read(run_page(summary, made, requests, timeline))


def test_a_comparison_has_a_report_of_every_candidate(tmp_path, monkeypatch):
    draw_nothing(monkeypatch, "plot_links", "plot_candidates")
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(SCENARIO.replace("requests = 30", "requests = 12") + CANDIDATES)
    assert servesim("compare", "c.toml", "--jobs", "1", "--seeds", "2", "--out", "out").exit_code == 0
    html = Path("out/report.html").read_text()
    outline = read(html)
    text = " ".join(outline.text)
    assert outline.fetched == []
    assert "Take 'as is'" in text
    assert "pool.right.replicas = 4" in text
    assert "Means over 2 seeds" in text
    read(Path("out/candidates/big/report.html").read_text())


# --- the answer -----------------------------------------------------------------------------------------


def test_the_answer_says_whether_the_slo_is_met():
    summary, made, *_ = quick()
    scenario = made["scenario"]
    assert answer(summary | {"slo_attainment": 0.9}, scenario)[1] is True
    text, good = answer(summary | {"slo_attainment": 0.8999}, scenario)
    assert good is False
    assert "misses its SLO" in text
    none = scenario | {"slo": dict.fromkeys(("ttft_ms", "tpot_ms", "e2e_ms")) | {"attainment": 0.9}}
    assert answer(summary, none)[1] is None


def test_a_pool_is_told_with_what_is_unusual_of_it():
    _, made, *_ = quick()
    pool = made["scenario"]["pool"][0] | {"limits": {"kv_blocks": 1234}, "power_cap": 0.6, "expert_parallel": 8}
    words = deployment(pool)
    assert "EP8" in words
    assert "limits.kv_blocks 1,234" in words
    assert "60% of TDP" in words


def test_stages_add_up_to_the_whole_time_of_a_request():
    for requests in (quick()[2], apart()[2], seeing()[2], seeing(pool__0__stages=["encode", "prefill", "decode"])[2]):
        assert sum(length for _, length, _ in stage_times(requests)) == pytest.approx(requests["e2e_ms"].mean())


# --- the SLO --------------------------------------------------------------------------------------------


def requests_of(ttft, tpot):
    rows = len(ttft)
    done = np.isfinite(ttft)
    columns = {"ttft_ms": ttft, "tpot_ms": tpot, "e2e_ms": [1.0] * rows}
    return pd.DataFrame(columns | {"measured": [True] * rows, "completed": done})


@given(
    st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 100)), min_size=1, max_size=30),
    st.floats(0.05, 1),
)
def test_bounds_so_many_times_as_wide_are_just_wide_enough(rows, attainment):
    table_ = requests_of(*(np.array(column) for column in zip(*rows, strict=True)))
    bounds = {"ttft": 500.0, "tpot": 20.0, "e2el": None}
    factor = within(table_, bounds, attainment)

    def attained(scale):
        return ((table_["ttft_ms"] <= 500 * scale) & (table_["tpot_ms"] <= 20 * scale)).mean()

    assert attained(factor * (1 + 1e-9)) >= attainment - 1e-12
    assert attained(factor * (1 - 1e-9)) < attainment


def test_no_bounds_are_wide_enough_for_requests_that_failed():
    table_ = requests_of(np.array([10.0, np.nan]), np.array([1.0, np.nan]))
    bounds = {"ttft": 500.0, "tpot": None, "e2el": None}
    assert within(table_, bounds, 0.5) == pytest.approx(0.02)
    assert within(table_, bounds, 0.9) is None
    curve = slack_chart({"run": table_}, bounds, 0.9).curves[0]
    assert curve.y[-1] == 0.5


# --- how sure -------------------------------------------------------------------------------------------


def test_the_errors_are_those_of_the_validation_page():
    text = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([^|]+), (agg|disagg) \| `(\w+)`, (\w+) \| (\d+) of \d+ \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE
    )
    found = []
    for source, mode, engine, chip, runs, *errors in rows:
        (_, ttft, ttft_signed, _), (_, tpot, tpot_signed, _) = (cell.split(", ") for cell in errors)
        figures = (float(value) for value in (ttft, ttft_signed, tpot, tpot_signed))
        found.append(ReplayedRuns(source, mode, engine, chip, int(runs), *figures))
    assert len(found) > 20
    assert tuple(found) == replayed_runs()


def test_the_errors_shown_are_of_the_same_engine_and_chip():
    pool = {"engine": "vllm@0.11", "chip": "h100_sxm", "stages": ["prefill", "decode"]}
    text = " ".join(read(errors_table([pool])).text)
    assert "NVIDIA sweep" in text
    assert "sglang" not in text
    assert "h200" not in text
    assert "was of orca on l4" in errors_table([pool | {"engine": "orca", "chip": "l4"}])


# --- charts ---------------------------------------------------------------------------------------------


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.booleans())
def test_ticks_are_few_round_and_within_the_axis(low, span, log):
    axis = Axis("", low + 1e-3 if log else low, low + span + 2e-3, log=log)
    found = ticks(axis)
    assert 1 <= len(found) <= 8
    assert found == sorted(found)
    assert all(axis.low - 1e-6 * span <= value <= axis.high + 1e-6 * span for value in found)


def test_a_curve_lies_between_the_ends_of_its_axes_and_breaks_where_nothing_is_known():
    y = np.array([0.0, 5.0, np.nan, 10.0, 20.0])
    chart = Chart("t", Axis("x", 0, 4), Axis("y", 0, 10), [Curve("c", np.arange(5.0), y)], [Point("<p>", 2, 5)])
    svg = draw(chart)
    path = re.search(r'class="line"[^>]* d="([^"]+)"', svg)[1]
    assert path == "M52.0 210.0L151.0 111.0M349.0 12.0L448.0 12.0"
    assert "&lt;p&gt;" in svg
    read(svg)


def test_the_front_leaves_out_what_another_surpasses_and_what_misses_the_slo():
    runs = {
        "fast": {"p50_tpot_ms": 5.0, "output_throughput": 100.0, "chips": 1},
        "thrifty": {"p50_tpot_ms": 20.0, "output_throughput": 400.0, "chips": 1},
        "neither": {"p50_tpot_ms": 25.0, "output_throughput": 300.0, "chips": 1},
        "misses": {"p50_tpot_ms": 1.0, "output_throughput": 900.0, "chips": 1},
    }
    content = {"candidates": [{"name": name, "meets_slo": name != "misses"} for name in runs]}
    chart = pareto_chart(runs, content)
    assert chart.curves[0].x.tolist() == [50.0, 200.0]
    assert [point.name for point in chart.points if point.hollow] == ["misses"]


def test_parts_escape_what_they_are_given():
    html = page("a<b", "c<d", good=None, sections=[paragraph("e<f"), table(("g<h",), [("i<j",)])], foot="k<l")
    assert not re.search("[a-k]<[b-l]", html)
    assert "a&lt;b" in bars({"a<b": [("c<d", 1.0, "#000")]})


def test_a_search_has_a_report_that_says_why_not_the_others():
    from simulator.search_page import search_page

    run = {"tokens_per_s_per_user": 100.0, "tokens_per_s_per_chip": 250.0, "keeps_slo": True, "split": "colocated"}
    run |= {"round": "long", "chips": 8}
    best = {"deployment": "vllm: 2 x TP4", "split": "colocated", "chips": 8, "goodput_per_chip": 0.5, "load": 4.2}
    best |= {"slo_attainment": 0.92, "tokens_per_s_per_chip": 262.0, "cost_per_million_slo_met_tokens": None}
    best |= dict.fromkeys(("p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "p99_tpot_ms", "mean_ttft_ms", "worth"), 9.0)
    other = {"deployment": "vllm: 1 x TP<8>", "chips": 8, "bound": 1.0, "worth": None, "why": "misses TPOT for 21 %"}
    counts = dict.fromkeys(("considered", "ruled_out", "simulated", "runs", "requests"), 71)
    content = {
        "name": "search", "model": "m", "gpus": 8, "attainment": 0.9, "best": best, "axis": "rate",
        "slo_ms": {"ttft": 300.0, "tpot": 10.0, "e2el": None}, "objective": "goodput", "objective_words": "most",
        "best_by_split": {"colocated": best, "disaggregated": None}, "counts": counts, "deployments": [other],
        "pruned": [{"reason": "too large", "count": 3, "example": "x"}], "front": [run], "stopped": "short",
        "versions": {"python": "3"},
    }  # fmt: skip
    pool = {**quick()[1]["scenario"]["pool"][0], "name": None}
    outline = read(search_page(content, [run | {"deployment": "vllm: 2 x TP4"}], {"pool": [pool]}))
    text = " ".join(outline.text)
    assert outline.fetched == []
    assert "misses TPOT for 21 %" in text
    assert "vllm: 1 x TP<8>" in text
    assert "71 deployments: 71 ruled out" in text
    assert "cut short" in text
    assert "too large" in text
