"""Laws that hold at the end of every run; a broken one is an error of ours and stops the run."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hardware.errors import LawError
from simulator.server import cores_of

if TYPE_CHECKING:
    from simulator.cluster import Cluster

__all__ = ["check_laws"]


def check_laws(cluster: Cluster) -> None:
    """Check what must be conserved in a finished run.

    Raises
    ------
    LawError
        Naming the law, what was found and what it should have been.
    """
    _requests(cluster)
    _blocks(cluster)
    _tokens(cluster)
    _order_of_times(cluster)
    _features(cluster)
    if cluster.carrier is not None:
        _equal("bytes sent = bytes received", cluster.carrier.bytes_under_way(), 0)


def _equal(law: str, found: int, expected: int) -> None:
    if found != expected:
        raise LawError(f"{law}: found {found}, expected {expected}; this is a bug in servesim, please report it")


def _requests(cluster: Cluster) -> None:
    ledger = cluster.ledger
    finished = int((ledger.column("finish_ns") >= 0).sum())
    failed = int(ledger.column("failed").sum())
    _equal("requests in = finished + failed", finished + failed, len(ledger))
    for instance in cluster.instances:
        for core in instance.cores:
            state = core.state
            left = len(state.running) + len(state.waiting) + len(state.ready) + state.loading + core.held
            left += len(state.fetching) + len(state.fetched)
            _equal(f"nothing is left on instance {instance.number}", left, 0)
        _equal(f"no load is left on instance {instance.number}", cluster.loads[instance.number], 0)


def _blocks(cluster: Cluster) -> None:
    for instance in cores_of(cluster.instances):
        pool = instance.state.pool
        _equal(f"blocks allocated = freed on instance {instance.number}", pool.allocated, pool.freed)
        _equal(f"blocks free at the end of instance {instance.number}", pool.free, pool.blocks)
        _equal(f"free blocks never negative on instance {instance.number}", min(pool.least_free, 0), 0)
        if instance.state.cache is not None:
            instance.state.cache.check()


def _tokens(cluster: Cluster) -> None:
    """Check that tokens were produced once, and prompts computed once and once more per preemption."""
    ledger = cluster.ledger
    cores = cores_of(cluster.instances)
    tables = [core.log.table() for core in cores]
    produced = sum(int((t["decodes"] * t["steps"] + t["completed"]).sum()) for t in tables)
    finished = ledger.column("finish_ns") >= 0
    wanted = int(ledger.column("output_tokens")[finished].sum()) + cluster.lost_output_tokens
    wanted += sum(core.state.wasted for core in cores)
    _equal("tokens produced = output tokens + those of requests lost later + those nobody got", produced, wanted)
    computed = sum(int(t["tokens"].sum()) for t in tables)
    prompts = int(ledger.column("prompt_tokens")[finished].sum())
    states = [core.state for core in cores]
    again = sum(state.recomputed for state in states)
    again += cluster.recomputed + cluster.hand_over.recomputed + cluster.lost_prompt_tokens
    cached = sum(state.reused for state in states)
    law = "prompt tokens computed = prompt tokens - those cached + those recomputed or lost"
    _equal(law, computed, prompts - cached + again)


def _features(cluster: Cluster) -> None:
    """Check that every request left the encoders, and that none began its prompt before its features were there."""
    if cluster.encoding is None:
        return
    _equal("nothing is left on its way through the encoders", len(cluster.encoding), 0)
    _equal("no features are held that nobody needs", cluster.encoding.held, 0)
    ledger = cluster.ledger
    passed = (ledger.column("features_ns") >= 0) & (ledger.column("finish_ns") >= 0)
    for earlier, later in pairwise(("arrival_ns", "encode_ns", "encoded_ns", "features_ns", "admitted_ns")):
        backwards = ledger.column(later)[passed] < ledger.column(earlier)[passed]
        _equal(f"images encoded in order of time before {later}", int(backwards.sum()), 0)


def _order_of_times(cluster: Cluster) -> None:
    ledger = cluster.ledger
    finished = ledger.column("finish_ns") >= 0
    for earlier, later in pairwise(("arrival_ns", "admitted_ns", "first_token_ns", "finish_ns")):
        backwards = ledger.column(later)[finished] < ledger.column(earlier)[finished]
        _equal(f"clock never backwards before {later}", int(backwards.sum()), 0)
    told = ledger.column("told_ns")
    untimely = (told < ledger.column("first_token_ns")) | (told > ledger.column("finish_ns"))
    _equal("a first token is told between its birth and the end", int((untimely & finished).sum()), 0)
    ready = ledger.column("kv_ready_ns")
    handed = (ready >= 0) & finished
    early = (ready <= ledger.column("first_token_ns")) | (ready >= ledger.column("finish_ns"))
    _equal("no decode before its KV is there", int((handed & early).sum()), 0)
