"""The only place where the names of a scenario become objects."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.catalogue import chip_names, host_w_per_chip, load_chip, load_node
from hardware.errors import CapacityError, CostError, ScenarioError, suggest
from perfdb.communication import communication
from perfdb.compile import Drafter, StepLimits, compile_costs
from perfdb.load_model import load_model
from perfdb.memory import plan_memory
from perfdb.operators import draft_operators, step_operators
from perfdb.tables import sha256
from perfdb.waiting import WaitingPrices
from perfdb.whole_steps import whole_step_costs
from simulator.built_pool import AnyPool, BuiltPool, calibration_of, cost_chain, halves_of, in_database, layout_of
from simulator.encoder_build import build_encode_pool, encoder_budget, fused_encoder
from simulator.engine_parts import EngineParts
from simulator.engines import ENGINES
from simulator.fetch_window import FetchWindow
from simulator.fused_encoder import EncodingInstance
from simulator.host_memory import copy_bytes_per_s, host_blocks
from simulator.layout_checks import check_layout
from simulator.pipelined import PipelinedInstance
from simulator.pool_table import own_pools
from simulator.prompt_balance import PromptBalance
from simulator.router import ROUTERS
from simulator.sharing import check_memory
from simulator.sharing_instance import SharingInstance
from workloads.streams import stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hardware.catalogue import Chip
    from perfdb.compile import CompiledCosts, HostTime
    from perfdb.encoder_prices import EncoderCosts
    from perfdb.layout import Layout
    from perfdb.memory import MemoryPlan
    from perfdb.model import ModelSpec
    from perfdb.operators import StepOperators
    from perfdb.step_prices import StepPrices
    from perfdb.step_profile import ProfiledCosts
    from simulator.engine_options import EngineOptions, EnginePlan
    from simulator.engines import Engine
    from simulator.front_end import FrontEndTime
    from simulator.instance import Instance
    from simulator.pool_table import Pool
    from simulator.router import Router
    from simulator.scenario import Model, Scenario

__all__ = [
    "build_any_pool",
    "build_decode_router",
    "build_encode_router",
    "build_pool",
    "build_pools",
    "build_router",
    "check_built",
]


def build_router(scenario: Scenario) -> Router:
    """Return the router that requests arrive at, on its own random stream."""
    return ROUTERS[own_pools(scenario.entry_pools)[0].router](stream(scenario.seed, "router"))


def build_encode_router(scenario: Scenario) -> Router:
    """Return the router of images to those that encode them, on its own random stream."""
    return ROUTERS[(scenario.encode_pools or scenario.entry_pools)[0].router](stream(scenario.seed, "encode_router"))


def build_decode_router(scenario: Scenario) -> Router | None:
    """Return the router of requests that are handed over, on its own random stream; None where none are."""
    if not scenario.decode_pools:
        return None
    return ROUTERS[own_pools(scenario.decode_pools)[0].router](stream(scenario.seed, "decode_router"))


def build_pools(scenario: Scenario) -> tuple[AnyPool, ...]:
    """Return every pool of a scenario.

    Raises
    ------
    UserError
        If a name is unknown, the layout does not divide the model, or the model does not fit.
    """
    node = scenario.network.topology
    apart, hosts = bool(scenario.encode_pools), {pool.shares for pool in scenario.pool}
    pools = tuple(
        build_any_pool(scenario.model, pool, name, node, encodes=not apart, sharing=name in hosts)
        for name, pool in ((scenario.pool_name(number), pool) for number, pool in enumerate(scenario.pool))
    )
    check_built(scenario, pools)
    return pools


def build_any_pool(  # noqa: PLR0913 - what decides what instances are made of
    table: Model, pool: Pool, name: str, topology: str | None, *, encodes: bool, sharing: bool = False
) -> AnyPool:
    """Return one pool, whatever its stages; what :func:`build_pool` says of parameters and errors holds here."""
    if pool.encodes_alone:
        return build_encode_pool(pool, name, _model(table), topology)
    return build_pool(table, pool, name, topology, encodes=encodes, sharing=sharing)


def build_pool(  # noqa: PLR0913 - what decides what instances are made of
    table: Model, pool: Pool, name: str, topology: str | None, *, encodes: bool = True, sharing: bool = False
) -> BuiltPool:
    """Return one pool that computes prompts, or decodes.

    Parameters
    ----------
    table
        What it serves.
    pool
        Its table.
    name
        Its name in results and error sentences.
    topology
        What its instances stand in, None for what their chips come in.
    encodes
        Where its instances compute prompts, they encode the images in them, too.
    sharing
        Another pool shares its chips.

    Raises
    ------
    UserError
        As :func:`build_pools`.
    """
    cached = _with_cache(_model(table), pool, table.kv_cache)
    shares = sharing or pool.shares is not None
    built = _build_pool(pool, name, cached, topology, encodes=pool.prefills and encodes, sharing=shares)
    if not shares or pool.step_profile is not None:
        return built
    return replace(built, exchange=communication(cost_chain(pool, name, built.chip), built.operators.per_token))


def _model(table: Model) -> ModelSpec:
    model = load_model(table.name, weights=table.weights, kv_cache=table.kv_cache)
    return replace(model, max_tokens=table.max_tokens or model.max_tokens)


def check_built(scenario: Scenario, pools: Sequence[AnyPool]) -> None:
    """Check what a scenario says of its pools once they are built.

    Raises
    ------
    UserError
        If pools do not fit on the chips they share, a price is of a chip that there is not, or instances would switch
        to chips of another kind.
    """
    check_memory(pools)
    _check_prices(scenario, {pool.chip.name for pool in pools})
    _check_switches(scenario, {pool.name: pool for pool in pools})


def _check_switches(scenario: Scenario, pools: Mapping[str, AnyPool]) -> None:
    """Check that instances switch between pools on as many chips of the same kind."""
    for pair in scenario.operations.switches():
        one, other = (pools[name] for name in pair)
        if (one.chip.name, one.layout.chips) != (other.chip.name, other.layout.chips):
            raise ScenarioError(
                f"operations: an instance of {one.name!r} has {one.layout.chips} x {one.chip.name}, one of "
                f"{other.name!r} {other.layout.chips} x {other.chip.name}; instances can switch only between pools "
                "with as many chips of one kind"
            )


def _check_prices(scenario: Scenario, used: set[str]) -> None:
    """Check that prices are of chips there are: a misspelt one would leave the cost out without a word."""
    known = used.union(chip_names())
    for name in scenario.cost.chip_hour:
        if name not in known:
            raise ScenarioError(f"cost.chip_hour.{name}: there is no such chip; {suggest(name, known)}")


def _with_cache(model: ModelSpec, pool: Pool, asked: str | None) -> ModelSpec:
    return model if asked else ENGINES[pool.engine].with_cache(model, load_chip(pool.chip))


def _build_pool(  # noqa: PLR0913 - what decides what instances are made of
    pool: Pool, name: str, model: ModelSpec, topology: str | None, *, encodes: bool, sharing: bool
) -> BuiltPool:
    chip, engine = load_chip(pool.chip), ENGINES[pool.engine]
    layout = layout_of(pool)
    check_layout(name, model, layout)
    if engine.ranks is not None and layout.data > 1:
        engine.ranks.check(f"pool.{name}", pool.engine, layout)
    asked = _asked_tokens(model, pool.engine_options)
    given = pool.engine_options.of_stages(prefills=pool.prefills, decodes=pool.decodes)
    apart = engine.ranks is not None and not engine.ranks.steps_together(model)
    group = replace(layout, data=1) if apart else layout
    options = engine.filled(given, chip, asked, name, group)
    plan = options.plan(prefills=pool.prefills)
    budget = engine.memory_budget(plan)
    loaded = model.with_drafting_layer if pool.drafts else model
    memory = plan_memory(loaded, group, chip, encoder_budget(budget, model, layout, encodes=encodes))
    blocks = _blocks(pool, name, plan, memory) - engine.reserved_blocks
    options = options.fitted(blocks * plan.block_tokens, asked)
    plan = _within_states(options.plan(prefills=pool.prefills), memory)
    max_tokens = _max_tokens(name, model, options, plan, blocks)
    if not plan.limits.chunked and pool.prefills:
        _check_budget(name, plan, max_tokens)
    options = options.model_copy(update={"max_model_len": max_tokens})
    most = min(_most_tokens(plan, max_tokens), blocks * plan.block_tokens + plan.limits.max_sequences)
    limits = StepLimits(most, plan.limits.max_sequences, max_tokens)
    operators = step_operators(model, layout)
    piped = layout.pipeline > 1 and pool.prefills
    # Micro-batches are planned when the last one of their requests is over.
    ahead = plan.plans_ahead and not piped
    host = calibration_of(pool).host_time(engine.host_on(chip, layout.tensor, ahead=ahead, answer_ns=plan.answer_ns))
    costs, tables, set_aside = _priced(pool, name, model, chip, operators, limits, host)
    encoder = fused_encoder(pool, name, model, chip, layout, host) if encodes else None
    make = engine.instances(options, blocks) or _instances(name, encoder, plan, sharing=sharing, piped=piped)
    parts = EngineParts(
        scheduler=engine.scheduler(plan),
        blocks=blocks,
        block_tokens=plan.block_tokens,
        max_tokens=max_tokens - plan.unused_tokens,
        max_prompt=plan.max_prompt or max_tokens - plan.unused_tokens,
        replicas=pool.replicas,
        prefills=pool.prefills,
        decodes=pool.decodes,
        caching=options.caches_prefixes,
        host_blocks=host_blocks(plan.host_gib, memory.block * layout.chips // layout.data),
        host_block_ns=memory.block / _copy_rate(pool, chip, topology) * 1e9,
        blank_first=engine.era is None or engine.era.blank_first,
        plans_ahead=ahead,
        polls_every=plan.polls_every,
        **_ranks(engine, plan, model, layout, piped=piped),
        tells_late=engine.tells_late,
        front_end=_front_end(pool, plan),
        **_waits(name, plan, costs.prices, ahead=ahead, alone=make is None),
        make=make,
    )
    host_w = host_w_per_chip(topology or chip.node)
    built = BuiltPool(
        name, model, chip, layout, options, memory, costs, parts, tables, set_aside, operators, pool.power_cap, host_w
    )
    return replace(built, encoder=encoder, shares=pool.shares)


def _instances(
    name: str, encoder: EncoderCosts | None, plan: EnginePlan, *, sharing: bool, piped: bool
) -> type[Instance | PipelinedInstance] | None:
    """Return what makes instances that encode, share chips or have stages; None where they do neither."""
    if piped:
        beside = {"shares": sharing, "an encoder in the same steps": encoder is not None}
        beside["kv_offloading_size"] = plan.host_gib > 0
        for what in (what for what, found in beside.items() if found):
            raise ScenarioError(
                f"pool.{name}: found pipeline_parallel and {what} in a pool that computes prompts, which are not "
                "simulated together; leave one out, or use tensor_parallel"
            )
        return PipelinedInstance
    if sharing:
        return SharingInstance
    return None if encoder is None else EncodingInstance


def _blocks(pool: Pool, name: str, plan: EnginePlan, memory: MemoryPlan) -> int:
    """Return the KV blocks of each instance: those it is given, or as many as fit and are allowed."""
    if pool.limits.kv_blocks and plan.given_blocks:
        raise ScenarioError(
            f"pool.{name} has limits.kv_blocks {pool.limits.kv_blocks} and engine_options.num_gpu_blocks_override "
            f"{plan.given_blocks}, which say the same; leave one out"
        )
    given = pool.limits.kv_blocks or plan.given_blocks
    if given:
        return given
    fitting = min(memory.blocks, plan.most_blocks or memory.blocks)
    if plan.most_kv_bytes is None:
        return fitting
    found = min(fitting, plan.most_kv_bytes // memory.block)
    if not found:
        raise ScenarioError(
            f"pool.{name}.engine_options.kv_cache_config.max_gpu_total_bytes is {plan.most_kv_bytes}, less than one KV "
            f"block of {memory.block} bytes"
        )
    return found


def _waits(name: str, plan: EnginePlan, prices: StepPrices, *, ahead: bool, alone: bool) -> dict[str, Any]:
    """Return what the parts of a pool say of prices, and of the wait for requests beside steps or between them."""
    if not plan.wait_ms:
        return {"prices": prices}
    if not alone:
        raise ScenarioError(
            f"pool.{name}.engine_options.batch_wait_timeout_ms is {plan.wait_ms:g}, which is not simulated where "
            "steps encode images, follow each other through pipeline stages or share their chips; leave it out"
        )
    wait_ns = round(plan.wait_ms * 1e6)
    return {
        "prices": WaitingPrices(prices, wait_ns) if ahead else prices,
        "fetch_window": partial(FetchWindow, wait_ns, plan.limits.max_sequences),
    }


def _within_states(plan: EnginePlan, memory: MemoryPlan) -> EnginePlan:
    """Return a plan that runs no more sequences than there is room for states."""
    if not memory.sequences:
        return plan
    most = min(plan.limits.max_sequences, memory.sequences)
    return replace(plan, limits=replace(plan.limits, max_sequences=most))


def _front_end(pool: Pool, plan: EnginePlan) -> FrontEndTime:
    """Return what stands between clients and an instance; tokens that leave together are one message."""
    time = calibration_of(pool).front_end_time(ENGINES[pool.engine].front_end)
    return replace(time, output_ns=time.output_ns // plan.stream_interval)


def _copy_rate(pool: Pool, chip: Chip, topology: str | None) -> float:
    """Return the rate at which a chip reads host memory, bytes/s."""
    given, node = pool.limits.host_gb_per_s, topology or chip.node
    return given * 1e9 if given else copy_bytes_per_s(chip, None if node is None else load_node(node))


def _priced(  # noqa: PLR0913, PLR0917 - what decides a price
    pool: Pool, name: str, model: ModelSpec, chip: Chip, operators: StepOperators, limits: StepLimits, host: HostTime
) -> tuple[CompiledCosts | ProfiledCosts, dict[str, str], dict[str, Mapping[str, int]]]:
    """Return the costs of a pool's steps, the SHA-256 of every file they come from, and what was set aside in them."""
    layout = layout_of(pool)
    if pool.step_profile is not None:
        where = f"pool.{name}.step_profile {pool.step_profile!r}"
        if pool.vidur and not Path(pool.step_profile).is_dir():
            raise CostError(f"{where} is no folder; cost_sources ['vidur'] expect one with tables in Vidur's format")
        return *whole_step_costs(pool.step_profile, model, layout, chip, limits, cap=pool.power_cap, where=where), {}
    source = cost_chain(pool, name, chip)
    drafter = None
    if pool.drafts is not None:
        drafter = Drafter(pool.drafts, draft_operators(model, layout), chip)
    stages, halves = 1 if pool.prefills else layout.pipeline, halves_of(pool, name, model, chip)
    tiled = chip if ENGINES[pool.engine].prompt_tiles else None
    costs = compile_costs(operators, source, limits, host, stages, drafter, halves, tiled)
    tables = {in_database(path): sha256(path) for path in source.files}
    return costs, tables, {in_database(path): counts for path, counts in source.set_aside.items()}


