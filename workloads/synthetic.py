"""A synthetic open-loop workload: arrival times and lengths drawn from distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from pydantic import Field, model_validator

from hardware.errors import ScenarioError
from workloads.arrivals import ArrivalProcess
from workloads.lengths import LengthDistribution
from workloads.limits import MAX_TOKENS
from workloads.media_draws import MediaDraws, draw_media
from workloads.sessions import Sessions, one_prefix, sizes_of, turns_of
from workloads.streams import stream
from workloads.table import Arrivals

if TYPE_CHECKING:
    from workloads.table import IntColumn

__all__ = ["Synthetic", "synthesize"]

_MOST_DRAWS: Final = 1000


class Synthetic(MediaDraws):
    """The ``[workload.synthetic]`` table, with what :class:`workloads.media_draws.MediaDraws` says of images.

    Attributes
    ----------
    requests
        Requests in all.
    arrivals
        When requests arrive; with ``sessions``, when conversations begin.
    prompt_tokens, output_tokens
        Lengths; with ``sessions``, ``prompt_tokens`` are what a turn says that is new.
    shared_prefix_tokens
        Tokens that every prompt begins with, the same ones, before its own ``prompt_tokens``.
    sessions
        Conversations of several turns; ``images`` are what a turn brings, before what it says, and later turns carry
        them again.
    total_tokens_max
        Longest prompt and output together: a longer pair is drawn again, as data sets are filtered by what a model can
        hold. Means of what remains are below those of the distributions.
    """

    requests: int = Field(gt=0)
    arrivals: ArrivalProcess
    prompt_tokens: LengthDistribution
    output_tokens: LengthDistribution
    shared_prefix_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS, strict=True)
    sessions: Sessions | None = None
    total_tokens_max: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _drawn_alone(self) -> Self:
        if self.total_tokens_max is not None and "listed" in {self.prompt_tokens.kind, self.output_tokens.kind}:
            raise ValueError("total_tokens_max draws lengths again, and listed ones are not drawn; shorten the list")
        if self.total_tokens_max is not None and self.sessions is not None:
            raise ValueError("total_tokens_max bounds requests one by one, but turns of sessions grow; set one of them")
        return self


def synthesize(spec: Synthetic, seed: int) -> Arrivals:
    """Return the workload a table describes.

    Arrivals, prompts and outputs have a random stream each: changing the distribution of one leaves the
    numbers of the others as they were.

    Parameters
    ----------
    spec
        The table.
    seed
        The scenario's seed, zero or more.

    Raises
    ------
    ScenarioError
        When the arrivals would last over 146 years, or hardly a pair of lengths keeps ``total_tokens_max``.
    """
    own_tokens, output_tokens = _lengths(spec, seed)
    media = draw_media(spec, spec.requests, seed)
    source = f"synthetic ({spec.arrivals.kind} arrivals, seed {seed})"
    if spec.sessions is not None:
        turns = sizes_of(spec.sessions, spec.requests, seed)
        return turns_of(
            spec.sessions,
            first_ns=spec.arrivals.times_ns(stream(seed, "arrivals"), turns.size),
            turns=turns,
            said_tokens=own_tokens,
            output_tokens=output_tokens,
            shared_tokens=spec.shared_prefix_tokens,
            source=source,
            seed=seed,
            media=media,
        )
    return Arrivals(
        arrival_ns=spec.arrivals.times_ns(stream(seed, "arrivals"), spec.requests),
        prompt_tokens=spec.shared_prefix_tokens + own_tokens + (0 if media is None else media.tokens_of_requests()),
        media=media,
        output_tokens=output_tokens,
        prefixes=one_prefix(own_tokens, spec.shared_prefix_tokens),
        source=source,
    )


def _lengths(spec: Synthetic, seed: int) -> tuple[IntColumn, IntColumn]:
    """Return each request's own prompt tokens and its output tokens, int64 of shape (requests,)."""
    sides = (spec.prompt_tokens, stream(seed, "prompt_tokens")), (spec.output_tokens, stream(seed, "output_tokens"))
    prompts, outputs = (lengths.sample(rng, spec.requests) for lengths, rng in sides)
    if spec.total_tokens_max is None:
        return prompts, outputs
    for _ in range(_MOST_DRAWS):
        over = spec.shared_prefix_tokens + prompts + outputs > spec.total_tokens_max
        again = int(over.sum())
        if not again:
            return prompts, outputs
        prompts[over], outputs[over] = (lengths.sample(rng, again) for lengths, rng in sides)
    raise ScenarioError(
        f"workload.synthetic.total_tokens_max is {spec.total_tokens_max}, which hardly a pair of prompt_tokens and "
        "output_tokens keeps; raise it, or shorten them"
    )
