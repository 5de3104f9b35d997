"""Pools on the same chips: what must fit, and who runs beside whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hardware.errors import CapacityError
from perfdb.memory import DRIVER_RESERVE_BYTES
from simulator.built_pool import BuiltEncoder
from simulator.chip_share import ChipShare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perfdb.communication import Communication
    from simulator.built_pool import AnyPool
    from simulator.clock import Clock
    from simulator.server import Server

__all__ = ["Neighbours", "check_memory", "hosts_of"]


@runtime_checkable
class _Sharing(Protocol):
    """An instance that can run beside others."""

    env: Clock

    def share_chips(self, share: ChipShare, exchange: Communication | None) -> None:
        """Run on chips that others use too."""
        ...


def hosts_of(pools: Sequence[AnyPool]) -> dict[int, int]:
    """Return for each pool, by number, that on whose chips it runs: itself, unless it shares those of another one."""
    numbers = {pool.name: number for number, pool in enumerate(pools)}
    return {number: number if pool.shares is None else numbers[pool.shares] for number, pool in enumerate(pools)}


def check_memory(pools: Sequence[AnyPool]) -> None:
    """Check that what runs on the same chips fits there together.

    Raises
    ------
    CapacityError
        Naming the pools, what they take and what there is.
    """
    hosts = hosts_of(pools)
    for host in sorted({hosts[number] for number, pool in enumerate(pools) if pool.shares is not None}):
        together = [pools[number] for number in hosts if hosts[number] == host]
        taken, there = sum(map(_taken_bytes, together)), pools[host].chip.visible_memory_bytes - DRIVER_RESERVE_BYTES
        if taken > there:
            names = " and ".join(pool.name for pool in together)
            raise CapacityError(
                f"pools {names} share chips of {there / 1e9:.1f} GB and take {taken / 1e9:.1f} GB; lower "
                "gpu_memory_utilization of those that hold KV"
            )


def _taken_bytes(pool: AnyPool) -> int:
    """Return what a pool takes of each chip: an engine all it may, an encoder what it needs for itself."""
    memory = pool.memory
    return memory.weights + memory.activations + memory.context if isinstance(pool, BuiltEncoder) else memory.budget


class Neighbours:
    """The chips that instances have together, as they come and go.

    Parameters
    ----------
    pools
        All pools, in order.
    """

    def __init__(self, pools: Sequence[AnyPool]) -> None:
        self._hosts: Mapping[int, int] = hosts_of(pools)
        self._sharing = {host for number, host in self._hosts.items() if number != host}
        self._counts = dict.fromkeys(self._hosts, 0)
        self._exchanges = [pool.exchange for pool in pools]
        self._chips: dict[tuple[int, int], ChipShare] = {}
        self._of: dict[int, ChipShare] = {}

    def __bool__(self) -> bool:
        return bool(self._sharing)

    def join(self, pool: int, instance: Server, like: int | None) -> None:
        """Let an instance of a pool run on its chips: those of an earlier instance, or the next ones of its pool."""
        host = self._hosts[pool]
        if host not in self._sharing or not isinstance(instance, _Sharing):
            return
        if like is None:
            place = self._counts[pool]
            self._counts[pool] += 1
            share = self._chips.setdefault((host, place), ChipShare(instance.env))
        else:
            share = self._of[like]
        self._of[instance.number] = share
        instance.share_chips(share, self._exchanges[pool])
