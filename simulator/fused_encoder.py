"""An encoder inside the engine that computes prompts: images are encoded in the step that first needs them."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from simulator.instance import Instance
from simulator.records import EncodeLog

if TYPE_CHECKING:
    from perfdb.encoder_prices import EncoderCosts
    from simulator.clock import Clock
    from simulator.request import Request
    from simulator.request_media import Encodable, RequestMedia
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.state import EngineState

__all__ = ["EncodingInstance", "FusedEncoder"]


class FusedEncoder:
    """What is encoded in the steps of one engine, and what of it is kept: vLLM's encoder budget and encoder cache.

    A step encodes images up to a budget of tokens, one that is larger than that for itself; a chunk of a prompt ends
    before an image that cannot be encoded. Features stay until the prompt has passed them, and after that until their
    room is needed, so that an equal image is not encoded again.

    Source: ``_try_schedule_encoder_inputs`` in ``vllm/v1/core/sched/scheduler.py`` and
    ``vllm/v1/core/encoder_cache_manager.py``.

    Parameters
    ----------
    env
        The clock.
    media
        What requests carry.
    costs
        Prices of the encoder's runs.
    budget_tokens
        Tokens encoded in one step, and tokens kept; no limit for an engine that has none.
    whole_images
        A chunk ends before an image that it would cut (``disable_chunked_mm_input``).
    kept_tokens
        Tokens whose features are kept once no prompt needs them, at most.

    Attributes
    ----------
    log
        Its runs.
    asked, hits
        Images that prompts came to, and those of them that were kept from before.
    """

    def __init__(  # noqa: PLR0913 - what decides a step, all named
        self,
        env: Clock,
        media: RequestMedia,
        costs: EncoderCosts,
        budget_tokens: float = inf,
        *,
        whole_images: bool = False,
        kept_tokens: float = inf,
    ) -> None:
        self._env, self.costs, self.log = env, costs, EncodeLog()
        self.asked = self.hits = 0
        self._media, self._budget, self._whole = media, budget_tokens, whole_images
        self._left, self._room, self._kept = budget_tokens, budget_tokens, kept_tokens
        self._planned: list[Encodable] = []
        # Who still needs each content that is kept; those that nobody needs are let go first, the oldest before others.
        self._users: dict[int, set[int]] = {}
        self._idle: dict[int, int] = {}
        self._idle_tokens = 0
        self._needed: dict[int, tuple[Request, list[Encodable]]] = {}

    def new_step(self, state: EngineState) -> None:
        """Begin to plan a step: nobody needs features any more that prompts have passed, or that went with a prompt."""
        self._left = self._budget
        for index, (request, items) in list(self._needed.items()):
            runs = state.running.get(index) is request
            left = [item for item in items if runs and item.end > request.computed]
            for item in items[: len(items) - len(left)]:
                self._release(index, item)
            if left:
                self._needed[index] = request, left
            else:
                del self._needed[index]

    def _release(self, index: int, item: Encodable) -> None:
        users = self._users[item.content]
        users.discard(index)
        if not users:
            del self._users[item.content]
            self._idle[item.content] = item.tokens
            self._idle_tokens += item.tokens
            while self._idle_tokens > self._kept:
                self._drop()

    def _drop(self) -> None:
        """Let go what nobody needs for the longest time."""
        tokens = self._idle.pop(next(iter(self._idle)))
        self._idle_tokens -= tokens
        self._room += tokens

    def allow(self, request: Request, past: int, new: int) -> int:
        """Return how many of the next ``new`` tokens of a prompt a step can compute, and plan to encode what they need.

        Parameters
        ----------
        request
            Whose prompt.
        past
            Tokens that are computed or in the cache.
        new
            Tokens there is a budget for.
        """
        index = request.index
        for item in self._media.of(index):
            if item.end <= past:
                continue
            if item.start >= past + new:
                break
            if index in self._users.get(item.content, ()):
                continue
            if self._whole and past < item.start and past + new < item.end:
                return item.start - past
            if not self._has(item):
                if not self._fits(item):
                    return max(0, item.start - past)
                self._left -= item.tokens
                self._planned.append(item)
            else:
                self.hits += 1
            self.asked += 1
            self._keep(request, item)
        return new

    def _has(self, item: Encodable) -> bool:
        return item.content in self._users or item.content in self._idle

    def _fits(self, item: Encodable) -> bool:
        """Tell whether an image may be encoded in this step: there is a budget, and room once others are let go."""
        alone = not self._planned and not self._users
        return alone or (item.tokens <= self._left and item.tokens <= self._room + self._idle_tokens)

    def _keep(self, request: Request, item: Encodable) -> None:
        self._idle_no_more(item)
        self._users.setdefault(item.content, set()).add(request.index)
        found = self._needed.get(request.index)
        if found is None or found[0] is not request:
            found = self._needed[request.index] = request, []
        found[1].append(item)

    def _idle_no_more(self, item: Encodable) -> None:
        """Take the room of an image, from those that nobody needs where that is short."""
        if item.content in self._users:
            return
        if self._idle.pop(item.content, None) is None:
            self._room -= item.tokens
        else:
            self._idle_tokens -= item.tokens
        while self._room < 0 and self._idle:
            self._drop()

    def holds_up(self, state: EngineState) -> bool:  # noqa: ARG002 - none is made elsewhere
        """Return False: no prompt waits for features that others make."""
        return False

    def run(self, plan: Plan) -> int:
        """Begin to encode what the step of a plan needs; return how long that takes, ns."""
        if self._budget == inf:
            for request, new in plan.chunks:
                self.allow(request, request.computed, new)
        planned, self._planned = self._planned, []
        work = self.costs.slowest([item.seen for item in planned])
        duration_ns = self.costs.work_ns(work)
        if planned:
            self.log.add((self._env.now, duration_ns, 1, *work))
        return duration_ns


class EncodingInstance(Instance):
    """One engine that encodes images in its steps."""

    def price_chunks(self, plan: Plan) -> int:
        """Return how long a step that computes prompts lasts, the encoder first; it begins now."""
        duration_ns, media = super().price_chunks(plan), self.state.media
        encoding_ns = 0 if media is None else media.run(plan)
        if encoding_ns:
            for request, _ in plan.chunks:
                self.ledger.encoder_ns[request.index] += encoding_ns
            self.row[1] += encoding_ns
            self.log.note_longer(encoding_ns)
        return duration_ns + encoding_ns
