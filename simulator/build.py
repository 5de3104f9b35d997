"""The only place where the names of a scenario become objects."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hardware.catalogue import chip_names, host_w_per_chip, load_chip
from hardware.errors import CapacityError, ScenarioError, suggest
from perfdb.compile import CompiledCosts, StepLimits, compile_costs
from perfdb.layout import Layout
from perfdb.load_model import load_model
from perfdb.memory import MemoryPlan, plan_memory
from perfdb.operators import step_operators
from perfdb.power_cap import capped_chain, capped_fit
from perfdb.step_profile import ProfiledCosts, load_step_profile, profiled_costs, step_profile_path
from perfdb.tables import sha256
from simulator.cluster import Following
from simulator.engine_parts import EngineParts
from simulator.engines import ENGINES
from simulator.identity import KnownIdentities
from simulator.pool_table import own_pools
from simulator.router import PREFIX_ROUTERS, ROUTERS, SESSION_ROUTERS
from workloads.closed_loop import plan_closed_loop
from workloads.prefixes import prefixes_of
from workloads.streams import stream
from workloads.synthetic import synthesize
from workloads.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from hardware.catalogue import Chip
    from perfdb.model import ModelSpec
    from perfdb.operators import StepOperators
    from simulator.engine_options import EngineOptions, EnginePlan
    from simulator.pool_table import Pool
    from simulator.router import Router
    from simulator.scenario import Scenario, Workload
    from workloads.table import Arrivals, Prefixes

__all__ = [
    "BuiltPool",
    "Requests",
    "build_pools",
    "build_requests",
    "build_router",
    "synthetic_arrivals",
]


@dataclass(frozen=True, slots=True)
class BuiltPool:
    """A pool ready to run.

    Attributes
    ----------
    name
        Its name in results.
    model
        What it serves.
    chip, layout
        What one instance runs on.
    options
        Engine options with every default filled in.
    memory
        Where the memory of a chip goes.
    costs
        Compiled prices and their origins.
    parts
        What its instances are made of.
    tables
        SHA-256 of every table read, by its path inside the database.
    operators
        What one step runs on one chip.
    power_cap
        Share of its TDP that a chip may draw.
    host_w
        Most that the node draws beside its chips, per chip; 0 where nobody says.
    """

    name: str
    model: ModelSpec
    chip: Chip
    layout: Layout
    options: EngineOptions
    memory: MemoryPlan
    costs: CompiledCosts | ProfiledCosts
    parts: EngineParts
    tables: Mapping[str, str]
    operators: StepOperators
    power_cap: float
    host_w: float

    @property
    def chips(self) -> int:
        """Chips of all instances."""
        return self.parts.replicas * self.layout.chips


@dataclass(frozen=True, slots=True)
class Requests:
    """The workload: lengths, and when requests are sent; a :class:`simulator.cluster.Arrivals`.

    Attributes
    ----------
    prompt_tokens, output_tokens
        int64 of shape (requests,).
    times_ns
        Arrivals that wait for no other request, int64, never decreasing.
    think_ns
        Think time before each later request of a closed loop, or of each turn that waits for an answer, int64.
    later
        Row of the turn that waits for each request's answer, int64, -1 for none; None where no turn does.
    images
        Images per request, int64, or None.
    identities
        Who asks and what prompts begin with, where a pool or a router looks at it, or None.
    skipped
        Rows of a trace left out, by reason.
    source
        Where the requests come from.
    """

    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    think_ns: NDArray[np.int64]
    images: NDArray[np.int64] | None
    skipped: Mapping[str, int]
    source: str
    identities: KnownIdentities | None = None
    later: NDArray[np.int64] | None = None

    def first(self) -> Iterable[tuple[int, int]]:
        """Return rows and times of arrivals that wait for no other, a few thousand held at a time."""
        if self.later is not None:
            waiting = set(self.later.tolist())
            yield from ((row, time) for row, time in enumerate(self.times_ns.tolist()) if row not in waiting)
            return
        chunk = 4096
        for start in range(0, len(self.times_ns), chunk):
            yield from enumerate(self.times_ns[start : start + chunk].tolist(), start)

    def after(self, index: int, finished: int) -> Following | None:
        """Return the request that is sent once another is finished or has failed; None for none."""
        if self.later is not None:
            row = int(self.later[index])
            return None if row < 0 else Following(row, int(self.think_ns[row]), goes_on=True)
        if finished > len(self.think_ns):
            return None
        return Following(len(self.times_ns) + finished - 1, int(self.think_ns[finished - 1]))


def build_requests(scenario: Scenario) -> Requests:
    """Return the workload of a scenario.

    Raises
    ------
    TraceError
        If a trace cannot be read.
    ScenarioError
        If every request arrives during the warm-up.
    """
    workload = scenario.workload
    nothing = np.zeros(0, np.int64)
    if workload.closed_loop is not None:
        plan = plan_closed_loop(workload.closed_loop, scenario.seed)
        size = min(len(plan), workload.limit or len(plan))
        start = np.zeros(min(plan.concurrency, size), np.int64)
        later = plan.think_ns[plan.concurrency : size]
        source = f"closed loop of {plan.concurrency}"
        known = _known(None, None, _priorities(scenario, size))
        return Requests(plan.prompt_tokens[:size], plan.output_tokens[:size], start, later, None, {}, source, known)
    found = _open_loop(scenario)
    _check_warmup(workload, found)
    return Requests(
        found.prompt_tokens,
        found.output_tokens,
        found.arrival_ns,
        nothing if found.think_ns is None else found.think_ns,
        found.images,
        found.skipped,
        found.source,
        _identities(scenario, found),
        found.later,
    )


def _identities(scenario: Scenario, found: Arrivals) -> KnownIdentities | None:
    """Return what the pools and routers of a scenario look at, where the workload has it; else None."""
    routers = {pool.router for pool in scenario.pool}
    caching = any(pool.engine_options.caches_prefixes for pool in scenario.pool)
    prefixes = prefixes_of(found) if caching or routers & PREFIX_ROUTERS else None
    if prefixes is not None and not prefixes.contents.size:
        prefixes = None
    session = found.session if routers & SESSION_ROUTERS else None
    return _known(prefixes, session, _priorities(scenario, len(found)))


def _known(
    prefixes: Prefixes | None, session: NDArray[np.int64] | None, priority: NDArray[np.int64] | None
) -> KnownIdentities | None:
    found = (prefixes, session, priority)
    return None if all(column is None for column in found) else KnownIdentities(*found)


def _priorities(scenario: Scenario, requests: int) -> NDArray[np.int64] | None:
    """Return the class of each request, drawn by the classes' shares; None where there is one class."""
    shares = scenario.workload.priority_shares
    if len(shares) < 2:
        return None
    return stream(scenario.seed, "priority").choice(len(shares), requests, p=np.array(shares) / sum(shares))


