"""The plain state a scheduler reads and writes."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from simulator.host_store import HostStore
from simulator.kvcache import BlockPool
from simulator.prefix_cache import PrefixCache
from simulator.radix_cache import RadixCache  # noqa: TC001 - looked up where this is compiled
from simulator.request import Request  # noqa: TC001 - the same
from simulator.schedulers.queue import ArrivalQueue, CountedQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.schedulers.media_budget import MediaBudget
    from simulator.schedulers.queue import Queue

__all__ = ["EngineState"]


class EngineState:
    """Queues and counters of one engine instance; nothing in it knows the time or a true output length.

    Parameters
    ----------
    blocks
        KV blocks that sequences can use.
    block_tokens
        Tokens of one block.
    caching
        Blocks keep what they hold until they are taken again, and requests find it there.
    blank_first, host_blocks
        See :class:`simulator.prefix_cache.PrefixCache`; blocks of host memory that keep what requests leave behind.
    longest
        Longest sequence that is served.
    prompts, answers
        Prompts are computed here; else KV is fetched. Sequences decode here; else they leave with their first token.
    ahead
        Each step is planned while the one before runs.

    Attributes
    ----------
    step
        Steps computed so far.
    waiting
        Requests not admitted, in the order they will be.
    loading
        Requests that hold blocks into which their KV is being fetched.
    fetching, fetched
        Requests whose blocks are being copied from the host, by index, and those whose blocks have been; the rest of
        their prompts is computed next. Those ``following`` others get blocks copied for these, and wait after that.
    ready
        Requests whose KV has been fetched and that wait for a place among the running.
    running
        Admitted requests by index, in the order of admission: decoding, but for those named below.
    prefilling
        Admitted requests whose prompts are only partly computed, by index, in the order of admission.
    held
        Admitted requests that decode but got no token of the last step's budget, by index.
    ending
        Requests that have all their tokens, by index, as long as an engine that plans ahead has not noticed; they
        hold their place and their blocks.
    memory
        What the policy remembers from step to step.
    decodes
        Sequences that produce a token in every step.
    context_sum
        Tokens in the caches of the decoding sequences.
    promised
        Blocks that the decoding sequences take from step 0 on, had they decoded since, until they are as long as they
        may get; counted where ``promises`` says that the policy asks for it.
    recomputed
        Tokens computed, or to be computed, once more because of preemptions.
    preemptions
        Requests put back into the queue to make room.
    pool
        KV blocks.
    cache
        The pool, if it is one that keeps what blocks hold.
    host
        What the host keeps, if it keeps anything.
    queried, hits, host_hits
        Tokens of requests when they were first admitted, those of them found in the cache, and those on the host.
    reused
        Tokens that were not computed because they were in the cache or on the host, after a preemption too.
    unseen_tokens
        Tokens of requests that came too late for the next plan.
    plans_ahead
        The tokens that the last step produced are not known when the next one is planned.
    wasted
        Tokens that were produced, but that nobody got.
    settles
        Lets those go who have all their tokens, or the policy, if it does so itself; tells whether others may go on.
    unsettled
        It has something to do though nobody has all tokens: what the step before brought is not known yet.
    departs
        What a policy does with a request whose KV has left; None where its blocks are given back.
    media
        What is encoded in its steps; None where nothing is.
    next_block
        Where KV is fetched, blocks are taken for the next token, too.
    elsewhere
        Requests that run in other micro-batches of the engine, and count in the most it runs.
    """

    __slots__ = (
        "ahead",
        "answers",
        "cache",
        "context_sum",
        "decodes",
        "departs",
        "elsewhere",
        "ending",
        "fetched",
        "fetching",
        "following",
        "held",
        "hits",
        "host",
        "host_hits",
        "loading",
        "longest",
        "media",
        "memory",
        "next_block",
        "plans_ahead",
        "pool",
        "preemptions",
        "prefilling",
        "promised",
        "promises",
        "prompts",
        "queried",
        "ready",
        "recomputed",
        "reused",
        "running",
        "settles",
        "step",
        "unseen_tokens",
        "unsettled",
        "waiting",
        "wasted",
    )

    def __init__(  # noqa: PLR0913 - what policies may have to know, all named
        self,
        blocks: int,
        block_tokens: int,
        *,
        caching: bool = False,
        blank_first: bool = True,
        host_blocks: int = 0,
        longest: int = 1 << 30,
        prompts: bool = True,
        answers: bool = True,
        ahead: bool = False,
    ) -> None:
        self.longest, self.prompts, self.answers, self.ahead = longest, prompts, answers, ahead
        self.step = self.loading = self.context_sum = 0
        self.waiting: Queue = ArrivalQueue()
        self.ready: deque[Request] = deque()
        self.fetching: dict[int, Request] = {}
        self.fetched: deque[Request] = deque()
        self.following: list[Request] = []
        self.running: dict[int, Request] = {}
        self.prefilling: dict[int, Request] = {}
        self.held: dict[int, Request] = {}
        self.ending: dict[int, Request] = {}
        self.memory: Any = None
        self.decodes = self.promised = 0
        self.recomputed = self.preemptions = 0
        self.cache: PrefixCache | RadixCache | None = None
        if caching:
            self.cache = PrefixCache(blocks, block_tokens, blank_first=blank_first)
        self.pool = BlockPool(blocks, block_tokens) if self.cache is None else self.cache
        self.host = HostStore(host_blocks, block_tokens) if host_blocks else None
        self.queried = self.hits = self.host_hits = self.reused = 0
        self.unseen_tokens = self.wasted = self.elsewhere = 0
        self.promises = self.plans_ahead = False
        self.settles: Callable[[EngineState], bool] = _let_all_go
        self.unsettled = False
        self.departs: Callable[[Request], None] | None = None
        self.media: MediaBudget | None = None
        self.next_block = True

    @property
    def showing(self) -> PrefixCache | None:
        """The cache, if it lets what a request writes be found while it grows."""
        cache = self.cache
        return cache if isinstance(cache, PrefixCache) and cache.shows_growth else None

    def join_decode(self, request: Request) -> None:
        """Count a request whose prompt is computed among the decoding ones."""
        request.anchor = request.computed - self.step
        self.decodes += 1
        self.context_sum += request.computed
        if self.promises:
            self.promised += self.most_blocks(request) - self.pool.blocks_for(request.anchor)
        self.pool.join(request.anchor)
        if request.named and (cache := self.showing) is not None:
            cache.growing[request.own_content] = request

    def leave_decode(self, request: Request) -> None:
        """Take a request out of the decoding ones; ``computed`` becomes its tokens in the cache."""
        request.stint += 1
        request.computed = request.anchor + self.step
        self.decodes -= 1
        self.context_sum -= request.computed
        if self.promises:
            self.promised -= self.most_blocks(request) - self.pool.blocks_for(request.anchor)
        self.pool.leave(request.anchor)
        if request.named and (cache := self.showing) is not None:
            del cache.growing[request.own_content]
            cache.register(request, self.known_tokens(request, request.computed, scheduled=False))

    def most_blocks(self, request: Request) -> int:
        """Return the blocks of a request once it is as long as it may get here."""
        longest = min(request.longest, self.longest) if self.answers else request.tokens + 1
        return self.pool.blocks_for(longest)

    def hold(self, request: Request) -> None:
        """Let a decoding request stand still in the next step."""
        self.leave_decode(request)
        request.tokens = request.computed + 1
        self.held[request.index] = request

    def resume_held(self) -> list[Request]:
        """Let the requests decode again that stood still, and return them."""
        held = list(self.held.values())
        self.held.clear()
        for request in held:
            self.join_decode(request)
        return held

    def depart(self, request: Request) -> bool:
        """Give back the blocks of a request that goes on elsewhere; tell whether that may change the plan."""
        if self.departs is not None:
            self.departs(request)
        else:
            self.release(request)
        return bool(self.waiting)

    def release(self, request: Request, known: int | None = None) -> None:
        """Give back the blocks of a request that is not decoding; the host keeps what they hold.

        They can be found as far as ``known`` tokens fill them, by default all.
        """
        if self.host is not None:
            self.host.store(request)
        if self.cache is None:
            self.pool.give(self.pool.blocks_for(request.computed))
        elif isinstance(self.cache, PrefixCache):
            self.cache.release(request, known)
        else:
            self.cache.release(request)

    def give_unused(self, blocks: int) -> None:
        """Give back blocks of a request into which it has computed nothing yet."""
        self.pool.give(blocks)
        if isinstance(self.cache, PrefixCache) and blocks and not self.cache.blank_first:
            self.cache.blank -= blocks
            self.cache.queue_blanks(blocks)

    def known_tokens(self, request: Request, computed: int, *, scheduled: bool) -> int:
        """Return how many tokens of a request that decoded, ``computed`` of them in the cache, are known to a plan."""
        if not self.plans_ahead or (self.cache is not None and self.showing is None):
            return computed + scheduled
        # What a step under way computed as a decode is known, what it produced is not.
        decoded = computed - request.tokens
        return computed + (scheduled and decoded < 0) - (not scheduled and decoded > 0)

    def abandon(self, request: Request) -> None:
        """Give back the blocks of a request whose KV does not come; only what it found here holds anything."""
        self.loading -= 1
        request.loading = False
        blocks = self.pool.blocks_for(request.tokens - (not self.next_block))
        if self.cache is None:
            self.pool.give(blocks)
            return
        self.cache.give(blocks - request.held)
        request.computed = request.found
        self.cache.release(request)

    def enqueue(self, request: Request) -> bool:
        """Let a request wait; tell whether that may change the plan."""
        leads = self.waiting.would_lead(request)
        self.waiting.append(request)
        return leads

    def deliver(self, request: Request) -> bool:
        """Let a request decode whose KV is here now; tell whether that may change the plan."""
        request.remote = request.loading = False
        request.computed = request.tokens - 1
        self.loading -= 1
        self.ready.append(request)
        # Whoever waits may find the blocks that came, and then needs fewer.
        found = self.register(request, request.computed) and bool(self.waiting)
        return found or len(self.ready) == 1

    def deliver_from_host(self, request: Request) -> bool:
        """Let a request go on whose blocks were copied from the host."""
        del self.fetching[request.index]
        self.fetched.append(request)
        self.register(request, request.computed)
        while self.following:
            follower = self.following.pop()
            del self.fetching[follower.index]
            self.waiting.appendleft(follower)
        return True

    def lose_all(self) -> list[Request]:
        """Give back every block, and what it held; return the requests that were here, but for those being loaded."""
        left = [*self.running.values(), *self.ready, *self.fetching.values(), *self.fetched, *self.waiting]
        for by_index in (self.running, self.prefilling, self.held, self.fetching):
            by_index.clear()
        for queue in (self.ready, self.fetched, self.following, self.waiting):
            queue.clear()
        self.loading = 0
        if self.cache is not None:
            self.cache.clear()
        else:
            self.pool.give(self.pool.blocks - self.pool.free)
        return left

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks of a request are here already, and how many of them nobody uses."""
        return (0, 0) if self.cache is None else self.cache.find(request)

    def catch_up(self, request: Request, begun: int) -> None:
        """Let a request find what others decode here, ``begun`` steps among it that the state does not count yet."""
        if (cache := self.showing) is not None and cache.growing:
            step = self.step + max(0, begun - 1)
            cache.catch_up(request, lambda r: self.known_tokens(r, r.anchor + step, scheduled=begun > 0))

    def go_first(self, request: Request) -> None:
        """Let what others decode be known before a request computes the same; this step's of those in front of it."""
        if (cache := self.showing) is not None and cache.waits_for_answer(request):
            front, step = set(takewhile(request.index.__ne__, self.running)), self.step
            cache.catch_up(request, lambda r: self.known_tokens(r, r.anchor + step, scheduled=r.index in front))

    def load(self) -> tuple[int, int, int]:
        """Return tokens that wait to be computed, blocks in use, and tokens of a block."""
        waiting, pool = self.waiting, self.pool
        if type(waiting) is ArrivalQueue:
            waiting = self.waiting = CountedQueue(waiting)
        coming = [*self.fetching.values(), *self.fetched, *self.prefilling.values()]
        started = sum(request.tokens - request.computed for request in coming)
        return waiting.tokens + self.unseen_tokens + started, pool.blocks - pool.free, pool.block_tokens

    def claim(self, request: Request) -> int:
        """Let a request that is admitted hold the blocks that are here already, and return their number."""
        cache = self.cache
        if cache is None:
            request.found = 0
            return 0
        blocks = cache.claim(request)
        request.computed = request.found = blocks * cache.block_tokens
        if not request.epoch:
            self.queried += request.tokens - request.remote
            self.hits += request.computed
        if not request.remote:
            self.reused += request.computed
        return blocks

    def claim_from_host(self, request: Request, blocks: int) -> None:
        """Let a request hold what is here of its first ``blocks`` blocks, and take blocks for the others."""
        here = self.claim(request)
        self.pool.take(blocks - here)
        request.computed = blocks * self.pool.block_tokens
        self.reused += request.computed - request.found
        if not request.epoch:
            self.host_hits += request.computed - request.found
        if self.host is not None:
            self.host.fetch(request, blocks - here)

    def take(self, request: Request, blocks: int, tokens: int) -> None:
        """Take ``blocks`` blocks for a request, into which its tokens up to the first ``tokens`` are computed."""
        self.pool.take(blocks)
        self.register(request, tokens)

    def register(self, request: Request, tokens: int) -> bool:
        """Let a request's blocks be found, up to its first ``tokens`` tokens; tell whether anybody can."""
        if self.cache is not None:
            self.cache.register(request, tokens)
        return self.cache is not None


def _let_all_go(state: EngineState) -> bool:
    ended = bool(state.ending)
    for index, request in state.ending.items():
        del state.running[index]
        state.release(request)
    state.ending.clear()
    return ended
