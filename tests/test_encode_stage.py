"""Images encoded apart from prompts: nothing is lost, times add up, and features go the ways they are told to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.errors import ScenarioError
from simulator.build import build_pools
from simulator.network import FeatureTransfer
from simulator.run import Result, run_scenario
from simulator.scenario import Scenario

CHIP = {"chip": "h100_sxm", "cost_sources": ("roofline",)}
E, P, D, PD, EPD = (
    {"name": "+".join(stages), "stages": stages, **CHIP}
    for stages in (
        ("encode",),
        ("prefill",),
        ("decode",),
        ("prefill", "decode"),
        ("encode", "prefill", "decode"),
    )
)
SHAPES = {"E-P-D": (E, P, D), "E-PD": (E, PD), "EPD": (EPD,), "EP-D": ({**EPD, "stages": ("encode", "prefill")}, D)}


def scenario(
    pools: tuple[dict[str, Any], ...] = SHAPES["E-P-D"],
    features: dict[str, Any] | None = None,
    workload: dict[str, Any] | None = None,
    **tables: Any,
) -> Scenario:
    """Return a scenario of images on H100s, priced by the roofline."""
    synthetic = {
        "requests": 60,
        "arrivals": {"kind": "poisson", "rate_per_s": 6.0},
        "prompt_tokens": {"kind": "fixed", "value": 50},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 24},
        "images": {"kind": "uniform", "low": 1, "high": 4},
        "image_size": "1280x720",
        "text_only_share": 0.25,
    }
    network = {"feature_transfer": features or {}, **tables.pop("network", {})}
    return Scenario.model_validate(
        {
            "model": {"name": "Qwen/Qwen2.5-VL-7B-Instruct"},
            "workload": {"synthetic": synthetic | (workload or {})},
            "pool": pools,
            "network": network,
            **tables,
        }
    )


def run(*args: Any, macro_steps: bool = True, **keys: Any) -> Result:
    return run_scenario(scenario(*args, **keys), macro_steps=macro_steps)


def encoding(result: Result) -> dict[str, float]:
    return result.summary["encoding"]


def mean(result: Result, column: str) -> float:
    """Return the mean of a column over the requests with images."""
    table = result.requests
    return float(table[column][table["images"] > 0].mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("features", [{}, {"streaming": True}, {"mode": "store"}, {"prefetch": False}], ids=str)
def test_times_add_up_to_the_first_token(shape: str, features: dict[str, Any]) -> None:
    result = run(SHAPES[shape], features | {"scheduling_ms": 3.0}, workload={"images": {"kind": "fixed", "value": 3}})
    ledger, table = result.run.cluster.ledger, result.requests
    parts = table[["encode_queue_ms", "encode_ms", "feature_ms", "queue_ms", "prefill_ms"]].to_numpy()
    first_ms = (ledger.column("first_token_ns") - ledger.column("arrival_ns")) / 1e6
    assert np.allclose(parts.sum(axis=1), first_ms)
    assert (parts >= 0).all()
    assert (table["completed"]).all()
    assert (table["encode_ms"][table["images"] > 0] > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_macro_steps_change_nothing(shape: str) -> None:
    tables = [run(SHAPES[shape], macro_steps=macro_steps).requests for macro_steps in (True, False)]
    assert tables[0].equals(tables[1])


def test_text_goes_past_the_encoder() -> None:
    table = run().requests
    text = table[table["images"] == 0]
    assert len(text) > 5
    assert not text[["encode_queue_ms", "encode_ms", "feature_ms"]].to_numpy().any()
    assert (text["encode_instance"] < 0).all()


def test_prompts_hold_what_the_encoder_makes_of_images() -> None:
    table = run().requests
    assert (table["prompt_tokens"] == 50 + 1196 * table["images"]).all()


def test_features_go_over_the_network() -> None:
    found = encoding(run())
    images = int(run().requests["images"].sum())
    assert found["feature_transfers"] == found["items"] == images
    assert found["feature_bytes"] == images * 1196 * 3584 * 2


def test_what_is_in_the_store_is_not_encoded_again() -> None:
    workload = {"image_pool": 9, "requests": 100}
    found = encoding(run(features={"mode": "store"}, workload=workload))
    assert found["items"] == 9
    assert found["feature_hit_rate"] > 0.9
    assert encoding(run(features={"encoder_kept_tokens": 0}, workload=workload))["items"] > 150


def test_a_store_without_room_keeps_nothing() -> None:
    workload = {"image_pool": 9, "requests": 100}
    features = {"mode": "store", "encoder_kept_tokens": 0}
    small = encoding(run(features=features | {"store_capacity_gb": 0.001}, workload=workload))
    assert small["items"] > 50
    whole = encoding(run(features=features | {"store_capacity_gb": 0.03}, workload=workload))
    assert 9 < whole["items"] < small["items"]


@pytest.mark.parametrize(("scheduling_ms", "exposed_ms"), [(10.0, 38.11), (40.0, 40.0)])
def test_prefetch_hides_a_transfer_behind_scheduling(scheduling_ms: float, exposed_ms: float) -> None:
    # 1196 tokens of 3584 elements are 8.57 MB: 4.1 ms and 34.0 ms through the store.
    workload = {"images": {"kind": "fixed", "value": 1}, "arrivals": {"kind": "constant", "rate_per_s": 1.0}}
    features = {"mode": "store", "scheduling_ms": scheduling_ms}
    apart = mean(run(features=features | {"prefetch": False}, workload=workload), "feature_ms")
    overlapped = mean(run(features=features, workload=workload), "feature_ms")
    assert overlapped == pytest.approx(exposed_ms, abs=0.02)
    assert apart == pytest.approx(38.11 + scheduling_ms, abs=0.02)


def test_table_3_of_epd_serve() -> None:
    """Transfer and scheduling latencies of EPD-Serve, Table 3, ms, for features of 3584 elements in 16 bits."""
    terms = FeatureTransfer(mode="store", scheduling_ms=24.8, scheduling_us_per_token=47.0)
    published = {100: (8.145, 30.803), 400: (15.819, 42.406), 1196: (38.776, 81.028), 2691: (80.771, 151.77)}
    for tokens, (transfer_ms, scheduling_ms) in published.items():
        found_ms = terms.store_ns(tokens * 3584 * 2) / 1e6
        assert found_ms == pytest.approx(transfer_ms, rel=0.16)
        assert terms.scheduling_ns(tokens) / 1e6 == pytest.approx(scheduling_ms, rel=0.06)
        assert found_ms < terms.scheduling_ns(tokens) / 1e6


def test_an_encoder_that_waits_for_its_features_to_leave_serves_fewer() -> None:
    busy = {"arrivals": {"kind": "constant", "rate_per_s": 24.0}, "images": {"kind": "fixed", "value": 1}}
    waits = {prefetch: mean(run(features={"mode": "store", "prefetch": prefetch}, workload=busy), "encode_queue_ms")
             for prefetch in (True, False)}  # fmt: skip
    assert waits[False] > 2 * waits[True]


def test_encoders_share_the_images_of_a_request() -> None:
    pools = ({**E, "replicas": 4}, P, D)
    slow = {"arrivals": {"kind": "constant", "rate_per_s": 0.5}, "images": {"kind": "fixed", "value": 4}}
    one, all_of_them = (
        mean(run(pools, {"shard_images": shard}, workload=slow), "encode_ms") for shard in (False, True)
    )
    assert all_of_them < 0.5 * one


def test_streamed_features_are_there_earlier() -> None:
    pools = ({**E, "engine_options": {"max_num_batched_tokens": 1200, "max_num_seqs": 8}}, P, D)
    slow = {"arrivals": {"kind": "constant", "rate_per_s": 0.5}, "images": {"kind": "fixed", "value": 4}}
    together, streamed = (
        mean(run(pools, {"mode": "store", "streaming": streams, "scheduling_ms": 100.0}, workload=slow), "feature_ms")
        for streams in (False, True)
    )
    assert together == pytest.approx(100.0, abs=0.01)
    assert streamed < 80


def test_encoders_take_turns() -> None:
    result = run(({**E, "replicas": 2}, P, D))
    counts = result.requests["encode_instance"].value_counts()
    assert counts[0] > 5
    assert counts[1] > 5


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    mode=st.sampled_from(["direct", "store"]),
    flags=st.tuples(*[st.booleans()] * 3),
    shape=st.sampled_from(["E-P-D", "E-PD"]),
    downs=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 2), st.integers(0, 1)), max_size=4),
    restarts=st.booleans(),
    ready=st.booleans(),
    room=st.sampled_from(
        [{}, {"encoder_memory_tokens": 2000}, {"encoder_memory_tokens": 5000, "encoder_kept_tokens": 3000}]
    ),
)
def test_nothing_is_lost_when_instances_die(
    mode: str,
    flags: tuple[bool, ...],
    shape: str,
    downs: list[tuple[int, int, int]],
    room: dict[str, Any],
    *,
    restarts: bool,
    ready: bool,
) -> None:
    pools = tuple({**pool, "replicas": 2} for pool in SHAPES[shape])
    incidents = [
        {
            "kind": "instance_down",
            "at_s": at / 1000,
            "pool": pools[number % len(pools)]["name"],
            "instance": instance,
            **({"restart_after_s": 0.5} if restarts else {}),
        }
        for at, number, instance in sorted(downs)
    ]
    names = ("prefetch", "streaming", "shard_images")
    features = {"mode": mode, **dict(zip(names, flags, strict=True))} | room
    if ready and restarts and features["streaming"]:
        features["prompt_starts"] = "ready"
    workload = {"image_pool": 40, "arrivals": {"kind": "poisson", "rate_per_s": 15.0}}
    tables = [
        run(pools, features, workload, operations={"incident": incidents}, macro_steps=macro_steps).requests
        for macro_steps in (True, False)
    ]
    assert tables[0].equals(tables[1])
    assert restarts is False or tables[0]["completed"].all()


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ((EPD, E), "images go one way"),
        (({**E, "stages": ("encode", "decode")}, PD), "one of which shares the chips"),
        ((E,), "no pool serves the stage 'prefill'"),
    ],
)
def test_impossible_stages_are_refused(pools: tuple[dict[str, Any], ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        scenario(pools)


def test_a_model_without_an_encoder_is_refused() -> None:
    with pytest.raises(ScenarioError, match="has no encoder"):
        run(model={"name": "Qwen/Qwen3-8B"})
    counted = {"image_size": None, "image_tokens": {"kind": "fixed", "value": 100}}
    with pytest.raises(ScenarioError, match="stages is \\['encode'\\], but"):
        run(model={"name": "Qwen/Qwen3-8B"}, workload=counted)


def test_a_store_has_options_that_a_network_has_not() -> None:
    with pytest.raises(ValueError, match="store_gb_per_s has no meaning for mode = 'direct'"):
        FeatureTransfer(store_gb_per_s=1.0)


def test_a_request_that_fails_while_it_waits_for_an_instance_fails_once() -> None:
    """The encoder dies for ever, and soon after it the instance to which some of their images were on their way."""
    incidents = [
        {"kind": "instance_down", "at_s": 1.909, "pool": "encode", "instance": 0},
        {"kind": "instance_down", "at_s": 2.831, "pool": "prefill", "instance": 0, "restart_after_s": 0.5},
    ]
    features = {"mode": "store", "streaming": True, "store_gb_per_s": 5.0}
    workload = {"image_pool": 40, "arrivals": {"kind": "poisson", "rate_per_s": 15.0}}
    for seed in (80, 85, 104):
        table = run(features=features, workload=workload, operations={"incident": incidents}, seed=seed).requests
        assert 0 < table["completed"].sum() < 60


def test_a_prompt_that_has_begun_needs_an_encoder_that_comes_back() -> None:
    down = {"incident": [{"kind": "instance_down", "at_s": 1.0, "pool": "encode"}]}
    with pytest.raises(ValueError, match="prompts which have begun might never end"):
        scenario(features={"streaming": True, "prompt_starts": "ready"}, operations=down)


@pytest.mark.parametrize("shape", SHAPES)
def test_requests_that_are_being_prepared_go_elsewhere_if_that_instance_dies(shape: str) -> None:
    name = next(pool["name"] for pool in SHAPES[shape] if "prefill" in pool["stages"])
    times = (0.976, 1.736, 3.532)
    downs = [{"kind": "instance_down", "at_s": at, "pool": name, "restart_after_s": 0.5} for at in times]
    busy = {"arrivals": {"kind": "poisson", "rate_per_s": 15.0}}
    table = run(SHAPES[shape], {"scheduling_ms": 50.0}, busy, operations={"incident": downs}, seed=98).requests
    assert table["completed"].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_more_instances_of_a_pool_are_otherwise_the_same(shape):
    """Searches build a pool once: encoders keep as many features and engines wait as long, however many there are."""
    for pool in build_pools(scenario(SHAPES[shape])):
        assert pool.of_replicas(3).parts.replicas == 3
        assert pool.of_replicas(3).of_replicas(1).parts == pool.parts