def synthetic_arrivals(scenario: Scenario) -> Arrivals:
    """Return the arrivals of a scenario's ``[workload.synthetic]`` table, ``limit`` and ``rate_scale`` applied.

    Raises
    ------
    ScenarioError
        If the scenario has no such table.
    """
    workload = scenario.workload
    if workload.synthetic is None:
        kind = "trace" if workload.trace is not None else "closed_loop"
        raise ScenarioError(f"scenario {scenario.name!r}: workload is a {kind}, expected one with workload.synthetic")
    found = synthesize(workload.synthetic, scenario.seed).head(workload.limit or workload.synthetic.requests)
    return found.rescaled(workload.rate_scale)


def _open_loop(scenario: Scenario) -> Arrivals:
    workload = scenario.workload
    if workload.trace is None:
        return synthetic_arrivals(scenario)
    return read_trace(
        workload.trace,
        workload.format,
        on_error=workload.on_error,
        limit=workload.limit,
        rate_scale=workload.rate_scale,
        spread=workload.spread,
        seed=scenario.seed,
    )


def _check_warmup(workload: Workload, found: Arrivals) -> None:
    last_s = int(found.arrival_ns[-1]) / 1e9
    if workload.warmup_s > last_s:
        raise ScenarioError(
            f"workload.warmup_s is {workload.warmup_s:g}, but the last of the {len(found)} requests arrives at "
            f"{last_s:.6g} s, so that none would be measured; lower it"
        )


def build_router(scenario: Scenario) -> Router:
    """Return the router that requests arrive at, on its own random stream."""
    return ROUTERS[own_pools(scenario.entry_pools)[0].router](stream(scenario.seed, "router"))


def build_decode_router(scenario: Scenario) -> Router | None:
    """Return the router of requests that are handed over, on its own random stream; None where none are."""
    if not scenario.decode_pools:
        return None
    return ROUTERS[own_pools(scenario.decode_pools)[0].router](stream(scenario.seed, "decode_router"))


def build_pools(scenario: Scenario) -> tuple[BuiltPool, ...]:
    """Return every pool of a scenario.

    Raises
    ------
    UserError
        If a name is unknown, the layout does not divide the model, or the model does not fit.
    """
    table = scenario.model
    model = load_model(table.name, weights=table.weights, kv_cache=table.kv_cache)
    model = replace(model, max_tokens=table.max_tokens or model.max_tokens)
    node = scenario.network.topology
    pools = tuple(
        _build_pool(pool, scenario.pool_name(number), model, node) for number, pool in enumerate(scenario.pool)
    )
    _check_prices(scenario, {pool.chip.name for pool in pools})
    _check_switches(scenario, {pool.name: pool for pool in pools})
    return pools


def _check_switches(scenario: Scenario, pools: Mapping[str, BuiltPool]) -> None:
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


