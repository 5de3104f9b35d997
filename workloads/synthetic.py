"""A synthetic open-loop workload: arrival times and lengths drawn from distributions."""

from __future__ import annotations

from pydantic import Field

from hardware.strict import Strict
from workloads.arrivals import ArrivalProcess
from workloads.lengths import LengthDistribution
from workloads.streams import stream
from workloads.table import Arrivals

__all__ = ["Synthetic", "synthesize"]


class Synthetic(Strict):
    """The ``[workload.synthetic]`` table."""

    requests: int = Field(gt=0)
    arrivals: ArrivalProcess
    prompt_tokens: LengthDistribution
    output_tokens: LengthDistribution


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
    return Arrivals(
        arrival_ns=spec.arrivals.times_ns(stream(seed, "arrivals"), spec.requests),
        prompt_tokens=spec.prompt_tokens.sample(stream(seed, "prompt_tokens"), spec.requests),
        output_tokens=spec.output_tokens.sample(stream(seed, "output_tokens"), spec.requests),
        source=f"synthetic ({spec.arrivals.kind} arrivals, seed {seed})",
    )
