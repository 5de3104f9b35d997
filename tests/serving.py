"""What engine tests are made of: simple prices, a cluster around them, and columns to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from perfdb.step_prices import FRACTION_BITS, ContextCurve, DecodeCurve, StepPrices
from perfdb.waiting import WaitingPrices
from simulator.arrivals import Following
from simulator.clock import Clock, Urgent
from simulator.cluster import Cluster
from simulator.engine_parts import EngineParts
from simulator.fetch_window import FetchWindow
from simulator.front_end import FrontEndTime
from simulator.incidents import OperationsTable
from simulator.laws import check_laws
from simulator.network import KvTransfer
from simulator.operations import Operations
from simulator.records import Ledger, TransferLog
from simulator.router import RoundRobin
from simulator.schedulers import SCHEDULERS, Limits
from simulator.server import cores_of, step_logs_of
from simulator.token_gaps import TokenGaps, token_gaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from simulator.arrivals import Identities
    from simulator.router import Router

LONGEST = 1 << 17


def linear_prices(
    *,
    step_ns: int = 1_000_000,
    token_ns: int = 1_000,
    context_ns: float = 3.0,
    pair_ns: float = 0.01,
    tokens: int = 4096,
    sequences: int = 512,
) -> StepPrices:
    """Return prices that grow with tokens, with cached tokens and with attended pairs."""

    def decode(n: int) -> DecodeCurve:
        knots = [0, 7, 100, 1000, LONGEST]
        first = [int(n * context_ns * (k + 1) * 2**FRACTION_BITS) for k in knots]
        slope = [(first[i + 1] - first[i]) // (knots[i + 1] - knots[i]) for i in range(4)]
        base = [0]
        for i in range(4):
            d = knots[i + 1] - knots[i]
            base.append(base[-1] + d * first[i] + slope[i] * (d * (d - 1) // 2))
        return DecodeCurve(knots, base, first, [*slope, slope[-1]])

    def context(b: int) -> ContextCurve:
        return ContextCurve([0], [0.0], [(pair_ns * b) ** 0.5])

    return StepPrices(
        [step_ns + token_ns * t if t else 0 for t in range(tokens + 1)],
        [0] * (sequences + 1),
        [0] * (sequences + 1),
        decode,
        context,
    )


@dataclass
class OpenLoop:
    """Arrivals at given times."""

    times_ns: Sequence[int]

    def first(self) -> Iterable[tuple[int, int]]:
        return enumerate(self.times_ns)

    def after(self, _index: int, _finished: int) -> None:
        return None


@dataclass
class Users:
    """A closed loop."""

    concurrency: int
    think_ns: Sequence[int]

    def first(self) -> Iterable[tuple[int, int]]:
        return enumerate([0] * self.concurrency)

    def after(self, _index: int, finished: int) -> Following | None:
        if finished > len(self.think_ns):
            return None
        return Following(self.concurrency + finished - 1, self.think_ns[finished - 1])


@dataclass
class Ranked:
    """Identities by which some requests are more urgent than others."""

    base: Identities | None = None

    def identify(self, request) -> None:
        request.priority = request.index * 7 % 3
        if self.base is not None:
            self.base.identify(request)


@dataclass
class PrivateLinks:
    """A carrier whose links nobody shares: a time per token, and nothing exposed of what a step hides."""

    env: Clock
    ns_per_token: int
    log: TransferLog = field(default_factory=TransferLog)
    opened: int = 0
    fetched: list[int] = field(default_factory=list)

    def bytes_under_way(self) -> int:
        return 0

    def set_capacity(self, link: int, share: float) -> None:
        pass

    def place(self, instance: int, like: int, kv_bytes_per_token: int) -> None:
        pass

    def open(self, source: int, target: int, on_done, ranks=(0, 0)) -> PrivateShipment:
        assert min(ranks) >= 0
        assert source != target
        self.opened += 1
        return PrivateShipment(self, on_done)


@dataclass
class PrivateShipment:
    """KV over private links."""

    links: PrivateLinks
    on_done: Callable[[], None]
    ready_ns: int = 0
    dropped: bool = False

    def send(self, tokens: int) -> None:
        self.links.fetched.append(tokens)
        self._at(self.links.env.now + 1 + tokens * self.links.ns_per_token)

    def compute(self, tokens: int, duration_ns: int, *, last: bool) -> None:
        """Chunks go one after the other, each from the middle of its step on."""
        self.links.fetched.append(tokens)
        start = max(self.ready_ns, self.links.env.now + duration_ns // 2)
        self.ready_ns = start + tokens * self.links.ns_per_token
        if last:
            self._at(max(self.ready_ns, self.links.env.now + duration_ns) + 1)

    def computed(self) -> None:
        pass

    def drop(self) -> None:
        self.dropped = True

    def _at(self, time_ns: int) -> None:
        Urgent(self.links.env, time_ns - self.links.env.now).callbacks.append(lambda _: self.dropped or self.on_done())


@dataclass
class Deployment:
    """One pool of equal instances, or one for prompts and one for decoding."""

    blocks: int = 1000
    block_tokens: int = 16
    max_tokens: int = 2048
    max_sequences: int = 256
    replicas: int = 1
    policy: str = "vllm"
    chunked: bool = True
    reserve_full_prompt: bool = True
    longest: int = LONGEST
    prices: StepPrices = field(default_factory=linear_prices)
    router: Router = field(default_factory=lambda: RoundRobin(np.random.default_rng(0)))
    decode_replicas: int = 0
    decode_blocks: int = 0
    decode_router: Router = field(default_factory=lambda: RoundRobin(np.random.default_rng(0)))
    transfer_ns_per_token: int = 1000
    helpers: int = 0
    helps_above: int = 0
    terms: KvTransfer = field(default_factory=KvTransfer)
    operations: OperationsTable = field(default_factory=OperationsTable)
    caching: bool = False
    identities: Identities | None = None
    rules: dict = field(default_factory=dict)
    plans_ahead: bool = False
    polls_every: int = 1
    ranks: int = 1
    balancer: str = "round_robin"
    lockstep: bool = True
    make: Callable | None = None
    prompt_balance: Callable | None = None
    waits_ns: int = 0
    idle_ranks_lag: bool = True
    declared_tokens: int = 0
    blank_first: bool = True
    host_blocks: int = 0
    host_block_ns: float = 1000.0
    front_end: FrontEndTime = field(default_factory=FrontEndTime)

    def _pool(self, common: dict, blocks: int, replicas: int, **stages: bool) -> EngineParts:
        longest = min(self.longest, blocks * self.block_tokens)
        return EngineParts(**common, blocks=blocks, max_tokens=longest, replicas=replicas, **stages)

    def serve_at_once(self, prompts, outputs) -> Cluster:
        """Run requests that all arrive at the beginning."""
        return self.serve(OpenLoop([0] * len(prompts)), prompts, outputs)

    def serve(self, arrivals, prompts, outputs, *, macro_steps: bool = True) -> Cluster:
        """Run requests to the end and check every law."""
        limits = Limits(self.max_tokens, self.max_sequences, self.chunked)
        own = {"reserve_full_prompt": self.reserve_full_prompt} if self.policy == "vllm" else {}
        scheduler = SCHEDULERS[self.policy](limits, **own, **self.rules)
        common = {"scheduler": scheduler, "prices": self.prices, "block_tokens": self.block_tokens}
        common |= {"caching": self.caching, "plans_ahead": self.plans_ahead, "polls_every": self.polls_every}
        if self.waits_ns:
            common["fetch_window"] = partial(FetchWindow, self.waits_ns, self.max_sequences)
            common["prices"] = WaitingPrices(self.prices, self.waits_ns) if self.plans_ahead else self.prices
        common |= {"ranks": self.ranks, "balancer": self.balancer}
        common |= {"lockstep": self.lockstep, "idle_ranks_lag": self.idle_ranks_lag, "make": self.make}
        common |= {"prompt_balance": self.prompt_balance, "front_end": self.front_end}
        common |= {
            "blank_first": self.blank_first,
            "host_blocks": self.host_blocks,
            "host_block_ns": self.host_block_ns,
        }
        split = self.decode_replicas > 0
        pools = [self._pool(common, self.blocks, self.replicas, decodes=not split)]
        if split:
            pools.append(self._pool(common, self.decode_blocks or self.blocks, self.decode_replicas, prefills=False))
        if self.helpers:
            pools.append(self._pool(common, self.blocks, self.helpers))
        ledger = Ledger(np.asarray(prompts, np.int64), np.asarray(outputs, np.int64))
        cluster = Cluster(
            pools,
            self.router,
            arrivals,
            ledger,
            decode_router=self.decode_router,
            terms=self.terms,
            carrier=lambda env: PrivateLinks(env, self.transfer_ns_per_token),
            helps_above=self.helps_above,
            identities=self.identities,
            declared_tokens=self.declared_tokens,
            fails_with_instance=self.operations.lost_requests == "fail",
            macro_steps=macro_steps,
        )
        numbers = {name: number for number, name in enumerate(("prefill", "decode", "mixed")[: len(pools)])}
        Operations(cluster, self.operations, numbers, lambda _pattern, _share: None)
        cluster.run()
        check_laws(cluster)
        return cluster


COLUMNS = (
    "arrival_ns",
    "admitted_ns",
    "first_token_ns",
    "told_ns",
    "kv_ready_ns",
    "finish_ns",
    "instance",
    "decode_instance",
    "preemptions",
    "restarts",
    "failed",
    "cached_tokens",
)


def gaps_of(cluster: Cluster, **options) -> TokenGaps:
    """Return the pooled gaps between tokens of a run."""
    cores = cores_of(cluster.instances)
    logs, prices, paces = [core.log for core in cores], [core.prices for core in cores], step_logs_of(cluster.instances)
    return token_gaps(logs, prices, cluster.ledger, paces=paces, **options)


def times(cluster: Cluster) -> dict[str, list[int]]:
    """Return every column of the ledger as lists; stalls sorted, for instances end some at one instant."""
    found = {name: cluster.ledger.column(name).tolist() for name in COLUMNS}
    return found | {"stalls": sorted(cluster.ledger.column("stalls").tolist())}
