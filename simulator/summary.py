"""The summary of a run: every number of ``summary.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perfdb.shares import time_by_origin
from simulator.built_pool import BuiltEncoder
from simulator.encoding_summary import encoding_summary
from simulator.fused_encoder import FusedEncoder
from simulator.link_windows import link_windows
from simulator.metrics import latency_summary, throughput_summary
from simulator.power import HOST_LOAD, Stay, add_up, pool_power
from simulator.records import StepLog, TransferLog
from simulator.server import cores_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from simulator.built_pool import AnyPool
    from simulator.engine_core import EngineCore
    from simulator.finished import Finished
    from simulator.power import PoolPower
    from simulator.records import EncodeLog
    from simulator.schedulers import EngineState

__all__ = ["cost_per_hour", "priced_shares", "summarise"]


def summarise(run: Finished) -> dict[str, Any]:
    """Return the summary, in the key names of ``vllm bench serve --save-result`` and our own.

    Parameters
    ----------
    run
        A finished run whose laws were checked.
    """
    cluster, ledger = run.cluster, run.cluster.ledger
    links = _links(run)
    summary: dict[str, Any] = {"scenario": run.scenario.name, "model_id": run.scenario.model.name}
    summary |= throughput_summary(ledger, run.times, run.gaps, run.warmup_ns)
    summary |= latency_summary(run.times, run.gaps)
    chips = sum(pool.chips for pool in run.pools)
    power = _power(run)
    pools = _pools(run, power)
    whole = add_up(power, run.end_ns())
    per_hour = cost_per_hour(run, whole)
    summary |= {
        "chips": chips,
        "goodput_per_chip": summary["request_goodput"] / chips,
        "cost_per_hour": per_hour,
        "cost_per_million_output_tokens": _cost(per_hour, summary["output_throughput"]),
        **_energy(run, whole),
        "preemptions": int(ledger.column("preemptions").sum()),
        "prefix_cache_hit_rate": _hit_rate(_prompt_states(run)),
        "host_cache_hit_rate": _host_hit_rate(_prompt_states(run)),
        "pools": pools,
        "operations": _operations(run),
        "transfers": _transfers(run),
        "links": links,
        **_busiest(run, links),
        "skipped_rows": dict(sorted(run.requests.skipped.items())),
        "requests_with_images": 0 if run.requests.images is None else int((run.requests.images > 0).sum()),
        **encoding_summary(run),
        "events": cluster.events,
        "steps": sum(pool["steps"] for pool in pools.values()),
    }
    return summary | _shares(_total([pool["time_ms"] for pool in pools.values()]))


def cost_per_hour(run: Finished, power: PoolPower | None = None) -> float | None:
    """Return currency per hour for chips and, where it has a price, energy; None where a chip has no price.

    Parameters
    ----------
    run
        A finished run.
    power
        Of all pools, where it is known already.
    """
    price = run.scenario.cost
    if any(pool.chip.name not in price.chip_hour for pool in run.pools):
        return None
    chips = float(sum(pool.chips * price.chip_hour[pool.chip.name] for pool in run.pools))
    if not price.energy_kwh:
        return chips
    whole = add_up(_power(run), run.end_ns()) if power is None else power
    return chips + whole.mean_w / 1000 * price.energy_kwh


def priced_shares(run: Finished) -> dict[str, float]:
    """Return the shares of the time of all steps by the origin of their prices, as the summary has them.

    Instances of a pool are looked at together, so that the last digits may differ from those of the summary.
    """
    owner, found = run.instance_pools(), []
    for number, pool in enumerate(run.pools):
        instances = [run.cluster.instances[i] for i in np.flatnonzero(owner == number)]
        tables = [_step_table(pool, log) for one in instances for log in one.step_logs]
        found.append(_priced(pool, {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}))
        found += [_encoder_time(pool, core) for core in cores_of(instances)]
    return _shares(_total(found))


def _cost(per_hour: float | None, tokens_per_s: float) -> float | None:
    """Return currency per million output tokens, or None where a chip has no price."""
    if per_hour is None or not tokens_per_s:
        return None
    return per_hour / 3600 / tokens_per_s * 1e6


def _power(run: Finished) -> list[PoolPower]:
    """Return the power of each pool."""
    owner, end_ns = run.instance_pools(), run.end_ns()
    return [
        pool_power(pool, [stay for i in np.flatnonzero(owner == number) for stay in _stays(run, int(i))], end_ns)
        for number, pool in enumerate(run.pools)
    ]


def _stays(run: Finished, instance: int) -> list[Stay]:
    """Return the logs of an instance's ranks, or of its encoder, and when they were there."""
    found = run.cluster.instances[instance]
    end_ns = found.started_ns + run.served_ns(instance)
    logs = [core.log for core in found.cores] or found.step_logs
    return [Stay(log.table(), found.started_ns, end_ns) for log in logs]


