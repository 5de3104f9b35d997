"""A closed-loop workload: a fixed number of users, each sending its next request when one finishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from workloads.durations import DurationDistribution, FixedSeconds
from workloads.lengths import LengthDistribution
from workloads.limits import NS_PER_S
from workloads.media_draws import MediaDraws, draw_media
from workloads.streams import stream

if TYPE_CHECKING:
    from workloads.media import Media
    from workloads.table import IntColumn

__all__ = ["ClosedLoop", "ClosedLoopPlan", "plan_closed_loop"]


class ClosedLoop(MediaDraws):
    """The ``[workload.closed_loop]`` table, with what :class:`workloads.media_draws.MediaDraws` says of images."""

    concurrency: int = Field(gt=0)
    requests: int = Field(gt=0)
    prompt_tokens: LengthDistribution
    output_tokens: LengthDistribution
    think_time_s: DurationDistribution = FixedSeconds(value=0)


@dataclass(frozen=True, slots=True, eq=False)
class ClosedLoopPlan:
    """What the users send, as columns of n 64-bit integers in the order of sending.

    Attributes
    ----------
    concurrency
        Users; the first ``concurrency`` requests are sent at time zero.
    prompt_tokens, output_tokens
        int64[n], at least 1 each.
    think_ns
        int64[n], times between an answer and the next request of its user; the first ``concurrency`` are
        not used, the others are taken in the order answers end.
    media
        What requests carry besides text, if anything.
    """

    concurrency: int
    prompt_tokens: IntColumn
    output_tokens: IntColumn
    think_ns: IntColumn
    media: Media | None = None

    def __len__(self) -> int:
        return self.prompt_tokens.size


def plan_closed_loop(spec: ClosedLoop, seed: int) -> ClosedLoopPlan:
    """Return the lengths and think times a table describes, each from a random stream of its own.

    Parameters
    ----------
    spec
        The table.
    seed
        The scenario's seed, zero or more.
    """
    think_s = spec.think_time_s.sample_s(stream(seed, "think_time_s"), spec.requests)
    media = draw_media(spec, spec.requests, seed)
    text_tokens = spec.prompt_tokens.sample(stream(seed, "prompt_tokens"), spec.requests)
    return ClosedLoopPlan(
        concurrency=spec.concurrency,
        prompt_tokens=text_tokens if media is None else text_tokens + media.tokens_of_requests(),
        media=media,
        output_tokens=spec.output_tokens.sample(stream(seed, "output_tokens"), spec.requests),
        think_ns=np.rint(think_s * NS_PER_S).astype(np.int64),
    )
