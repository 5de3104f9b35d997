"""Our vLLM policy decides what the real one was recorded to decide, and differences are told clearly."""

from __future__ import annotations

import importlib.metadata

import pytest
from command import SCENARIO, error_sentence, servesim

from benchmarks.conformance import names
from benchmarks.decision_log import pack, unpack
from benchmarks.record_decisions import FOLDER, golden_names, golden_scenario
from simulator.conform import build_comparable, record_ours
from simulator.decisions import Decision, DecisionLog, EnoughStepsError, compare_decisions

PINNED = "0.33.0"


@pytest.mark.parametrize("name", golden_names())
def test_every_step_is_that_of_the_real_scheduler(name):
    theirs, about = unpack((FOLDER / f"{name}.decisions").read_bytes())
    scenario = golden_scenario(name)
    ours = record_ours(scenario, *build_comparable(scenario))
    differing, firsts = compare_decisions(ours.log, theirs)
    assert not differing, [line for first in firsts for line in first.lines()]
    assert (about["vllm"], about["seed"], about["requests"]) == (PINNED, scenario.seed, ours.requests)
    assert about["steps"] == ours.log.steps


def test_golden_decisions_cover_what_may_differ():
    logs = {name: unpack((FOLDER / f"{name}.decisions").read_bytes())[0] for name in golden_names()}
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(logs)
    decisions = [d for log in logs.values() for instance in log.by_instance for d in log.decisions(instance)]
    assert sum(len(d.preempted) for d in decisions) > 2_000
    assert sum(cached > 0 for d in decisions for _, cached in d.admitted) > 2_000
    assert len(names()) >= 10


def log_of(*decisions, instance=0, most=None):
    log = DecisionLog(most)
    for decision in decisions:
        log.note(instance, decision)
    return log


BOTH = Decision.of({2: 1, 1: 5}, {1: 16}, ())


def test_a_log_is_the_same_after_a_file():
    steps = [BOTH, Decision.of({1: 1, 2: 1}, {}, ()), Decision.of({1: 1, 2: 1}, {}, ()), Decision.of({1: 1}, {}, [2])]
    log = log_of(*steps, *steps, instance=3)
    back, about = unpack(pack(log, {"workload": "w"}))
    assert back.by_instance == log.by_instance
    assert about == {"workload": "w", "steps": 8}


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (Decision.of({1: 4, 2: 1}, {1: 16}, ()), "request 1, tokens to compute: ours 5, vLLM 4"),
        (Decision.of({1: 5}, {1: 16}, ()), "request 2, tokens to compute: ours 1, vLLM none"),
        (Decision.of({1: 5, 2: 1}, {1: 0}, ()), "request 1, cached tokens at admission: ours 16, vLLM 0"),
        (Decision.of({1: 5, 2: 1}, {1: 16}, [7]), "request 7, preempted: ours none, vLLM 1"),
    ],
)
def test_the_first_difference_is_told(other, line):
    differing, (first,) = compare_decisions(log_of(BOTH, BOTH), log_of(BOTH, other))
    assert (differing, first.instance, first.step, first.lines()) == (1, 0, 1, [line])


def test_another_order_of_admission_is_a_difference():
    sides = (Decision.of({1: 5, 2: 5}, dict(order), ()) for order in ([(1, 0), (2, 0)], [(2, 0), (1, 0)]))
    (first,) = compare_decisions(*(log_of(side) for side in sides))[1]
    assert first.lines() == ["order of admission: ours [1, 2], vLLM [2, 1]"]


def test_a_step_that_one_side_lacks_is_a_difference():
    differing, (first,) = compare_decisions(log_of(BOTH, BOTH), log_of(BOTH))
    assert differing == 1
    assert first.lines()[0] == "vLLM has no step 1"


def test_a_log_that_is_full_ends_the_run_and_only_common_steps_count():
    with pytest.raises(EnoughStepsError):
        log_of(BOTH, BOTH, BOTH, most=2)
    assert compare_decisions(log_of(BOTH, BOTH, most=2), log_of(BOTH)) == (0, [])


@pytest.fixture
def _no_vllm(monkeypatch, tmp_path):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("simulator.installed_vllm.version", missing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)


@pytest.mark.usefixtures("_no_vllm")
@pytest.mark.parametrize("arguments", [("conform", "s.toml"), ("run", "s.toml", "--set", "pool.left.engine=vllm-live")])
def test_without_an_installed_vllm_a_sentence_says_so(arguments):
    result = servesim(*arguments)
    assert "docs/conformance.md" in error_sentence(result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        (("pool.left.engine=vllm@0.2",), "expected engine 'vllm'"),
        (('pool.left.stages=["prefill"]', 'pool.right.stages=["decode"]'), "expected engine 'vllm'"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, fragment, monkeypatch, tmp_path):
    monkeypatch.setattr("simulator.conform.installed_version", lambda: PINNED)
    (tmp_path / "s.toml").write_text(SCENARIO)
    result = servesim("conform", str(tmp_path / "s.toml"), *(part for change in changes for part in ("--set", change)))
    assert fragment in error_sentence(result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize(
    "changes",
    [
        ('pool.left.engine="vllm-live"', 'pool.left.stages=["prefill"]', 'pool.right.stages=["decode"]'),
        ('pool.left.engine="vllm-live"', "pool.left.engine_options.kv_offloading_size=1.0"),
    ],
)
def test_what_a_live_engine_cannot_do_is_refused(changes, tmp_path):
    (tmp_path / "s.toml").write_text(SCENARIO)
    arguments = (part for change in changes for part in ("--set", change))
    result = servesim("run", str(tmp_path / "s.toml"), *arguments, "--out", str(tmp_path / "out"))
    assert "vllm-live" in error_sentence(result.exit_code, result.stdout, result.stderr)