def _ranks(engine: Engine, plan: EnginePlan, model: ModelSpec, layout: Layout, *, piped: bool) -> dict[str, Any]:
    """Return what the parts of a pool say of its attention ranks, or of its micro-batches."""
    if piped:
        return {"ranks": layout.pipeline}
    rules = engine.ranks
    if rules is None or layout.data == 1:
        return {}
    waits = plan.prompt_waits
    return {
        "ranks": layout.data,
        "balancer": plan.balancer or rules.balancer,
        "lockstep": rules.steps_together(model),
        "idle_ranks_lag": rules.idle_lags,
        "prompt_balance": None if waits is None else partial(PromptBalance, *waits, plan.limits.max_sequences),
    }


def _asked_tokens(model: ModelSpec, options: EngineOptions) -> int:
    """Return the longest sequence the options ask for."""
    asked = options.max_model_len
    return model.max_tokens if asked is None or asked == "auto" else asked


def _max_tokens(name: str, model: ModelSpec, options: EngineOptions, plan: EnginePlan, blocks: int) -> int:
    """Return the longest sequence served, after checking that one such sequence fits the KV cache."""
    longest = _asked_tokens(model, options)
    room = blocks * plan.block_tokens
    if longest > model.max_tokens:
        raise ScenarioError(
            f"pool.{name}.engine_options.{options.length_option} is {longest}, but {model.name} holds at most "
            f"{model.max_tokens} tokens (max_position_embeddings); lower it, or set model.max_tokens"
        )
    if options.max_model_len == "auto":
        longest = min(longest, room)
    if longest > room:
        raise CapacityError(
            f"pool.{name}: a sequence of {options.length_option} = {longest} tokens does not fit the KV cache of "
            f"{room} tokens; set engine_options.{options.length_option} to at most {room} (or 'auto'), "
            f"raise {options.memory_option}, or use more chips"
        )
    return longest


def _most_tokens(plan: EnginePlan, longest: int) -> int:
    """Return the most tokens of a step: a policy that cuts no prompts may compute the longest beside decodes."""
    limits = plan.limits
    return limits.max_tokens if limits.chunked else max(limits.max_tokens, longest + limits.max_sequences)


def _check_budget(name: str, plan: EnginePlan, longest: int) -> None:
    if plan.budget_option and plan.limits.max_tokens < longest:
        raise ScenarioError(
            f"pool.{name}: prompts are not cut, so that {plan.budget_option} {plan.limits.max_tokens} must be at "
            f"least max_model_len {longest}, or a prompt may never run"
        )
