"""vLLM's releases: defaults, options that came later, and rules that changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from serving import Deployment, OpenLoop, linear_prices

from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from perfdb.layout import Layout
from simulator.engine_options import VllmOptions
from simulator.engines import ENGINES
from simulator.request import Request
from simulator.schedulers import SCHEDULERS, EngineState, Limits
from simulator.vllm_eras import ERAS, LATEST, era_of

MS = 1_000_000
FLAT = linear_prices(step_ns=MS, token_ns=0, context_ns=0.0, pair_ns=0.0)


def filled(engine: str, chip: str, **options) -> VllmOptions:
    return ENGINES[engine].filled(VllmOptions(**options), load_chip(chip), 0, "main", Layout(1, 1))


def test_every_minor_version_has_the_row_of_its_span():
    assert [era.since for era in ERAS] == sorted({era.since for era in ERAS})
    assert replace(ENGINES["vllm"], release=f"0.{LATEST}") == ENGINES[f"vllm@0.{LATEST}"]
    for minor in range(8, LATEST + 1):
        assert ENGINES[f"vllm@0.{minor}"].era is era_of(minor)
        assert era_of(minor).since <= minor


@pytest.mark.parametrize(
    ("engine", "chip", "tokens", "sequences"),
    [
        ("vllm@0.8", "h100_sxm", 8192, 1024),
        ("vllm@0.8", "b200_sxm", 2048, 1024),
        ("vllm@0.15", "b200_sxm", 8192, 1024),
        ("vllm@0.15", "a100_80_sxm", 2048, 256),
        ("vllm@0.28", "b200_sxm", 16384, 1024),
        ("vllm", "h200_sxm", 8192, 1024),
        ("vllm", "l40s", 2048, 256),
    ],
)
def test_the_default_budget_follows_release_and_chip(engine, chip, tokens, sequences):
    found = filled(engine, chip)
    assert (found.max_num_batched_tokens, found.max_num_seqs) == (tokens, sequences)


def test_what_is_given_is_kept_and_the_other_limit_follows_it():
    assert filled("vllm", "l40s", max_num_seqs=4000).max_num_batched_tokens == 4000
    assert filled("vllm", "h100_sxm", max_num_batched_tokens=512).max_num_seqs == 512
    assert filled("vllm@0.12", "h100_sxm", gpu_memory_utilization=0.5).gpu_memory_utilization == 0.5


@pytest.mark.parametrize(
    ("engine", "utilization", "reserves", "overlaps"),
    [
        ("vllm@0.8", 0.9, False, False),
        ("vllm@0.12", 0.9, False, False),
        ("vllm@0.15", 0.9, False, True),
        ("vllm@0.19", 0.9, True, True),
        ("vllm@0.20", 0.92, True, True),
        ("vllm", 0.92, True, True),
    ],
)
def test_defaults_that_changed(engine, utilization, reserves, overlaps):
    found = filled(engine, "h100_sxm")
    assert found.gpu_memory_utilization == utilization
    assert (found.scheduler_reserve_full_isl, found.async_scheduling) == (reserves, overlaps)


@pytest.mark.parametrize(
    ("engine", "option", "value"),
    [
        ("vllm@0.23", "watermark", 0.1),
        ("vllm@0.32", "prefill_schedule_interval", 4),
        ("vllm@0.30", "long_prefill_token_threshold_adaptive", True),
        ("vllm@0.18", "scheduler_reserve_full_isl", True),
        ("vllm@0.9", "async_scheduling", True),
    ],
)
def test_an_option_that_came_later_is_refused(engine, option, value):
    with pytest.raises(ScenarioError, match=rf"engine_options\.{option} is {value}, but this pool's vLLM") as caught:
        filled(engine, "h100_sxm", **{option: value})
    later = f"vllm@0.{int(engine.split('.')[1]) + 1}"
    assert later in str(caught.value)
    assert getattr(filled(later, "h100_sxm", **{option: value}), option) == value


def test_turning_off_what_does_not_exist_is_no_mistake():
    assert filled("vllm@0.12", "h100_sxm", scheduler_reserve_full_isl=False).scheduler_reserve_full_isl is False
    assert filled("vllm@0.8", "h100_sxm", async_scheduling=False).async_scheduling is False


@pytest.mark.parametrize(("uncapped", "steps"), [(True, 1), (False, 4)])
def test_a_lone_request_is_cut_by_the_threshold_until_0_31(uncapped, steps):
    rules = {"chunk_tokens": 100, "uncapped_alone": uncapped}
    cluster = Deployment(rules=rules, prices=FLAT).serve_at_once([400], [1])
    assert cluster.ledger.first_token_ns[0] == steps * MS


@pytest.mark.parametrize(("blank_first", "found"), [(True, 16), (False, 0)])
def test_blocks_that_hold_nothing_are_taken_first_since_0_24(blank_first, found):
    """Two prompts leave a full and a partial block each; a third takes two of the four, and the first comes back."""

    class Contents:
        def identify(self, request):
            request.prefix, request.prefix_ends = ((1, 2, 3, 1)[request.index],), (16,)

    deployment = Deployment(blocks=4, caching=True, blank_first=blank_first, identities=Contents(), prices=FLAT)
    cluster = deployment.serve(OpenLoop([0, 10 * MS, 20 * MS, 30 * MS]), [17, 17, 20, 17], [1] * 4)
    assert cluster.ledger.column("cached_tokens").tolist() == [0, 0, 0, found]


@pytest.mark.parametrize(("goes_on", "last_ms"), [(True, 10), (False, 11)])
def test_after_one_preempted_itself_the_others_go_on_since_0_33(goes_on, last_ms):
    """The least urgent of three, admitted second, needs a block where none is left; the third is looked at after it."""

    class Ranks:
        def identify(self, request):
            request.priority = int(request.index == 1)

    rules = {"by_priority": True, "goes_on": goes_on}
    deployment = Deployment(blocks=6, block_tokens=10, rules=rules, identities=Ranks(), prices=FLAT)
    # Admitted by urgency, so the second comes a step before the third.
    cluster = deployment.serve(OpenLoop([0, 0, MS // 2]), [10, 19, 11], [11, 30, 10])
    assert cluster.ledger.column("preemptions").tolist() == [0, 1, 0]
    assert cluster.ledger.finish_ns[2] == (last_ms + 1) * MS


@pytest.mark.parametrize(("loan_reserves", "blocks"), [(True, 4 + 3), (False, 4)])
def test_what_a_fetch_asks_for(loan_reserves, blocks):
    scheduler = SCHEDULERS["vllm"](Limits(20, 8), loan_reserves=loan_reserves)
    state = EngineState(100, 10)
    scheduler.begin(state)
    prompt, handed = Request(0, 50), Request(1, 40)
    handed.remote = True
    state.waiting.append(prompt)
    chunks = scheduler.plan(state).chunks
    assert scheduler._blocks_to_admit(state, handed, 0, chunks) == blocks
    prompt.computed = 20
    state.prefilling[0] = prompt
    assert scheduler._blocks_to_admit(state, handed, 0, []) == blocks
    assert scheduler._blocks_to_admit(state, handed, 0, [(prompt, 11)]) == blocks - 2 * loan_reserves
