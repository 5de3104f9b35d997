"""An engine whose pipeline stages each work on another micro-batch: prompts and decoding over several groups of chips.

The engine keeps as many micro-batches under way as there are stages. Each has requests of its own that decode; whose
turn it is takes from one queue and one KV cache, computes the next chunk of every prompt in progress, and passes the
stages in turn. See ``docs/decisions/011-pipeline-rounds.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.instance import Instance
from simulator.pipeline_stages import PipelineStages
from simulator.prefix_cache import PrefixCache
from simulator.ranks import RankGroup
from simulator.schedulers.queue import ArrivalQueue, CountedQueue

if TYPE_CHECKING:
    from collections.abc import Generator

    from simulator.engine_parts import EngineParts
    from simulator.request import Request
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.state import EngineState
    from simulator.surroundings import Surroundings

__all__ = ["MicroBatch", "PipelinedInstance"]


class MicroBatch(Instance):
    """One of the micro-batches of an engine; each of its passes is an event.

    Parameters
    ----------
    owner, place
        The engine, and which of its micro-batches this is.
    around, parts
        As for :class:`simulator.engine_core.EngineCore`; ``around.macro_steps`` makes no difference.
    """

    def __init__(self, owner: PipelinedInstance, place: int, around: Surroundings, parts: EngineParts) -> None:
        super().__init__(around.inside(owner).by_single_steps(), parts)
        self._owner, self._place = owner, place
        owner.share(self.state)
        # Of prompts that a pass under way does not complete: whose, in which of its lives, and how many tokens.
        self._chunks: list[tuple[Request, int, int]] = []
        self._completing: set[int] = set()
        # What the shared cache counts of the sequences that decode here: see BlockPool and PrefixCache.
        self._growth, self._sequences, self._taken_until = [0] * parts.block_tokens, 0, 0
        self._growing: dict[int, Request] = {}

    @property
    def asleep(self) -> bool:
        """Whether it waits for something to happen."""
        return self._wake_up.asleep

    def ring(self) -> None:
        """Let it plan now, since something has happened."""
        self._wake_up.move(0)

    def put_aside(self) -> None:
        """Let the shared cache count the sequences of another micro-batch."""
        pool = self.state.pool
        self._sequences, self._taken_until = pool.sequences, pool.taken_until

    def take_up(self) -> None:
        """Let the shared cache count the sequences that decode here."""
        pool = self.state.pool
        pool.growth, pool.sequences, pool.taken_until = self._growth, self._sequences, self._taken_until
        if isinstance(pool, PrefixCache):
            pool.growing = self._growing

    def serve(self) -> Generator[None, Any, None]:
        """Run the micro-batch for ever."""
        owner, wake_up = self._owner, self._wake_up
        while True:
            owner.turn_to(self)
            owner.let_in(self)
            plan = self.next_plan()
            if plan.chunks or plan.decodes:
                waits_ns = self._begin_pass(plan)
                owner.ring_others(self)
                yield
                owner.turn_to(self)
                self._end_pass(plan, waits_ns)
                owner.ring_others(self)
                continue
            if not self.lags(plan):
                if owner.expects_nothing(self):
                    self.check_asleep()
                wake_up.when_rung()
                yield

    def begin(self, plan: Plan) -> None:
        """Note and pass on what a plan decided besides what the pass computes."""
        super().begin(plan)
        for request in plan.loads:
            self._owner.place(request, self._place)

    # --- a pass --------------------------------------------------------------------------------------

    def _begin_pass(self, plan: Plan) -> int:
        """Enter the pipeline; return how much longer the pass takes than it would alone, ns."""
        state, prices, now = self.state, self.prices, self.env.now
        if plan.decodes and plan.steps > 1:
            # Others take blocks before this pass is over.
            state.pool.take_until(state.step, state.step + 1)
        sequences = samples = plan.decodes
        if plan.chunks:
            alone_ns = self.price_chunks(plan)
            sequences, samples = sequences + len(plan.chunks), samples + self.row[7]
        else:
            alone_ns = prices.decode_ns(sequences, state.context_sum // sequences)
        host_ns = prices.host_ns[sequences]
        left_ns = self._owner.pipeline.enter(now + host_ns, alone_ns - host_ns, prices.sample_ns[samples])
        if plan.chunks:
            self.row[1] = left_ns - now
            if self.tells_chunks:
                self.tell_chunks(plan, left_ns - now)
            self._share_prompts(plan)
        self._run.begin_one(left_ns - now)
        return left_ns - now - alone_ns

    def _share_prompts(self, plan: Plan) -> None:
        """Let the next micro-batch go on with the prompts that this pass does not complete."""
        completed = []
        for request, new in plan.chunks:
            self._owner.place(request, self._place)
            if request.computed + new == request.tokens:
                completed.append((request, new))
                self._completing.add(request.index)
                continue
            self._chunks.append((request, request.epoch, new))
            request.computed += new
            self.state.prefilling[request.index] = request
        plan.chunks = completed

    def left_prompts(self) -> list[Request]:
        """Return the prompts in progress that any micro-batch may go on with."""
        return [request for index, request in self.state.prefilling.items() if index not in self._completing]

    def lose(self, request: Request) -> None:
        """Let another micro-batch go on with a prompt."""
        del self.state.prefilling[request.index]
        del self.state.running[request.index]

    def _end_pass(self, plan: Plan, waits_ns: int) -> None:
        self._run.steps = 0
        self._chunks.clear()
        self._completing.clear()
        if waits_ns:
            self.log.note_longer(waits_ns)
        if self.row:
            self.apply_chunks(plan)
            self.row = []
        else:
            self.apply_decodes(plan, 1)

    # --- looked at from outside ----------------------------------------------------------------------

    def take_begun(self) -> int:
        """Return how many passes with decoding sequences have begun: their blocks are taken."""
        self._owner.turn_to(self)
        return int(self.plan.decodes > 0)

    def load(self) -> tuple[int, int, int]:
        """Return its load; the queue and the cache of all count as those of the first micro-batch."""
        waiting, used, block_tokens = super().load()
        return (waiting - self.state.waiting.tokens, 0, block_tokens) if self._place else (waiting, used, block_tokens)

    def settle(self) -> int:
        """Return when the last pass ended."""
        self._owner.turn_to(self)
        return super().settle()

    def forget_chunks(self) -> None:
        """Let the pass under way have computed nothing of the prompts that others go on with."""
        for request, epoch, new in self._chunks:
            if request.epoch == epoch:
                request.computed -= new
            else:
                self.state.recomputed -= new
        self._chunks.clear()


class PipelinedInstance(RankGroup):
    """The micro-batches of one engine, and the stages that they pass: a :class:`simulator.server.Server`.

    Parameters
    ----------
    around, parts
        As for :class:`simulator.engine_core.EngineCore`; ``parts.ranks`` is how many stages there are, and
        ``around.macro_steps`` makes no difference.

    Attributes
    ----------
    pipeline
        The stages.
    """

    def __init__(self, around: Surroundings, parts: EngineParts) -> None:
        self.pipeline = PipelineStages(parts.ranks)
        self._first: EngineState | None = None
        self._micro_batches = [MicroBatch(self, place, around, parts) for place in range(parts.ranks)]
        super().__init__(around, parts, self._micro_batches)
        self._turn = self._micro_batches[0]
        self._turn.take_up()

    def share(self, state: EngineState) -> None:
        """Let a micro-batch have the queue and the cache of the others."""
        first = self._first
        if first is None:
            self._first = state
            if type(state.waiting) is ArrivalQueue:
                # A router would replace that of one state alone when it first asks how long it is.
                state.waiting = CountedQueue()
            return
        state.waiting, state.pool, state.cache = first.waiting, first.pool, first.cache

    # --- turns ---------------------------------------------------------------------------------------

    def turn_to(self, micro_batch: MicroBatch) -> None:
        """Let the shared cache count the sequences of a micro-batch."""
        if micro_batch is not self._turn:
            self._turn.put_aside()
            micro_batch.take_up()
            self._turn = micro_batch

    def let_in(self, micro_batch: MicroBatch) -> None:
        """Let a micro-batch go on with the prompts in progress, and know how many requests run beside its own."""
        state = micro_batch.state
        others = [other for other in self._micro_batches if other is not micro_batch]
        for other in others:
            for request in other.left_prompts():
                other.lose(request)
                state.running[request.index] = state.prefilling[request.index] = request
        state.elsewhere = sum(len(other.state.running) for other in others)

    def ring_others(self, micro_batch: MicroBatch) -> None:
        """Let those plan who have nothing to do, if there is something."""
        shared = bool(micro_batch.state.waiting) or any(each.left_prompts() for each in self._micro_batches)
        for other in self._micro_batches:
            if other.asleep and (shared or other.state.ready):
                other.ring()

    def expects_nothing(self, micro_batch: MicroBatch) -> bool:
        """Tell whether nothing is under way in the others that would give blocks back, or bring any."""
        others = [other for other in self._micro_batches if other is not micro_batch]
        return not any(not other.asleep or other.held or other.state.loading for other in others)

    # --- requests ------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request now, for whoever plans next."""
        self.place(request, 0)
        self._micro_batches[0].state.enqueue(request)
        sleeper = next((each for each in self._micro_batches if each.asleep), None)
        if sleeper is not None:
            sleeper.ring()

    def place(self, request: Request, micro_batch: int) -> None:
        """Note which micro-batch has a request."""
        self._places[request.index] = micro_batch

    def rank_of(self, request: Request) -> int:  # noqa: ARG002 - every stage has some layers of all
        """Return 0: its KV is on the chips of all stages."""
        return 0

    def stop(self) -> list[Request]:
        """End the engine now; see :meth:`simulator.engine_core.EngineCore.stop`."""
        for micro_batch in self._micro_batches:
            micro_batch.forget_chunks()
        return super().stop()

    def _count_out(self, rank: int, index: int) -> None:
        """Do nothing: requests are dealt to nobody."""
