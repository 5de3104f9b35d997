"""Times in which sequences that decode wait because their engine computes prompts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Container, Sequence

    from simulator.records import Ledger
    from simulator.request import Request
    from simulator.schedulers.state import EngineState

__all__ = ["Standstill"]


class Standstill:
    """The standstill of one instance, if there is one.

    Parameters
    ----------
    ledger
        Where it is noted how long sequences waited.

    Attributes
    ----------
    since_ns
        When the last step ended in which sequences decoded; -1 while none waits.
    """

    __slots__ = ("_joined_ns", "_ledger", "since_ns")

    def __init__(self, ledger: Ledger) -> None:
        self.since_ns = -1
        self._joined_ns: dict[int, int] = {}
        self._ledger = ledger

    def begin(self, requests: Sequence[Request], now_ns: int, counts: array[int] | None = None) -> None:
        """Note, and count, when requests produced their last token that have none in the step planned now."""
        ledger = self._ledger
        for request in requests:
            if counts is not None:
                counts[request.index] += 1
            produced = request.tokens > ledger.prompt_tokens[request.index]
            if produced and request.stalled_ns < 0:
                request.stalled_ns = self.last_token_ns(request.index, now_ns)
            elif not produced and ledger.finish_ns[request.index] < 0:  # Its first token was lost, if it had one.
                ledger.first_token_ns[request.index] = ledger.told_ns[request.index] = -1

    def join(self, index: int, now_ns: int) -> None:
        """Note that a request produced a token, the first or one after a preemption, while others wait."""
        self._joined_ns[index] = now_ns

    def last_token_ns(self, index: int, last_step_ns: int) -> int:
        """Return when a decoding request produced its last token: ``last_step_ns`` where nothing stands still."""
        return last_step_ns if self.since_ns < 0 else self._joined_ns.get(index, self.since_ns)

    def end(self, decodes: int, running: Container[int], end_ns: int, step_ns: int) -> None:
        """Note how long each sequence waited for the token of the step that has ended the standstill.

        Parameters
        ----------
        decodes
            Sequences that decoded in that step.
        running
            Indices of the requests that run.
        end_ns, step_ns
            When it ended, and its duration.
        """
        for index, joined_ns in self._joined_ns.items():
            if index in running:
                self._ledger.pauses.add((end_ns, step_ns, end_ns - joined_ns, 1))
                decodes -= 1
        if decodes:
            self._ledger.pauses.add((end_ns, step_ns, end_ns - self.since_ns, decodes))
        self.since_ns = -1
        self._joined_ns.clear()

    def stop(self, state: EngineState, computing: Container[int], last_step_ns: int) -> None:
        """Let the requests of an engine that stops have what they produced, and note when that was.

        Parameters
        ----------
        state
            Of the engine.
        computing
            Indices of requests that compute prompts in the step under way, beside those that did before.
        last_step_ns
            When the last step ended.
        """
        for request in state.running.values():
            if request.index in state.held:
                request.computed = request.tokens
            elif request.index not in computing and request.index not in state.prefilling:
                state.leave_decode(request)
                request.computed = request.tokens = request.computed + 1
                if request.stalled_ns < 0:
                    request.stalled_ns = self.last_token_ns(request.index, last_step_ns)
        for request in state.ready:
            request.computed = request.tokens

    def end_stalls(self, requests: Sequence[Request], now_ns: int) -> int:
        """Note how long requests waited for the token that appears now; return how many of them get none."""
        nobody = 0
        for request in requests:
            if request.stalled_ns >= 0:
                self._ledger.note_gap(request.stalled_ns, now_ns)
            else:
                nobody += 1
            request.stalled_ns = -1
        return nobody
