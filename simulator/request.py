"""A request while it is being served."""

from __future__ import annotations

__all__ = ["Request"]


class Request:
    """What an engine knows of a request: never how many tokens it will produce.

    True output lengths stay in the ledger, which schedulers cannot import, so that no policy can use them.

    Parameters
    ----------
    index
        Row of the request in the ledger; also its order of arrival.
    prompt_tokens
        Length of the prompt.

    Attributes
    ----------
    tokens
        Prompt and produced tokens that must be computed before the next token appears.
    computed
        Tokens whose KV is in the cache while the prompt is being processed.
    anchor
        While decoding: tokens in the cache minus the engine's step counter, a constant.
    epoch
        Times the request was preempted.
    stalled_ns
        When its last token appeared, if something other than a step came after that (a preemption, a
        transfer of its KV); else -1.
    remote
        Its KV is on another instance and must be fetched before it can decode here.
    loading
        It holds blocks here into which its KV is being fetched.
    """

    __slots__ = ("anchor", "computed", "epoch", "index", "loading", "remote", "stalled_ns", "tokens")

    def __init__(self, index: int, prompt_tokens: int) -> None:
        self.index = index
        self.tokens = prompt_tokens
        self.computed = 0
        self.anchor = 0
        self.epoch = 0
        self.stalled_ns = -1
        self.remote = self.loading = False

    def __repr__(self) -> str:
        return f"Request({self.index}, tokens={self.tokens}, computed={self.computed})"
