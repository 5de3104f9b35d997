"""``timeline.json``: what Perfetto shows is every step, every transfer and every incident of the run."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from command import SCENARIO, draw_nothing, servesim

from simulator import load_scenario, simulate
from simulator.candidates import load_candidate
from simulator.export import write_result
from simulator.trace_events import SMALL_TRACE, trace_events, trace_json, trace_size

SMALL = {"workload.synthetic.requests": 120}


@cache
def run(name):
    return simulate(load_scenario(name, SMALL))


def of(name, kind):
    return [event for event in trace_events(run(name).run) if event["ph"] == kind]


@pytest.mark.parametrize("name", ["quickstart", "prefill-decode"])
def test_steps_of_an_instance_follow_each_other_and_are_all_there(name):
    found = run(name)
    by_instance = {}
    for event in of(name, "X"):
        by_instance.setdefault((event["pid"], event["tid"]), []).append(event)
    assert sum(event["args"]["steps"] for event in of(name, "X")) == found.summary["steps"]
    for events in by_instance.values():
        for before, after in pairwise(events):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-6
    assert len(of(name, "M")) == sum(pool["replicas"] for pool in found.summary["pools"].values())


def test_a_transfer_is_an_arrow_from_one_instance_to_another():
    found = run("prefill-decode")
    starts, ends = of("prefill-decode", "s"), of("prefill-decode", "f")
    assert len(starts) == len(ends) == found.summary["transfers"]["count"]
    assert sum(event["args"]["bytes"] for event in of("prefill-decode", "b")) == found.summary["transfers"]["bytes"]
    lasted = [end["ts"] - start["ts"] for start, end in zip(starts, ends, strict=True)]
    assert sum(lasted) / len(lasted) / 1e3 == pytest.approx(found.summary["transfers"]["mean_ms"])
    assert {event["pid"] for event in starts} <= {0, 1}
    assert {event["pid"] for event in ends} == {2}


def test_a_request_with_images_shows_what_it_waits_for():
    found = simulate(load_candidate("multimodal", "E-P-D", {"workload.synthetic.requests": 80}))
    events = list(trace_events(found.run))
    parts = {}
    for event in events:
        if event.get("cat") == "request":
            parts.setdefault((event["id"], event["name"]), []).append(event["ts"])
    encoding, requests = found.summary["encoding"], {index for index, _ in parts}
    assert 0 < len(requests) < 80
    lasted = {}
    for (_, name), (begun, ended) in parts.items():
        lasted[name] = lasted.get(name, 0.0) + (ended - begun) / 1e3 / len(requests)
    assert lasted["waits for an encoder"] == pytest.approx(encoding["mean_encode_queue_ms"])
    assert lasted["images encoded"] == pytest.approx(encoding["mean_encode_ms"])
    assert lasted["features come"] == pytest.approx(encoding["mean_feature_ms"])
    assert lasted["waits for its prompt"] == pytest.approx(encoding["mean_queue_ms"])
    moved = [event for event in events if event["ph"] == "b" and event["cat"] == "features"]
    assert sum(event["args"]["bytes"] for event in moved) == encoding["feature_bytes"]
    arrows = [event["id"] for event in events if event["ph"] == "s"]
    assert len(set(arrows)) == len(arrows)


def test_incidents_are_marked():
    found = simulate(load_scenario("incidents", {"workload.synthetic.requests": 2000}))
    marks = [event for event in trace_events(found.run) if event["ph"] == "i"]
    assert [event["name"] for event in marks] == [text for _, text in found.run.incidents]
    assert marks


def test_an_event_says_what_is_not_zero_and_a_counter_when_it_changes():
    for event in of("prefill-decode", "X"):
        assert all(event["args"].values())
        kind = {"prompts": {"tokens"}, "decode": {"decodes"}, "mixed": {"tokens", "decodes"}}[event["name"]]
        assert kind == {"tokens", "decodes"} & set(event["args"])
    counts = {}
    for event in of("prefill-decode", "C"):
        counts.setdefault((event["pid"], event["name"]), []).append(event["args"])
    assert len(counts) == 3
    assert all(before != after for found in counts.values() for before, after in pairwise(found))


def deployments():
    for name in ("quickstart", "prefill-decode", "incidents"):
        yield run(name)
    for candidate in ("E-P-D", "EP-D"):
        yield simulate(load_candidate("multimodal", candidate, SMALL))
    yield simulate(load_scenario("quickstart", SMALL | {"pool.0.data_parallel": 2}))
    yield simulate(load_candidate("pipeline", "TP8, two stages", {"workload.synthetic.requests": 20}))
    # All but one instance compute nothing.
    yield simulate(load_scenario("quickstart", {"workload.synthetic.requests": 1}))


def test_the_size_of_a_trace_is_known_before_it_is_made():
    for found in deployments():
        assert trace_size(found.run) == len(list(trace_events(found.run)))


def test_the_shipped_deployments_are_small_enough():
    for name in ("quickstart", "prefill-decode"):
        found = simulate(load_scenario(name))
        assert SMALL_TRACE / 3 < trace_size(found.run) <= SMALL_TRACE
        assert len(trace_json(found.run)) < 8e6


def test_the_file_is_json_and_written_if_small_or_asked_for(tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    found, out = run("quickstart"), tmp_path / "out"
    size = trace_size(found.run)
    for most, events, written in ((size, False, True), (size - 1, False, False), (size - 1, True, True)):
        monkeypatch.setattr("simulator.export.SMALL_TRACE", most)
        write_result(found, out, events=events)
        assert (out / "timeline.json").exists() is written
    text = (out / "timeline.json").read_text()
    assert text == trace_json(found.run)
    assert len(json.loads(text)["traceEvents"]) == size


def test_the_command_says_that_it_leaves_the_file_out(tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simulator.export.SMALL_TRACE", 10)
    Path("s.toml").write_text(SCENARIO)
    told = "servesim: no timeline.json, of more than 60,000 events; --events writes it\n"
    for options, found in ((), told), (("--json",), told), (("--quiet",), ""), (("--events",), ""):
        assert servesim("run", "s.toml", "--out", "out", *options).stderr == found
        assert Path("out/timeline.json").exists() is ("--events" in options)
