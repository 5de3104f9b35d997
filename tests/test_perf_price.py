"""What ``servesim perf price`` says of a step is what an engine pays for it, in every family and layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from pricing import needs_tables
from rich.console import Console

from simulator.build import build_pools
from simulator.built_pool import cost_chain
from simulator.perf_price import Chunk, StepAsked, _priced, price_report, priced_pools
from simulator.run import run_scenario
from simulator.scenario import resolve_scenario

MODELS = {
    "dense": "Qwen/Qwen3-8B",
    "experts": "Qwen/Qwen3-30B-A3B",
    "latent": "deepseek-ai/DeepSeek-V2-Lite",
    "window": "openai/gpt-oss-20b",
    "delta_net": "Qwen/Qwen3.5-35B-A3B",
}
LAYOUTS = {
    "tensor": [{"tensor_parallel": 2}],
    "experts_apart": [{"tensor_parallel": 2, "expert_parallel": 2}],
    "ranks": [{"data_parallel": 2, "expert_parallel": 2}],
    "all_to_all": [{"data_parallel": 2, "expert_parallel": 2, "expert_exchange": "all_to_all"}],
    "split": [{"name": "prefill", "stages": ["prefill"]}, {"name": "decode", "stages": ["decode"]}],
}
DEPLOYMENTS = [
    (family, layout) for family in MODELS for layout in LAYOUTS if family != "dense" or layout in {"tensor", "split"}
]
STEPS = (
    StepAsked((Chunk(1000),)),
    StepAsked((Chunk(300), Chunk(1500))),
    StepAsked((Chunk(64, 3000),)),
    StepAsked((Chunk(1, 6000),)),
    StepAsked((), 8, 1000),
    StepAsked((Chunk(500), Chunk(64, 1000)), 32, 999),
)


def scenario(family, layout, engine="vllm", **keys):
    loop = {
        "concurrency": 2,
        "requests": 8,
        "prompt_tokens": {"kind": "fixed", "value": 700},
        "output_tokens": {"kind": "fixed", "value": 6},
    }
    every = {"chip": "h200_sxm", "engine": engine, "cost_sources": ["roofline"]} | keys
    table = {
        "name": "price",
        "model": {"name": MODELS[family]},
        "workload": {"closed_loop": loop},
        "pool": [every | pool for pool in LAYOUTS[layout]],
    }
    return resolve_scenario(table, Path("price.toml"), "price")


def rest_of(step):
    return next(line for line in step.lines if line.name == "between_lengths").ns / step.total_ns


def asked(row):
    """Return the first step of a row of the log, whose prompts are new and equal."""
    tokens, prompts, decodes, context = (int(row[name]) for name in ("tokens", "prompts", "decodes", "context"))
    assert row["reach"] == row["tokens"]
    assert row["completed"] == prompts
    return StepAsked((Chunk(tokens // prompts),) * prompts if prompts else (), decodes, context)


def paid_and_priced(scenario):
    """Yield what each event of a run cost, and what its steps are priced at."""
    run = run_scenario(scenario).run
    for server, owner in zip(run.cluster.instances, run.instance_pools(), strict=True):
        pool = run.pools[owner]
        chain = cost_chain(scenario.pool[owner], pool.name, pool.chip)
        table = server.step_logs[0].table()
        for i in range(len(table["steps"])):
            row = {name: column[i] for name, column in table.items()}
            first = asked(row)
            steps = [StepAsked(first.chunks, first.decodes, first.context + k) for k in range(row["steps"])]
            yield int(row["duration_ns"]), [_priced(pool, step, chain) for step in steps]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(("family", "layout"), DEPLOYMENTS)
def test_the_engine_pays_what_a_step_is_priced_at(family, layout, engine):
    whole = 0
    for paid, steps in paid_and_priced(scenario(family, layout, engine)):
        total = sum(step.total_ns for step in steps)
        if paid != total:
            # Ranks that have fewer tokens than the one that is priced make its step shorter, never longer.
            assert LAYOUTS[layout][0].get("data_parallel") == 2
            assert paid < total
        whole += paid == total
        assert all(abs(rest_of(step)) < 0.01 for step in steps)
        assert all(sum(line.ns for line in step.lines) == pytest.approx(step.total_ns) for step in steps)
    assert whole >= 3


@pytest.mark.parametrize(("family", "layout"), DEPLOYMENTS)
@pytest.mark.parametrize(
    "sources", [["roofline"], pytest.param(["silicon", "borrowed", "roofline"], marks=needs_tables)]
)
def test_operators_and_host_make_the_step(family, layout, sources):
    found = scenario(family, layout, cost_sources=sources)
    for step in STEPS:
        for priced in priced_pools(found, step):
            assert abs(rest_of(priced)) < 0.02, (step, priced.lines)


def test_a_step_of_attention_ranks_is_said_to_be_one_of_each():
    priced = next(priced_pools(scenario("experts", "ranks"), StepAsked((), 8, 1000)))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(price_report(priced))
    assert "One pass over 8 x 1,000 decoded, on each of 2 attention ranks." in capture.get()
    assert {"experts_gather", "experts_scatter"} < {line.name for line in priced.lines}


def test_a_chunk_that_looks_far_back_is_priced_as_reading_what_it_looks_at():
    priced = next(priced_pools(scenario("dense", "tensor"), StepAsked((Chunk(1, 30_000),))))
    names = {line.name for line in priced.lines}
    assert "generation_attention of prompts" in names
    assert "context_attention" not in names
    assert rest_of(priced) < 0.01


def test_an_eager_engine_waits_for_its_host_where_the_kernels_are_shorter():
    found = scenario("dense", "tensor", "vllm@0.2")
    for paid, steps in paid_and_priced(found):
        assert sum(step.total_ns for step in steps) == pytest.approx(paid, abs=len(steps))
    launches = build_pools(found)[0].costs.passes.launches
    short, long = (next(priced_pools(found, StepAsked((Chunk(new),)))) for new in (16, 2000))
    waits = {line.name: line for line in short.lines}["wait_for_launches"]
    assert waits.origin == "host"
    host = next(line for line in short.lines if line.name == "host")
    assert short.total_ns == launches.prompt_ns + host.ns
    assert "wait_for_launches" not in {line.name for line in long.lines}
    assert sum(line.ns for line in short.lines) == pytest.approx(short.total_ns)
