"""``report.html`` of a sweep: how much is carried, and how sure that is."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import CANDIDATES, SCENARIO, draw_nothing, servesim
from hypothesis import given
from hypothesis import strategies as st
from test_report_page import read

from simulator.confidence import crossing, doubts
from simulator.sweep_charts import candidate_charts, load_charts
from simulator.sweep_page import sweep_page

BUSY = SCENARIO.replace("requests = 30", "requests = 120").replace("ttft_ms = 1000", "ttft_ms = 150")
BUSY = BUSY.replace("mean = 300", "mean = 1500").replace("max = 2000", "max = 9000")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Return what makes the content and the rows of a sweep of one deployment or two, with some options."""
    folder = tmp_path_factory.mktemp("swept")

    @cache
    def make(text, *options):
        with pytest.MonkeyPatch.context() as patch:
            draw_nothing(patch, "plot_sweep", "plot_capacities")
            patch.chdir(folder)
            Path("s.toml").write_text(text)
            assert servesim("sweep", "s.toml", *options, "--jobs", "1", "--out", "out", "--quiet").exit_code in {0, 3}
            rows = pd.read_parquet("out/sweep.parquet").astype(object)
            html = Path("out/report.html").read_text()
            kept = rows.where(rows.notna(), None).to_dict("records")
            return json.loads(Path("out/sweep.json").read_text()), kept, html

    return make


def text_of(html):
    return " ".join(" ".join(read(html).text).split())


def test_a_sweep_has_a_report_of_its_capacity(swept):
    content, rows, html = swept(BUSY, "--rate", "20:100:40", "--seeds", "2")
    outline, text = read(html), text_of(html)
    assert outline.fetched == []
    best = next(load for load in content["loads"] if load["rate"] == content["capacity"])
    assert f"3 chips carry {content['capacity']:g} requests/s of Qwen/Qwen3-8B" in text
    assert f"{best['mean']['slo_attainment'] * 100:.4g}% of the requests then have TTFT ≤ 150 ms" in text
    assert f"At {content['missed_at']:g} it is" in text
    assert f"{content['capacity']:g} ✓" in text
    assert text.count("missed") == sum(not load["meets_slo"] for load in content["loads"])
    assert "under each of 2 seeds alone" in text
    assert "120 requests, the same under a seed" in text
    assert "of the step time was measured on nothing of this size and kind" in text
    assert content["scenario_sha256"] in text
    assert html == sweep_page(content, rows)


def test_names_cannot_become_markup(swept):
    content, rows, _ = swept(BUSY, "--rate", "20:100:40", "--seeds", "2")
    assert "<script>" not in sweep_page(content | {"name": "<script>", "model": "<script>"}, rows)


def test_no_load_within_the_slo_and_no_slo_are_said(swept):
    content, _, html = swept(BUSY, "--rate", "500:900:400")
    share = content["loads"][0]["mean"]["slo_attainment"]
    assert f"No load tried keeps the SLO: at 500 requests/s, the lowest, {share * 100:.4g}% of the requests" in text_of(
        html
    )
    assert 'id="answer" class="bad"' in html
    _, _, html = swept(BUSY, "--rate", "9:9:1", "--set", "slo={}")
    assert "3 chips carry at least 9 requests/s of Qwen/Qwen3-8B. No SLO was set" in text_of(html)
    assert 'id="answer">' in html
    assert "by chance" not in html


def test_several_deployments_have_their_capacities_and_doubts(swept):
    content, _, html = swept(BUSY + CANDIDATES, "--rate", "20:140:60")
    outline, text = read(html), text_of(html)
    assert outline.fetched == []
    first, big = content["candidates"]
    best = max((first, big), key=lambda one: one["capacity"] / one["chips"])
    assert f"'{best['name']}' carries most per chip" in text
    assert f"{big['capacity'] / big['chips'] / first['capacity'] * first['chips']:.2f} x" in text
    assert "pool.right.replicas = 4" in text
    assert text.count("narrowed down") == 2
    assert [chart.title for chart in candidate_charts(content)][:2] == [
        "SLO attainment",
        "SLO attainment by load per chip",
    ]
    worse = copy.deepcopy(content)
    for one in worse["candidates"]:
        one["capacity"] = None
    rows = [dict(row) for row in swept(BUSY + CANDIDATES, "--rate", "20:140:60")[1]]
    assert "No candidate keeps the SLO at any load tried" in text_of(sweep_page(worse, rows))


def test_charts_show_the_means_of_every_load(swept):
    content, rows, _ = swept(BUSY, "--rate", "20:100:40", "--seeds", "2")
    attained, done, busy, ttft, *_ = load_charts(content)
    table = pd.DataFrame(rows).groupby("rate")
    assert attained.curves[0].y.tolist() == pytest.approx(table["slo_attainment"].mean().tolist())
    assert attained.curves[1].y.tolist() == pytest.approx(table["slo_attainment"].min().tolist())
    assert done.curves[1].y.tolist() == pytest.approx(table["request_goodput"].mean().tolist())
    assert [curve.name for curve in busy.curves] == ["instances"]
    assert [curve.name for curve in ttft.curves] == ["p50", "p99"]
    assert attained.at_x == [(content["capacity"], f"capacity {content['capacity']:g}")]


# --- how sure ---------------------------------------------------------------------------------------


@given(st.floats(0.5, 30), st.floats(1e-3, 1), st.floats(0.01, 0.99))
def test_a_straight_line_is_crossed_where_it_is(knee, slope, wanted):
    loads = np.arange(1.0, 60.0)
    shares = np.clip(1 - slope * (loads - knee), 0, 1)
    found = crossing(loads.tolist(), shares.tolist(), wanted)
    if shares[0] < wanted or shares[-1] >= wanted:
        assert found is None
    else:
        at = int(np.argmax(loads > found))
        assert np.interp(found, loads, shares) == pytest.approx(wanted, abs=1e-9)
        assert shares[at] < wanted <= shares[at - 1] + 1e-12


def test_a_second_stretch_that_keeps_the_slo_does_not_count():
    assert crossing([1, 2, 3, 4, 5], [0.5, 1.0, 0.8, 1.0, 0.0], 0.9) == 2.5
    assert crossing([1, 2], [0.1, 0.2], 0.9) is None


def test_doubts_are_those_of_the_figures(swept):
    content, rows, _ = swept(BUSY, "--rate", "20:100:40", "--seeds", "2")
    told = dict(doubts(content, rows))
    assert list(told) == ["narrowed down", "by seed", "by chance", "were 85% wanted", "were 95% wanted"]
    # 1.96 sqrt(0.9 x 0.1 / 240)
    assert told["by chance"].startswith("240 requests at the capacity")
    assert "±3.8 points" in told["by chance"]
    more, less = (float(told[f"were {share}% wanted"].split()[0]) for share in (95, 85))
    assert more < content["missed_at"]
    assert more < less
    assert "requests are too few to be sure" in dict(doubts(content | {"regained": True}, rows))["narrowed down"]
    one = dict(doubts(content | {"seeds": [7]}, [row for row in rows if row["seed"] == 7]))
    assert "one seed; --seeds 5" in one["by seed"]
    assert "120 requests" in one["by chance"]
