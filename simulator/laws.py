"""Laws that hold at the end of every run; a broken one is an error of ours and stops the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware.errors import LawError

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


def _equal(law: str, found: int, expected: int) -> None:
    if found != expected:
        raise LawError(f"{law}: found {found}, expected {expected}; this is a bug in servesim, please report it")


def _requests(cluster: Cluster) -> None:
    ledger = cluster.ledger
    finished = int((ledger.column("finish_ns") >= 0).sum())
    failed = int(ledger.column("failed").sum())
    _equal("requests in = finished + failed", finished + failed, len(ledger))
    for instance in cluster.instances:
        state = instance.state
        _equal(f"nothing is left on instance {instance.number}", len(state.running) + len(state.waiting), 0)


def _blocks(cluster: Cluster) -> None:
    for instance in cluster.instances:
        pool = instance.state.pool
        _equal(f"blocks allocated = freed on instance {instance.number}", pool.allocated, pool.freed)
        _equal(f"blocks free at the end of instance {instance.number}", pool.free, pool.blocks)
        _equal(f"free blocks never negative on instance {instance.number}", min(pool.least_free, 0), 0)


def _tokens(cluster: Cluster) -> None:
    """Every output token was produced by one decode step or by one completed prompt."""
    ledger = cluster.ledger
    tables = [log.table() for log in cluster.logs]
    produced = sum(int((t["decodes"] * t["steps"] + t["completed"]).sum()) for t in tables)
    finished = ledger.column("finish_ns") >= 0
    _equal("tokens produced = output tokens", produced, int(ledger.column("output_tokens")[finished].sum()))
    computed = sum(int(t["tokens"].sum()) for t in tables)
    prompts = int(ledger.column("prompt_tokens")[finished].sum())
    if not ledger.column("preemptions").any():
        _equal("prompt tokens computed = prompt tokens", computed, prompts)


def _order_of_times(cluster: Cluster) -> None:
    ledger = cluster.ledger
    names = ("arrival_ns", "admitted_ns", "first_token_ns", "finish_ns")
    finished = ledger.column("finish_ns") >= 0
    columns = [ledger.column(name)[finished] for name in names]
    for earlier, later, label in zip(columns, columns[1:], names[1:], strict=False):
        _equal(f"clock never backwards before {label}", int((later < earlier).sum()), 0)
