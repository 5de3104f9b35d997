"""Who fits the KV cache of TensorRT-LLM: its capacity stage.

Order of decisions as in ``tensorrt_llm/_torch/pyexecutor/scheduler/scheduler.py`` (``PyCapacityScheduler``) of
TensorRT-LLM 1.3, with the block counts of ``cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp``. A prompt takes the
blocks of all its tokens when its first chunk is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

from simulator.prefix_cache import PrefixCache
from simulator.schedulers.chunking import Context
from simulator.schedulers.preemption import preempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from simulator.request import Request
    from simulator.schedulers.queue import TurnQueue
    from simulator.schedulers.state import EngineState

__all__ = ["CAPACITY", "Fitting"]

_TURN = attrgetter("turn")


@dataclass(slots=True)
class Fitting:
    """What fits the KV cache besides the sequences that decode.

    Attributes
    ----------
    places
        Requests that may be active at once (``max_batch_size``); those that wait for others count.
    reuses
        Blocks found in the cache are deducted, and a prompt that would compute what another is computing waits.
    contexts
        Prompts, in turn.
    loads
        Requests that get blocks for KV to be fetched.
    paused
        Requests whose KV was given up.
    unsettled
        The next step may decide otherwise though nothing happens: a prompt waits for what another is computing, or
        somebody waits whose turn is before that of one that runs.
    """

    places: int
    reuses: bool
    contexts: list[Context] = field(default_factory=list)
    loads: list[Request] = field(default_factory=list)
    paused: list[Request] = field(default_factory=list)
    unsettled: bool = False

    def defers(self, state: EngineState, request: Request, promised: set[tuple[int, int]]) -> bool:
        """Tell whether a prompt waits, for its first missing block is ``promised``; else promise that block."""
        if not (self.reuses and (request.prefix or request.named) and isinstance(state.cache, PrefixCache)):
            return False
        missing = state.cache.first_missing(request)
        if missing is None:
            return False
        if missing in promised:
            self.unsettled = True
            return True
        promised.add(missing)
        return False

    def lacks_any(self, state: EngineState, request: Request) -> bool:
        """Tell whether a full block of a prompt is not here, where that counts."""
        cache, full = state.cache, request.tokens // state.pool.block_tokens
        if not (self.reuses and isinstance(cache, PrefixCache)):
            return False
        if request.prefix and not request.epoch and request.prefix_ends[-1] // state.pool.block_tokens >= full:
            return cache.first_missing(request) is not None
        return cache.find(request)[0] < full

    def promises(self, state: EngineState) -> set[tuple[int, int]]:
        """Return the first missing blocks of prompts that are being computed chunk by chunk."""
        promised: set[tuple[int, int]] = set()
        if self.reuses and isinstance(state.cache, PrefixCache):
            for request in state.prefilling.values():
                if (missing := state.cache.first_missing(request)) is not None:
                    promised.add(missing)
        return promised

    def find(self, state: EngineState, request: Request) -> tuple[int, int]:
        """Return a prompt's blocks that are here already, and how many of them others use."""
        if not self.reuses:
            return 0, 0
        here, idle = state.find(request)
        return here, here - idle

    def add(self, state: EngineState, request: Request, here: int) -> None:
        """Let a prompt, of which ``here`` blocks are found, go to the next stage."""
        self.contexts.append(Context(request, request.tokens - request.computed, here * state.pool.block_tokens))


def guaranteed_no_evict(state: EngineState, fitting: Fitting, *, static: bool = False) -> None:
    """Let in who fits beside all that the others may still need; nobody is ever paused.

    Requests whose KV is to be fetched come first, and the first one that does not fit holds up those like it; but no
    prompt that is being computed, for which TensorRT-LLM would wait for ever where it holds the blocks that lack.
    """
    decoding = len(state.running) - len(state.prefilling)
    if static and decoding:
        return
    places = _places(state, fitting)
    room = state.pool.free - _promised_blocks(state)
    waiting: TurnQueue = state.waiting  # type: ignore[assignment]
    for request in islice(waiting.fetches, places):
        needed = state.most_blocks(request)
        if needed > room:
            break
        room -= needed
        places -= 1
        fitting.loads.append(request)
    promised = set() if static else fitting.promises(state)
    closed = False
    for request in _in_turn(state, islice(waiting.prompts, places)):
        started = request.index in state.prefilling
        if not started and (closed or (not static and fitting.defers(state, request, promised))):
            continue
        here, used = (0, 0) if started else fitting.find(state, request)
        needed = state.most_blocks(request) - (state.pool.blocks_for(request.tokens) if started else used)
        closed |= needed > room
        if needed <= room:
            room -= needed
            fitting.add(state, request, here)


def static_batch(state: EngineState, fitting: Fitting) -> None:
    """Let nobody in while anybody decodes."""
    guaranteed_no_evict(state, fitting, static=True)


def max_utilization(state: EngineState, fitting: Fitting) -> None:
    """Let in who fits now; where the running do not, pause the last of them in turn."""
    waiting: TurnQueue = state.waiting  # type: ignore[assignment]
    if _is_ahead(state, waiting):
        _Walk(state, fitting).run()
        return
    pool = state.pool
    growth = pool.growth[state.step % pool.block_tokens] + _ending_blocks(state)
    while growth > pool.free:
        fitting.paused.append(_pause(state, max(state.running.values(), key=_TURN)))
        growth = pool.growth[state.step % pool.block_tokens] + _ending_blocks(state)
    for request in sorted(state.prefilling.values(), key=_TURN):
        fitting.add(state, request, 0)
    if not fitting.paused:
        _let_in(state, fitting, waiting, pool.free - growth)


