"""A request while it is being served."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.pieces import Piece

__all__ = ["Request"]


class Request:
    """What an engine knows of a request: never how many tokens it will produce.

    True output lengths stay in the ledger, which schedulers cannot import, so that no policy can use them.

    Parameters
    ----------
    index
        Row of the request in the ledger.
    prompt_tokens
        Length of the prompt.
    longest
        The most tokens it may have in the end, prompt and answer, as its client says; no promise that it will.

    Attributes
    ----------
    tokens
        Prompt and produced tokens that must be computed before the next token appears.
    computed
        Tokens whose KV is in the cache while the prompt is being processed.
    anchor
        While decoding: tokens in the cache minus the engine's step counter, a constant.
    stint
        Times it stopped decoding, or stood still.
    order
        How many arrived before it.
    priority
        Lower is more urgent, for policies that look at it.
    turn
        Its place among the requests of its instance in the order they came, for policies that look at it.
    epoch
        Times its KV was lost and its tokens are to be computed anew: preempted, or lost with an instance or a transfer.
    stalled_ns
        When its last token appeared, if something other than a step came after that (a preemption, a
        transfer of its KV); else -1.
    remote
        Its KV is on another instance and must be fetched before it can decode here.
    loading
        It holds blocks here into which its KV is being fetched.
    session
        Number of its conversation; -1 where it belongs to none, or nobody looks.
    prefix
        What its prompt begins with: identities of consecutive spans of tokens, each of which stands for its
        tokens and everything before them, so that equal identities are equal prefixes. Empty where they are
        unknown, or nobody looks.
    prefix_ends
        Tokens from the start of the prompt to the end of each span.
    named
        Another prompt goes on from its answer, so that it may be looked for after the request is gone.
    found
        Tokens whose KV was here already when it was admitted.
    pieces, held
        Blocks it holds that can be found by others, and how many; see :mod:`simulator.prefix_cache`.
    """

    __slots__ = (
        "anchor",
        "computed",
        "epoch",
        "found",
        "held",
        "index",
        "loading",
        "longest",
        "named",
        "order",
        "own_content",
        "pieces",
        "prefix",
        "prefix_ends",
        "priority",
        "remote",
        "session",
        "stalled_ns",
        "stint",
        "tokens",
        "turn",
    )

    def __init__(self, index: int, prompt_tokens: int, longest: int = 1 << 30) -> None:
        self.index = self.order = index
        self.own_content = -1 - index
        self.longest = longest
        self.tokens = prompt_tokens
        self.computed = 0
        self.anchor = 0
        self.epoch = self.stint = self.priority = self.turn = 0
        self.stalled_ns = -1
        self.remote = self.loading = False
        self.session = -1
        self.prefix: tuple[int, ...] = ()
        self.prefix_ends: tuple[int, ...] = ()
        self.named = False
        self.pieces: list[Piece] = []
        self.held = self.found = 0

    @property
    def missing(self) -> int:
        """Tokens whose KV must be fetched from where the prompt was computed: those that were not here already."""
        return self.tokens - 1 - self.found

    def going_on(self) -> Request:
        """Return the request as an instance knows it that decodes what this one had computed."""
        request = Request(self.index, self.tokens + 1, self.longest)
        request.order, request.priority = self.order, self.priority
        request.remote, request.session, request.named = True, self.session, self.named
        request.prefix, request.prefix_ends = self.prefix, self.prefix_ends
        return request

    def forget_blocks(self) -> None:
        """Hold nothing any more: the instance is gone."""
        self.computed = self.found = self.held = 0
        self.pieces = []

    def __repr__(self) -> str:
        return f"Request({self.index}, tokens={self.tokens}, computed={self.computed})"
