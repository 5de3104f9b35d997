"""A synthetic open-loop workload: arrival times and lengths drawn from distributions."""

from __future__ import annotations

from pydantic import Field

from hardware.strict import Strict
from workloads.arrivals import ArrivalProcess
from workloads.lengths import LengthDistribution
from workloads.limits import MAX_TOKENS
from workloads.sessions import Sessions, one_prefix, sizes_of, turns_of
from workloads.streams import stream
from workloads.table import Arrivals

__all__ = ["Synthetic", "synthesize"]


class Synthetic(Strict):
    """The ``[workload.synthetic]`` table.

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
        Conversations of several turns.
    """

    requests: int = Field(gt=0)
    arrivals: ArrivalProcess
    prompt_tokens: LengthDistribution
    output_tokens: LengthDistribution
    shared_prefix_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS, strict=True)
    sessions: Sessions | None = None


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
        When the arrivals would last over 146 years.
    """
    own_tokens = spec.prompt_tokens.sample(stream(seed, "prompt_tokens"), spec.requests)
    output_tokens = spec.output_tokens.sample(stream(seed, "output_tokens"), spec.requests)
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
        )
    return Arrivals(
        arrival_ns=spec.arrivals.times_ns(stream(seed, "arrivals"), spec.requests),
        prompt_tokens=spec.shared_prefix_tokens + own_tokens,
        output_tokens=output_tokens,
        prefixes=one_prefix(own_tokens, spec.shared_prefix_tokens),
        source=source,
    )