def _energy(run: Finished, power: PoolPower) -> dict[str, float]:
    """Return the energy and power of all pools; per request and token of the whole run, warm-up included."""
    finished = run.cluster.ledger.column("finish_ns") >= 0
    tokens = int(run.cluster.ledger.column("output_tokens")[finished].sum())
    return {
        **_watts(power),
        "energy_wh_per_request": power.energy_wh / max(int(finished.sum()), 1),
        "energy_wh_per_million_output_tokens": power.energy_wh / max(tokens, 1) * 1e6,
    }


def _watts(power: PoolPower) -> dict[str, float]:
    return {
        "energy_wh": power.energy_wh,
        "mean_power_w": power.mean_w,
        "peak_power_w": power.peak_w,
        "provisioned_power_w": power.provisioned_w,
    }


def _pools(run: Finished, power: Sequence[PoolPower]) -> dict[str, dict[str, Any]]:
    owner = run.instance_pools()
    return {
        pool.name: _pool(run, pool, [int(i) for i in np.flatnonzero(owner == number)])
        | _pool_power(pool, power[number])
        for number, pool in enumerate(run.pools)
    }


def _pool(run: Finished, pool: AnyPool, members: Sequence[int]) -> dict[str, Any]:
    cluster = run.cluster
    logs = [log for i in members for log in cluster.instances[i].step_logs]
    tables = [log.table() for log in logs]
    served_ns = sum(run.served_ns(i) * len(cluster.instances[i].step_logs) for i in members)
    busy_ns = sum(int(table["duration_ns"].sum()) for table in tables)
    steps = sum(int(table["steps"].sum()) for table in tables)
    cores = cores_of(cluster.instances[i] for i in members)
    decoded = sum(int((table["decodes"] * table["steps"]).sum()) for table in (core.log.table() for core in cores))
    ledger, states = cluster.ledger, [core.state for core in cores]
    stages = ("encode_instance", "instance", "decode_instance")
    served = np.any([np.isin(ledger.column(stage), members) for stage in stages], axis=0)
    time_ns = _total([_time_by_origin(pool, log) for log in logs] + [_encoder_time(pool, core) for core in cores])
    return {
        "chip": pool.chip.name,
        "chips": pool.chips,
        "replicas": pool.parts.replicas,
        "requests": int(served.sum()),
        "utilisation": busy_ns / served_ns if served_ns else 0.0,
        "mean_decode_batch": decoded / steps if steps else 0.0,
        "steps": steps,
        "kv_blocks": pool.parts.blocks,
        "kv_peak": max((1 - state.pool.least_free / state.pool.blocks for state in states), default=0.0),
        "preemptions": sum(state.preemptions for state in states),
        "prefix_cache_hit_rate": _hit_rate(states),
        "host_cache_hit_rate": _host_hit_rate(states),
        "rows_set_aside": _rows_set_aside(pool),
        "time_ms": {name: ns / 1e6 for name, ns in time_ns.items()},
    }


def _time_by_origin(pool: AnyPool, log: StepLog | EncodeLog) -> dict[str, float]:
    return _priced(pool, _step_table(pool, log))


def _step_table(pool: AnyPool, log: StepLog | EncodeLog) -> dict[str, NDArray[np.int64]]:
    return log.of_tokens() if isinstance(log, StepLog) and not isinstance(pool, BuiltEncoder) else log.table()