def _let_in(state: EngineState, fitting: Fitting, waiting: TurnQueue, room: int) -> None:
    """Let in those who wait, in turn, until one does not fit into ``room`` blocks."""
    promised = fitting.promises(state)
    for request in _active(state, fitting, waiting):
        if not request.remote and fitting.defers(state, request, promised):
            continue
        used = 0 if request.remote else fitting.find(state, request)[1]
        needed = state.pool.blocks_for(request.tokens) - used
        if needed > room:
            break
        room -= needed
        if request.remote:
            fitting.loads.append(request)
        else:
            fitting.add(state, request, used)


#: Who fits, by the name of the option ``capacity_scheduler_policy``.
CAPACITY: Mapping[str, Callable[[EngineState, Fitting], None]] = MappingProxyType(
    {
        "GUARANTEED_NO_EVICT": guaranteed_no_evict,
        "MAX_UTILIZATION": max_utilization,
        "STATIC_BATCH": static_batch,
    }
)


class _Walk:
    """The walk over all requests in turn, needed where somebody waits whose turn is before that of one that runs."""

    def __init__(self, state: EngineState, fitting: Fitting) -> None:
        self.state, self.fitting = state, fitting
        self.promised = fitting.promises(state)
        self.passed_over = -1
        waiting: TurnQueue = state.waiting  # type: ignore[assignment]
        self.order = sorted(chain(state.running.values(), _active(state, fitting, waiting)), key=_TURN)
        self.end = len(self.order)
        self.taken = 0

    def run(self) -> None:
        """Let in and pause."""
        self.fitting.unsettled = True
        place = 0
        while place < self.end:
            request = self.order[place]
            runs = request.index in self.state.running
            waits = not (runs or request.remote) and self._waits(request)
            if waits or self._fits(request, runs=runs):
                place += 1
            elif not self._pause(place):
                break
            else:
                self.passed_over = request.index

    def _waits(self, request: Request) -> bool:
        """Tell whether a prompt waits for a block that is being computed.

        One for which somebody was just paused is looked at once more, and takes its own first missing block for that
        of another.
        """
        passed_over = request.index == self.passed_over and self.fitting.lacks_any(self.state, request)
        return passed_over or self.fitting.defers(self.state, request, self.promised)

    def _fits(self, request: Request, *, runs: bool) -> bool:
        """Let a request in if it fits; tell whether it does."""
        state, used = self.state, 0
        if runs:
            needed = self._growth(request)
        else:
            used = 0 if request.remote else self.fitting.find(state, request)[1]
            needed = state.pool.blocks_for(request.tokens) - used
        if self.taken + needed > state.pool.free:
            return False
        self.taken += needed
        if not runs and request.remote:
            self.fitting.loads.append(request)
        elif not runs or request.index in state.prefilling:
            self.fitting.add(state, request, used)
        return True

    def _growth(self, request: Request) -> int:
        """Return the blocks a running request takes in this step."""
        state = self.state
        if request.index in state.prefilling:
            return 0
        tokens = request.computed if request.index in state.ending else request.anchor + state.step
        return 0 if tokens % state.pool.block_tokens else 1

    def _pause(self, place: int) -> bool:
        """Pause the last one that runs, from ``place`` on, and forget those after it; tell whether there is one."""
        running = self.state.running
        for last in range(self.end - 1, place - 1, -1):
            if (request := self.order[last]).index in running:
                self.fitting.paused.append(_pause(self.state, request))
                self.end = last
                return True
        return False


def _pause(state: EngineState, request: Request) -> Request:
    """Give up the KV of a request, to be recomputed in its turn, and return it."""
    if request.index in state.prefilling:
        state.give_unused(state.pool.blocks_for(request.tokens) - state.pool.blocks_for(request.computed))
    return preempt(state, request)


def _places(state: EngineState, fitting: Fitting) -> int:
    """Return how many of those who wait are active, that is, looked at."""
    return max(0, fitting.places - len(state.running) - state.loading - len(state.ready))


def _active(state: EngineState, fitting: Fitting, waiting: TurnQueue) -> Iterable[Request]:
    """Return those who wait and are active, in turn."""
    return islice(merge(waiting.fetches, waiting.prompts, key=_TURN), _places(state, fitting))


def _in_turn(state: EngineState, prompts: Iterable[Request]) -> Iterable[Request]:
    """Return the prompts in progress and those that wait, in turn."""
    if not state.prefilling:
        return prompts
    return merge(sorted(state.prefilling.values(), key=_TURN), prompts, key=_TURN)


def _is_ahead(state: EngineState, waiting: TurnQueue) -> bool:
    """Tell whether somebody waits whose turn is before that of one that runs."""
    if not waiting or not state.running:
        return False
    first: int = min(queue[0].turn for queue in (waiting.fetches, waiting.prompts) if queue)
    last: int = max(map(_TURN, state.running.values()))
    return first < last


def _ending_blocks(state: EngineState) -> int:
    """Return the blocks counted for requests that have all their tokens and have not been noticed."""
    return sum(request.computed % state.pool.block_tokens == 0 for request in state.ending.values())


def _promised_blocks(state: EngineState) -> int:
    """Return the blocks that admitted requests may still take, but for those whose prompt is being computed."""
    pool = state.pool
    promised = state.promised - pool.needed(0, state.step)
    for request in state.ending.values():
        promised += state.most_blocks(request) - pool.blocks_for(request.computed)
    for request in chain(state.memory.loading.values(), state.ready):
        promised += state.most_blocks(request) - pool.blocks_for(request.tokens)
    return promised