def _build_pool(pool: Pool, name: str, model: ModelSpec, topology: str | None) -> BuiltPool:
    chip, engine = load_chip(pool.chip), ENGINES[pool.engine]
    layout = Layout(pool.tensor_parallel, pool.pipeline_parallel)
    _check_layout(name, model, layout)
    options = pool.engine_options.filled(chip, _asked_tokens(model, pool.engine_options))
    plan = options.plan(prefills=pool.prefills)
    memory = plan_memory(model, layout, chip, engine.memory_budget(plan))
    blocks = (pool.limits.kv_blocks or memory.blocks) - engine.reserved_blocks
    max_tokens = _max_tokens(name, model, options, plan, blocks)
    if not plan.limits.chunked and pool.prefills:
        _check_budget(name, plan, max_tokens)
    options = options.model_copy(update={"max_model_len": max_tokens})
    limits = StepLimits(_most_tokens(plan, max_tokens), plan.limits.max_sequences, max_tokens)
    operators = step_operators(model, layout)
    costs, tables = _priced(pool, name, model, chip, operators, limits)
    parts = EngineParts(
        scheduler=engine.scheduler(plan),
        prices=costs.prices,
        blocks=blocks,
        block_tokens=plan.block_tokens,
        max_tokens=max_tokens,
        replicas=pool.replicas,
        prefills=pool.prefills,
        decodes=pool.decodes,
        caching=options.caches_prefixes,
        plans_ahead=plan.plans_ahead,
    )
    host_w = host_w_per_chip(topology or chip.node)
    return BuiltPool(
        name, model, chip, layout, options, memory, costs, parts, tables, operators, pool.power_cap, host_w
    )


def _priced(  # noqa: PLR0913, PLR0917 - what decides a price
    pool: Pool, name: str, model: ModelSpec, chip: Chip, operators: StepOperators, limits: StepLimits
) -> tuple[CompiledCosts | ProfiledCosts, dict[str, str]]:
    """Return the costs of a pool's steps, and the SHA-256 of every file they come from."""
    engine, layout = ENGINES[pool.engine], Layout(pool.tensor_parallel, pool.pipeline_parallel)
    if pool.step_profile is not None:
        profile, where = load_step_profile(pool.step_profile), f"pool.{name}.step_profile {pool.step_profile!r}"
        fit = capped_fit(profile.of(model, layout.tensor, chip.name, where), chip, pool.power_cap)
        path = step_profile_path(pool.step_profile)
        return profiled_costs(fit, limits, layout.pipeline), {f"profiles/{path.name}": sha256(path)}
    source = capped_chain(engine.cost_chain(chip, pool.cost_sources), chip, pool.power_cap)
    costs = compile_costs(operators, source, limits, engine.host_on(chip, layout.tensor), layout.pipeline)
    return costs, {"/".join(path.parts[-5:]): sha256(path) for path in source.files}


def _check_layout(name: str, model: ModelSpec, layout: Layout) -> None:
    """Check that pipeline stages are equal, and that tensor parallelism divides the heads (or KV heads divide it)."""
    tensor = layout.tensor
    if model.layers % layout.pipeline:
        raise ScenarioError(
            f"pool.{name}.pipeline_parallel is {layout.pipeline}, which does not divide the {model.layers} layers of "
            f"{model.name}; use one of {_divisors(model.layers)}"
        )
    if model.heads % tensor:
        raise ScenarioError(
            f"pool.{name}.tensor_parallel is {tensor}, which does not divide the {model.heads} attention heads "
            f"of {model.name}; use one of {_divisors(model.heads, model.intermediate)}"
        )
    if model.intermediate % tensor:
        raise ScenarioError(
            f"pool.{name}.tensor_parallel is {tensor}, which does not divide the MLP width {model.intermediate} of "
            f"{model.name}; use one of {_divisors(model.heads, model.intermediate)}"
        )
    if model.kv_heads % tensor and tensor % model.kv_heads:
        raise ScenarioError(
            f"pool.{name}.tensor_parallel is {tensor}, but the {model.kv_heads} key-value heads of {model.name} "
            "can neither be split over nor replicated to that many chips"
        )


def _divisors(*numbers: int) -> str:
    common = math.gcd(*numbers)
    return ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)


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
            f"pool.{name}.engine_options.max_model_len is {longest}, but {model.name} holds at most "
            f"{model.max_tokens} tokens (max_position_embeddings); lower it, or set model.max_tokens"
        )
    if options.max_model_len == "auto":
        longest = min(longest, room)
    if longest > room:
        raise CapacityError(
            f"pool.{name}: a sequence of max_model_len = {longest} tokens does not fit the KV cache of {room} tokens; "
            f"set engine_options.max_model_len to at most {room} (or 'auto'), raise gpu_memory_utilization, "
            "or use more chips"
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
