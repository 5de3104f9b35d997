"""A synthetic open-loop workload: arrival times and lengths drawn from distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from pydantic import Field, model_validator

from hardware.errors import ScenarioError
from hardware.strict import Strict
from workloads.arrivals import ArrivalProcess
from workloads.lengths import LengthDistribution
from workloads.streams import stream
from workloads.table import Arrivals

if TYPE_CHECKING:
    from workloads.table import IntColumn

__all__ = ["Synthetic", "synthesize"]


_MOST_DRAWS: Final = 1000


class Synthetic(Strict):
    """The ``[workload.synthetic]`` table.

    Attributes
    ----------
    requests, arrivals
        How many, and when.
    prompt_tokens, output_tokens
        Lengths, drawn independently.
    total_tokens_max
        Longest prompt and output together: a longer pair is drawn again, as data sets are filtered by what a model can
        hold. Means of what remains are below those of the distributions.
    """

    requests: int = Field(gt=0)
    arrivals: ArrivalProcess
    prompt_tokens: LengthDistribution
    output_tokens: LengthDistribution
    total_tokens_max: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _drawn(self) -> Self:
        kinds = {self.prompt_tokens.kind, self.output_tokens.kind}
        if self.total_tokens_max is not None and "listed" in kinds:
            raise ValueError("total_tokens_max draws lengths again, and listed ones are not drawn; shorten the list")
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
    prompts, outputs = _lengths(spec, seed)
    return Arrivals(
        arrival_ns=spec.arrivals.times_ns(stream(seed, "arrivals"), spec.requests),
        prompt_tokens=prompts,
        output_tokens=outputs,
        source=f"synthetic ({spec.arrivals.kind} arrivals, seed {seed})",
    )


def _lengths(spec: Synthetic, seed: int) -> tuple[IntColumn, IntColumn]:
    """Return prompt and output tokens, int64 of shape (requests,)."""
    sides = (spec.prompt_tokens, stream(seed, "prompt_tokens")), (spec.output_tokens, stream(seed, "output_tokens"))
    prompts, outputs = (lengths.sample(rng, spec.requests) for lengths, rng in sides)
    if spec.total_tokens_max is None:
        return prompts, outputs
    for _ in range(_MOST_DRAWS):
        over = prompts + outputs > spec.total_tokens_max
        again = int(over.sum())
        if not again:
            return prompts, outputs
        prompts[over], outputs[over] = (lengths.sample(rng, again) for lengths, rng in sides)
    raise ScenarioError(
        f"workload.synthetic.total_tokens_max is {spec.total_tokens_max}, which hardly a pair of prompt_tokens and "
        "output_tokens keeps; raise it, or shorten them"
    )
