"""Prompts that begin before all features of their images are there: which images of whom are missing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hardware.errors import LawError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulator.request import Request
    from simulator.request_media import RequestMedia
    from simulator.schedulers.plan import Plan
    from simulator.schedulers.state import EngineState
    from simulator.server import Server

__all__ = ["ArrivingFeatures"]


class ArrivingFeatures:
    """Lets each prompt be computed up to the first image that is missing, in engines whose images others encode.

    It is a :class:`simulator.schedulers.media_budget.MediaBudget`.
    Source of the mechanism: RServe (arXiv 2509.24381) and gLLM's encoder disaggregation; vLLM's scheduler ends a chunk
    before an image that it cannot use yet (``_try_schedule_encoder_inputs``).

    Parameters
    ----------
    media
        What requests carry.
    """

    def __init__(self, media: RequestMedia) -> None:
        self._media = media
        self._missing: dict[int, set[int]] = {}

    def begins(self, index: int, there: set[int]) -> int:
        """Return how many tokens stand before the first image of a request that is not among those there."""
        starts = [item.start for item in self._media.of(index) if item.content not in there]
        return min(starts, default=1 << 62)

    def expect(self, index: int, contents: Iterable[int]) -> None:
        """Let contents of a request be missing, and no others."""
        self._missing.pop(index, None)
        if missing := set(contents):
            self._missing[index] = missing

    def tell(self, server: Server, request: Request, content: int) -> None:
        """Let an engine know, when it next looks, that the features of a content are there that a prompt waits for."""
        try:
            core = server.cores[server.rank_of(request)]
        except KeyError:
            # The image was in the cache, and the request has left its rank without it.
            return
        core.note(partial(self._arrived, content), request, changes=True)

    def _arrived(self, content: int, request: Request) -> bool:
        """Let a content be there that was missing; it may change the plan.

        Raises
        ------
        LawError
            If some of it has been computed already that was not in the cache.
        """
        missing = self._missing.get(request.index)
        if missing is None or content not in missing:
            return False
        missing.discard(content)
        for item in self._media.of(request.index):
            cached = request.found >= item.end
            if item.content == content and not cached and request.computed > max(item.start, request.found):
                raise LawError(f"request {request.index} computed an image at token {item.start} before it was there")
        if not missing:
            del self._missing[request.index]
        return True

    def new_step(self, state: EngineState) -> None:
        """Begin to plan a step."""

    def allow(self, request: Request, past: int, new: int) -> int:
        """Return how many of the next ``new`` tokens of a prompt stand before an image that is missing."""
        missing = self._missing.get(request.index)
        if missing:
            for item in self._media.of(request.index):
                if item.content in missing and item.end > past:
                    return max(0, min(new, item.start - past))
        return new

    def run(self, plan: Plan) -> int:  # noqa: ARG002 - others encode
        """Return 0: nothing is encoded here."""
        return 0

    def holds_up(self, state: EngineState) -> bool:
        """Tell whether a prompt in progress, or one that could begin, waits for features."""
        return any(request.index in self._missing for request in (*state.prefilling.values(), *state.waiting))