def _priced(pool: AnyPool, table: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
    return pool.costs.time_by_origin(table) if isinstance(pool, BuiltEncoder) else time_by_origin(pool.costs, table)


def _encoder_time(pool: AnyPool, core: EngineCore) -> dict[str, float]:
    """Return the time by origin of the encoder that runs in the steps of an engine; nothing where none does."""
    media = core.state.media
    if pool.encoder is None or not isinstance(media, FusedEncoder):
        return {}
    return pool.encoder.time_by_origin(media.log.table())


def _rows_set_aside(pool: AnyPool) -> int:
    """Return how many rows of its kernel tables screening set aside."""
    return sum(rows for counts in pool.set_aside.values() for reason, rows in counts.items() if reason != "rows")


def _pool_power(pool: AnyPool, power: PoolPower) -> dict[str, Any]:
    return {"power_cap": pool.power_cap, **_watts(power), "host_power_w": HOST_LOAD * pool.host_w * pool.chips}


def _prompt_states(run: Finished) -> list[EngineState]:
    """Return the states of all instances that compute prompts."""
    owner, instances = run.instance_pools().tolist(), run.cluster.instances
    found = [i for i, pool in zip(instances, owner, strict=True) if run.pools[pool].parts.prefills]
    return [core.state for core in cores_of(found)]


def _hit_rate(states: Sequence[EngineState]) -> float:
    """Return the tokens found in the cache over those looked up when requests were first admitted, as vLLM does."""
    queried = sum(state.queried for state in states)
    return sum(state.hits for state in states) / queried if queried else 0.0


def _host_hit_rate(states: Sequence[EngineState]) -> float:
    """Return the tokens copied from the host over those looked up when requests were first admitted."""
    queried = sum(state.queried for state in states)
    return sum(state.host_hits for state in states) / queried if queried else 0.0


def _operations(run: Finished) -> dict[str, int]:
    """Return what happened to the deployment, and how many requests started over for it."""
    hand_over = run.cluster.hand_over
    return {
        "instances_lost": run.operations.instances_lost,
        "role_switches": run.operations.switches,
        "requests_restarted": int((run.cluster.ledger.column("restarts") > 0).sum()),
        "transfers_given_up": hand_over.given_up,
        "transfers_timed_out": hand_over.timed_out,
    }


def _transfers(run: Finished) -> dict[str, float]:
    """Return what was handed over: count, bytes and times, all zero where nothing was."""
    carrier = run.cluster.carrier
    table = carrier.log.table() if carrier is not None else TransferLog().table()
    times_ms = table["duration_ns"] / 1e6 if len(table["duration_ns"]) else np.zeros(1)
    found = {
        "count": len(table["start_ns"]),
        "bytes": int(table["size_bytes"].sum()),
        "mean_ms": float(times_ms.mean()),
    }
    return found | {f"p{q}_ms": float(np.percentile(times_ms, q)) for q in (50, 99)}


def _links(run: Finished) -> dict[str, dict[str, float]]:
    """Return the links that carried KV: bytes, share of the run they were busy, most flows at once."""
    if run.fabric is None or run.cluster.carrier is None:
        return {}
    last_ns = max(run.end_ns(), 1)
    use = run.cluster.carrier.link_use()
    return {
        f"{link.source}>{link.target}": {
            "bytes": float(use.carried_bytes[link.id]),
            "utilisation": float(use.busy_ns[link.id]) / last_ns,
            "peak_flows": int(use.peak_flows[link.id]),
        }
        for link in run.fabric.topology.links
        if use.carried_bytes[link.id] > 0
    }


def _busiest(run: Finished, links: dict[str, dict[str, float]]) -> dict[str, str | float | None]:
    """Return the link with the highest utilisation, that, and the highest of a window; None where there is none."""
    name = max(links, key=lambda name: links[name]["utilisation"], default=None)
    mean, peak = None, None
    if name is not None:
        found = link_windows(run)
        mean, peak = links[name]["utilisation"], float(found.utilisation[:, found.names.index(name)].max())
    return {"busiest_link": name, "busiest_link_utilisation": mean, "busiest_link_peak_utilisation": peak}


def _total(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}


def _shares(time_ms: dict[str, float]) -> dict[str, float]:
    whole = sum(time_ms.values())
    return {f"{name}_share": (ms / whole if whole else 0.0) for name, ms in time_ms.items()}
