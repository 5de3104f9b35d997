"""Whose prompts SGLang computes next: one pass over the queue with its budgets (``PrefillAdder``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from simulator.schedulers.reserve import CLIP_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.radix_cache import RadixCache
    from simulator.radix_node import Node
    from simulator.request import Request
    from simulator.schedulers.sglang_memory import Memory, Seat
    from simulator.schedulers.state import EngineState

__all__ = ["Admission", "Budgets", "Verdict"]

#: Go on; or stop, because no tokens are free, or for another reason.
Verdict: TypeAlias = Literal["go on", "no token", "other"]

#: Two sums this close may be in the other order when added up as SGLang does, request by request.
_DOUBT = 1e-6


class Budgets(Protocol):
    """What the policy says about a step that computes prompts."""

    @property
    def max_prefill_tokens(self) -> int:
        """Tokens after which no other prompt joins."""
        ...

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a step at most, to which prompts are cut; 0 if they are not cut."""
        ...

    @property
    def max_prompts(self) -> int:
        """Prompts of a step at most; 0 for no such bound."""
        ...

    @property
    def ignore_eos(self) -> bool:
        """Requests are known to produce all they may."""
        ...

    @property
    def schedule_policy(self) -> str:
        """How the queue is sorted."""
        ...


class Admission:
    """One pass over the queue.

    Parameters
    ----------
    rules, state, memory, pool
        The policy, the instance, what the policy remembers of it, and its cache.
    mixed
        Running requests that will decode in the same step.

    Attributes
    ----------
    chosen
        Requests of the step, and the tokens it computes of each.
    cut
        The one among them whose prompt is not completed.
    """

    def __init__(self, rules: Budgets, state: EngineState, memory: Memory, pool: RadixCache, mixed: int) -> None:
        self.rules, self.state, self.memory, self.pool = rules, state, memory, pool
        self.page = pool.block_tokens
        self.rem_input = rules.max_prefill_tokens - mixed
        self.rem_chunk = rules.chunk_tokens - mixed
        self.taken = self.planned = mixed
        self.ratio = 1.0 if rules.ignore_eos else memory.ratio.at(state.step)
        self.reserved = self.ratio * memory.total_left(state.step)
        self._exact = False
        self._answers: list[tuple[float, int]] | None = None
        self.chosen: list[tuple[Request, int]] = []
        self.cut: Request | None = None

    # --- what is left --------------------------------------------------------------------------------

    def left(self) -> float:
        """Return the tokens that are neither used, nor promised, nor kept for answers."""
        return self.pool.free * self.page - (self.planned + self.reserved)

    def forget(self, request: Request) -> None:
        """Keep nothing any more for the answer of a running request."""
        self.reserved -= self.expected(request)

    def expected(self, request: Request) -> float:
        """Return what is kept for the answer of a running request."""
        return min(self.memory.left(request, self.state.step), CLIP_TOKENS) * self.ratio

    def spent(self) -> bool:
        """Tell whether no other prompt fits the budgets of tokens, though there is room in the cache."""
        return self._verdict() == "other"

    def _verdict(self) -> Verdict:
        room = self.pool.free * self.page
        if room <= self.planned + self.reserved or room <= self.taken:
            return "no token"
        if self.rem_input <= 0 or (self.rules.chunk_tokens and self.rem_chunk <= 0):
            return "other"
        return "go on"

    def _fits(self, tokens: int) -> bool:
        left = self.pool.free * self.page - (self.planned + self.reserved) - tokens
        if -_DOUBT < left < _DOUBT and not self._exact:
            self._exact = True
            running = [seat.request for seat in self.memory.seats.values() if seat.request.index in self.memory.reserve]
            self.reserved = float(sum(self.expected(request) for request in self.memory.in_order(running)))
            left = self.left() - tokens
        return left > 0

    def _ceil(self, tokens: int) -> int:
        return -(-tokens // self.page) * self.page

    # --- the prompt in progress ----------------------------------------------------------------------

    def go_on(self, request: Request) -> None:
        """Add the next chunk of the prompt in progress."""
        rem = min(self.rem_chunk, int(self.left()))
        if rem <= 0:
            # It must go on to be able to give its room back.
            rem = self.rem_chunk
        rem = min(rem, self._limit(request))
        missing = request.tokens - request.computed
        new = min(missing, max(rem, 0), self._possible(request))
        if new <= 0:
            self.cut = request
            return
        seat = self.memory.seats[request.index]
        self._add(request, new, 0 if new < missing else min(seat.limit - seat.prompt, CLIP_TOKENS))
        if new < missing:
            self.cut = request

    def _possible(self, request: Request) -> int:
        """Return the tokens for which there are pages; SGLang ends with an error where it asks for more."""
        pages = self.pool.free + self.pool.blocks_for(request.computed)
        return pages * self.page - request.computed

    def _limit(self, request: Request) -> int:
        """Return the most tokens of the chunk, so that shorter prompts find room beside it."""
        budget, page = self.rem_chunk, self.page
        if self.rules.schedule_policy != "shortest-prefill-first" or budget < 2 * page or not self.pool.keeps:
            return 1 << 60
        remaining, reserved = request.tokens - request.computed, 0
        for other in self.state.waiting:
            work = max(1, other.tokens - self.memory.seats[other.index].matched)
            if work >= remaining or reserved + self._ceil(work) > budget - page:
                break
            reserved += self._ceil(work)
        return (budget - reserved) // page * page if reserved else 1 << 60

    # --- requests from the queue ---------------------------------------------------------------------

    def offer(self, request: Request) -> Verdict:
        """Add a request if it fits, and tell whether to go on."""
        rules, pool, seat = self.rules, self.pool, self.memory.seats[request.index]
        found, node = pool.match(request, request.tokens - 1)
        seat.found, seat.offered = found, request.tokens
        if rules.max_prompts and len(self.chosen) >= rules.max_prompts:
            return "other"
        missing = request.tokens - found
        if rules.ignore_eos and not pool.keeps:
            return self._offer_whole(request, seat, missing)
        answer = min(max(seat.limit - request.tokens, 0), CLIP_TOKENS)
        # What it finds it will hold, so that this cannot be evicted for anybody.
        held = 0 if node.locks else pool.evictable(node) * self.page
        if not self._fits(missing + answer + self.page + held):
            return "no token"
        return self._commit(request, seat, found, node)

    def _commit(self, request: Request, seat: Seat, found: int, node: Node) -> Verdict:
        missing, answer = request.tokens - found, min(seat.limit - seat.prompt, CLIP_TOKENS)
        new, paged = missing, self._ceil(missing)
        if not self.rules.chunk_tokens:
            if self.chosen and paged >= self.rem_input:
                return "other"
        elif paged > self.rem_chunk:
            if self.cut is not None and self.rules.schedule_policy == "shortest-prefill-first":
                return "other"
            new = (found + self.rem_chunk // self.page * self.page) // self.page * self.page - found
            if new <= 0:
                return "other"
            answer, self.cut = 0, request
        self._hold(request, found, node)
        self._add(request, new, answer)
        return self._verdict()

    def _hold(self, request: Request, found: int, node: Node) -> None:
        state, pool = self.state, self.pool
        pool.hold(request, node)
        request.held, request.computed, request.found = found // self.page, found, found
        if pool.keeps:
            if not request.epoch:
                state.queried += request.tokens
                state.hits += found
            state.reused += found

    def _add(self, request: Request, new: int, answer: int) -> None:
        paged = self._ceil(new)
        self.taken += paged + self.page
        self.planned += paged + self.page + answer
        self.rem_input -= paged
        self.rem_chunk -= paged
        self.chosen.append((request, new))

    # --- requests that are known to produce all they may, and no tree --------------------------------

    def _offer_whole(self, request: Request, seat: Seat, missing: int) -> Verdict:
        """Add a request if all running ones can end one after the other, each giving its room to the next."""
        need = self._ceil(missing) + self.page
        available = self.pool.free * self.page
        if need > min(available - self.taken, self.left()):
            return "no token"
        if not self._all_can_end(request, seat, available - self.taken - need):
            return "no token"
        if self.rules.chunk_tokens and missing > self.rem_chunk:
            if self.rem_chunk <= 0:
                return "other"
            self.cut = request
            self._hold(request, 0, self.pool.root)
            self._add(request, self.rem_chunk, 0)
        else:
            self._hold(request, 0, self.pool.root)
            self._add(request, missing, min(seat.limit - seat.prompt, CLIP_TOKENS))
        return self._verdict()

    def _all_can_end(self, request: Request, seat: Seat, free: int) -> bool:
        mine = (float(seat.limit - request.tokens), request.tokens)
        if self._answers is None:
            self._answers = sorted(self._known_answers(mine), key=lambda answer: answer[0])
        elif mine[0] > 0:
            self._answers.insert(_place(self._answers, mine[0]), mine)
        freed = 0
        for number, (tokens, occupied) in enumerate(self._answers):
            size = len(self._answers) - number
            if free + freed - tokens * size <= size:
                return False
            freed += occupied
        return True

    def _known_answers(self, mine: tuple[float, int]) -> Sequence[tuple[float, int]]:
        """Return what each request is still to produce, and its tokens: the one offered, the running, the chosen."""
        memory, step = self.memory, self.state.step
        running = [seat.request for seat in memory.seats.values() if seat.request.index in memory.reserve]
        answers = [mine]
        for request in memory.in_order(running):
            left = memory.left(request, step)
            answers.append((float(left), memory.seats[request.index].limit - left))
        for request, _ in self.chosen:
            answers.append((float(memory.seats[request.index].limit - request.tokens), request.tokens))
        return [answer for answer in answers if answer[0] > 0]


def _place(answers: Sequence[tuple[float, int]], tokens: float) -> int:
    """Return where SGLang inserts an answer: before the first that is not shorter, or before the last."""
    for number, (other, _) in enumerate(answers):
        if tokens <= other:
            return number
    return max(0, len(answers) - 1)
