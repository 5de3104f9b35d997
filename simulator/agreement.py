"""What the tables of a scenario must agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware.errors import suggest
from simulator.engines import ENGINES
from simulator.incidents import InstanceDown, LinkChange
from simulator.pool_table import decode_pools, encode_pools, entry_pools, hands_over, own_pools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.incidents import OperationsTable
    from simulator.network import KvTransfer, NetworkTable
    from simulator.pool_table import Pool

__all__ = ["check_agreement"]


def check_agreement(
    pools: Sequence[Pool], names: Sequence[str], operations: OperationsTable, network: NetworkTable
) -> None:
    """Check that pools, their stages and what is to happen to them fit together.

    Raises
    ------
    ValueError
        Saying what does not, and what was expected.
    """
    transfer = network.kv_transfer
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two pools are named {twice!r}; names must differ")
    _stages(pools)
    _sharing(pools, names)
    for members in (entry_pools(pools), decode_pools(pools), encode_pools(pools)):
        routers = sorted({pool.router for pool in (own_pools(members) if members else ())})
        if len(routers) > 1:
            raise ValueError(f"pools that take the same requests need one router, found {' and '.join(routers)}")
    if hands_over(pools) and any(ENGINES[pool.engine].live for pool in pools):
        raise ValueError(
            "engine 'vllm-live' takes no KV from other pools; expected engine 'vllm' where KV is handed over"
        )
    _starts(pools, names, operations, network)
    _own_ways(pools, transfer)
    _helpers(pools)
    _incidents(pools, names, operations)
    _links(pools, operations, transfer)


def _starts(pools: Sequence[Pool], names: Sequence[str], operations: OperationsTable, network: NetworkTable) -> None:
    """Check that prompts begin before all their images are there only where a scheduler computes them in parts."""
    if network.feature_transfer.prompt_starts != "ready":
        return
    if not encode_pools(pools):
        raise ValueError(
            "network.feature_transfer.prompt_starts is 'ready', but no pool encodes for others; expected one with "
            "stages = ['encode']"
        )
    for pool in entry_pools(pools):
        if ENGINES[pool.engine].policy != "vllm" or pool.engine_options.prompts_first:
            raise ValueError(
                f"network.feature_transfer.prompt_starts is 'ready', but engine {pool.engine!r} begins a prompt when "
                "all its images are there; expected engine 'vllm', whose own scheduler computes prompts up to a "
                "missing image"
            )
    encoders = {name for name, pool in zip(names, pools, strict=True) if pool.encodes_alone}
    for one in operations.incident:
        if isinstance(one, InstanceDown) and one.pool in encoders and one.restart_after_s is None:
            raise ValueError(
                f"network.feature_transfer.prompt_starts is 'ready', but an instance of {one.pool!r} dies for ever, so "
                "that prompts which have begun might never end; expected restart_after_s, or prompt_starts = 'complete'"
            )


def _stages(pools: Sequence[Pool]) -> None:
    if not entry_pools(pools):
        raise ValueError("no pool serves the stage 'prefill'; expected one with stages = ['prefill']")
    if hands_over(pools) and not decode_pools(pools):
        raise ValueError(
            "a pool serves 'prefill' alone and none takes its requests on; expected a pool with stages = ['decode']"
        )
    if any("encode" in pool.stages and pool.stages[-1] == "decode" and not pool.prefills for pool in pools):
        raise ValueError(
            "a pool serves 'encode' and 'decode', which no engine does in one step; expected two pools, one of which "
            "shares the chips of the other"
        )
    if encode_pools(pools) and any("encode" in pool.stages and pool.prefills for pool in pools):
        raise ValueError(
            "a pool serves 'encode' alone and another one encodes in its own steps, but images go one way; expected "
            "'encode' among the stages of one kind of pool"
        )
    if not hands_over(pools) and any(pool.decodes and not pool.prefills for pool in pools):
        raise ValueError(
            "a pool serves 'decode' alone and none hands requests over; expected a pool with stages = ['prefill']"
        )


def _sharing(pools: Sequence[Pool], names: Sequence[str]) -> None:
    """Check that pools that share chips have as many instances on as many chips of one kind."""
    for name, pool in zip(names, pools, strict=True):
        if pool.shares is None:
            continue
        if pool.shares not in names or pool.shares == name:
            others = [other for other in names if other != name]
            raise ValueError(f"pool.{name}.shares is {pool.shares!r}; {suggest(pool.shares, others)}")
        host = pools[names.index(pool.shares)]
        if host.shares is not None:
            raise ValueError(f"pool.{name}.shares is {pool.shares!r}, which shares chips itself; name {host.shares!r}")
        found, wanted = ((one.replicas, one.chip, _chips(one)) for one in (pool, host))
        if found != wanted:
            raise ValueError(
                f"pool.{name} is {found[0]} x {found[2]} {found[1]} and shares the chips of {pool.shares!r}, which is "
                f"{wanted[0]} x {wanted[2]} {wanted[1]}; expected as many instances on as many of the same chips"
            )
        if any(ENGINES[one.engine].live or one.data_parallel > 1 for one in (pool, host) if not one.encodes_alone):
            raise ValueError(
                f"pool.{name} shares the chips of {pool.shares!r}, but the steps of attention ranks or of 'vllm-live' "
                "beside others are not simulated; expected data_parallel = 1 and another engine"
            )


def _chips(pool: Pool) -> int:
    return pool.tensor_parallel * pool.pipeline_parallel * pool.data_parallel


def _own_ways(pools: Sequence[Pool], transfer: KvTransfer) -> None:
    """Check that an engine that hands KV over in its own ways meets its like alone, and has those that are asked."""
    names = sorted({pool.engine for pool in pools})
    name = next((name for name in names if ENGINES[name].kv_modes), None)
    if name is None or not hands_over(pools):
        return
    modes, said = ENGINES[name].kv_modes, transfer.model_fields_set
    if len(names) > 1:
        raise ValueError(
            f"engine {name!r} hands KV over to its like alone, found {' and '.join(names)}; use one engine"
        )
    if any(pool.serves_both for pool in pools):
        raise ValueError(
            f"an instance of engine {name!r} that serves both stages takes no KV; expected ['prefill'] or ['decode'] "
            "as stages of every pool"
        )
    if "mode" in said and transfer.mode not in modes:
        raise ValueError(
            f"network.kv_transfer.mode is {transfer.mode!r}, which engine {name!r} does not have; expected "
            f"{' or '.join(map(repr, modes))}"
        )
    if "on_timeout" in said and transfer.on_timeout == "recompute":
        raise ValueError(
            f"network.kv_transfer.on_timeout is 'recompute', but an instance of engine {name!r} that decodes computes "
            "no prompts; expected 'fail'"
        )


def _helpers(pools: Sequence[Pool]) -> None:
    helpers = [pool for pool in pools if pool.serves_both]
    if not hands_over(pools) and any(pool.helps_above for pool in helpers):
        raise ValueError(
            "helps_above has no meaning where no pool serves one stage alone; expected a pool with "
            "stages = ['prefill'] beside it, or no helps_above"
        )
    alone = next((pool for pool in pools if pool.helps_above and not pool.serves_both), None)
    if alone is not None:
        raise ValueError(
            f"helps_above is {alone.helps_above} in a pool of stages = {list(alone.stages)}, but pools of one stage "
            "take its requests anyhow; set it on a pool with stages = ['prefill', 'decode']"
        )
    if len({pool.helps_above for pool in helpers}) > 1:
        raise ValueError("pools that serve both stages need one helps_above")


def _incidents(pools: Sequence[Pool], names: Sequence[str], operations: OperationsTable) -> None:
    for name in operations.pools():
        if name not in names:
            raise ValueError(f"operations name a pool {name!r}; {suggest(name, names)}")
    fixed = {name for name, pool in zip(names, pools, strict=True) if pool.encodes_alone or pool.shares}
    fixed |= {pool.shares for pool in pools if pool.shares}
    switched = next((name for pair in operations.switches() for name in pair if name in fixed), None)
    if switched is not None:
        raise ValueError(
            f"operations switch instances of pool {switched!r}, which encodes alone or shares chips; such pools keep "
            "their instances"
        )
    for one in operations.incident:
        if not isinstance(one, InstanceDown) or operations.switching is not None:
            continue
        replicas = pools[names.index(one.pool)].replicas
        if one.instance >= replicas:
            raise ValueError(
                f"operations.incident: instance is {one.instance}, but pool {one.pool!r} has {replicas}, expected "
                f"0 to {replicas - 1}"
            )


def _links(pools: Sequence[Pool], operations: OperationsTable, transfer: KvTransfer) -> None:
    changes = [one for one in operations.incident if isinstance(one, LinkChange)]
    if changes and not hands_over(pools):
        raise ValueError("operations.incident changes a link, but no pool hands requests over, so that links idle")
    for one in changes:
        back = any(o.link == one.link and o.at_s > one.at_s and o.capacity > 0 for o in changes)
        if not one.capacity and not back and transfer.timeout_s is None:
            raise ValueError(
                f"operations.incident: link {one.link!r} has capacity 0 for ever, and transfers would never end; "
                "expected a later incident that brings it back, or network.kv_transfer.timeout_s"
            )
